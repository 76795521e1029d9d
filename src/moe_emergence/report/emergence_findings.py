"""What the Emergence section's curves show, in a sentence for each layer and seed that a reader may choose."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from moe_emergence.analysis.specialisation import InformationRow
from moe_emergence.report.verdicts import corrected_share, share_with_interval
from moe_emergence.report.visible import visible


def findings(
    rows: Iterable[InformationRow], seeds: Sequence[int], layers: Sequence[int]
) -> Iterator[dict[str, object]]:
    """Of every seed and layer: `where` its curves are (`layer 3, seed 43`) and the `text` of what they show.

    Args:
        rows: first choices at every traced step that could be measured.
        seeds: of the section; where there is one alone, no sentence names it.
    """
    given = list(rows)
    for seed, layer in product(seeds, layers):
        where = f"layer {layer}" + (f", seed {seed}" if len(seeds) > 1 else "")
        found = _finding([row for row in given if (row.seed, row.layer) == (seed, layer)])
        yield {"seed": seed, "layer": layer, "where": where, "text": f"{where[0].upper()}{where[1:]}: {found}"}


def _finding(rows: Sequence[InformationRow]) -> str:
    """The arm that has most at its own last step, and where it began."""
    if not rows:
        return "domain information and drift"
    last = {row.arm: row for row in sorted(rows, key=lambda row: row.step)}
    top = max(last.values(), key=corrected_share)
    first = min((row for row in rows if row.arm == top.arm), key=lambda row: row.step)
    before = f", from {share_with_interval(first)}" if first.step < top.step else ""
    return f"most domain information at the end: {visible(top.arm)}: {share_with_interval(top)} of H(D){before}"
