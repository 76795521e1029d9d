"""Did experts specialise: the answer box's sentences, each with its numbers and intervals."""

from collections.abc import Iterator, Sequence

from moe_emergence.analysis.comparisons import InformationDifferenceRow
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE, InformationRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import ClassInformationRow
from moe_emergence.report.numbers import (
    GAP,
    interval,
    listed,
    loss,
    percent_range,
    points_interval,
    span,
)
from moe_emergence.report.verdicts import (
    arms_of,
    corrected_share,
    final_information,
    fresh_range,
    null_range,
    share_with_interval,
    verdict_phrase,
)


def specialisation_sentences(tables: Tables) -> Iterator[str]:
    """The verdict on the first arm with experts with its numbers; then the others, differences, and token classes."""
    arms = arms_of(tables.verdicts)
    if not arms:
        if tables.routing:
            yield "Not measured: it takes two domains, each with two held-out documents or more."
        return
    first, *others = arms
    verdict = verdict_phrase([row for row in tables.verdicts if row.arm == first])
    yield f"{first}: {verdict}. {_numbers(final_information(tables, first))}"
    for against in dict.fromkeys(row.against for row in tables.information_differences):
        yield _difference_sentence([row for row in tables.information_differences if row.against == against])
    if others:
        yield " ".join(_short_sentence(tables, arm) for arm in others)
    yield from _classes(tables, first)


def _short_sentence(tables: Tables, arm: str) -> str:
    """One arm's verdicts with the most that one of its layers shows."""
    verdict = verdict_phrase([row for row in tables.verdicts if row.arm == arm])
    return f"{arm}: {verdict} ({_strongest(final_information(tables, arm))})."


def _numbers(rows: Sequence[InformationRow]) -> str:
    """What each layer of one arm shows over its seeds, and what both nulls reach."""
    layers = [[row for row in rows if row.layer == layer] for layer in sorted({row.layer for row in rows})]
    told = listed([_layer(mine) for mine in layers])
    fresh = [found for row in rows if (found := fresh_range(row)) is not None]
    gates = f"untrained gates on the same hidden states reach {_union(fresh)}" if fresh else ""
    permuted = f"documents with permuted domains {_union([null_range(row) for row in rows])}"
    nulls = f"{gates}, {permuted}" if gates else f"{permuted} are reached by chance"
    whole = f"all there is to know of its domain (H(D) = {loss(rows[0].maximum)} bits)"
    return f"A token's expert tells {told} of {whole}; {nulls}."


def _layer(rows: Sequence[InformationRow]) -> str:
    """`8.4 % [7.8, 9.0] in layer 3 (0.133 bits)`, or the range over seeds with the ends of their intervals."""
    first = rows[0]
    if len(rows) == 1:
        return f"{share_with_interval(first)} in layer {first.layer} ({loss(first.corrected)} bits)"
    shares = percent_range(min(map(corrected_share, rows)), max(map(corrected_share, rows)))
    ends = percent_range(min(row.low_share for row in rows), max(row.high_share for row in rows))
    return f"{shares} (intervals within {ends}) in layer {first.layer} over {len(rows)}{GAP}seeds"


def _union(ranges: Sequence[tuple[float, float]]) -> str:
    return percent_range(min(low for low, _ in ranges), max(high for _, high in ranges))


def _strongest(rows: Sequence[InformationRow]) -> str:
    top = max(rows, key=corrected_share)
    several = len({row.seed for row in rows}) > 1
    where = f"layer {top.layer}{f' of seed {top.seed}' if several else ''}"
    return f"{'at most ' if len(rows) > 1 else ''}{share_with_interval(top)}, in {where}"


def _difference_sentence(rows: Sequence[InformationDifferenceRow]) -> str:
    """`Compared with moe, in percentage points of the same: no_lb +1.2 [−0.1, 2.4] in layer 2 and …`."""
    parts = []
    for arm in arms_of(rows):
        mine = [row for row in rows if row.arm == arm]
        layers = [f"{points_interval(row.share, row.low_share, row.high_share)} in layer {row.layer}" for row in mine]
        parts.append(f"{arm} {listed(layers)}")
    seeds = f" (means of {rows[0].seeds}{GAP}seeds)" if rows[0].seeds > 1 else ""
    unclear = sum(row.low <= 0 <= row.high for row in rows)
    zero = f" {unclear} of these {len(rows)} intervals include 0." if unclear else " No interval includes 0."
    return (
        f"Compared with {rows[0].against}, in percentage points of the same{seeds}: {'; '.join(parts)}."
        f"{zero if len(rows) > 1 else ' It includes 0.' if unclear else ''}"
    )


def _classes(tables: Tables, arm: str) -> Iterator[str]:
    """How far this arm's experts tell the classes of code tokens, in the layer where it is most, over its seeds.

    The layer is the best of several, so its p-values are multiplied by how many there are.
    """
    rows = [row for row in tables.class_information if row.arm == arm and row.counted == FIRST_CHOICE]
    for domain in dict.fromkeys(row.domain for row in rows):
        layers: dict[int, list[ClassInformationRow]] = {}
        for row in rows:
            if row.domain == domain:
                layers.setdefault(row.layer, []).append(row)
        best = max(layers.values(), key=lambda mine: sum(row.estimate for row in mine))
        yield _class_sentence(arm, best, sum(row.p * len(layers) < ALPHA for row in best))


def _class_sentence(arm: str, rows: Sequence[ClassInformationRow], beyond_chance: int) -> str:
    first, seeds = rows[0], len(rows)
    if seeds == 1:
        bits = f"{interval(first.estimate, first.low, first.high)} bits"
    else:
        bits = f"{span([row.estimate for row in rows], loss)} bits over {seeds}{GAP}seeds"
    if not beyond_chance:
        return f"Within {first.domain}, {arm}'s experts do not tell a token's class beyond chance (at most {bits})."
    shares = [row.estimate / row.maximum for row in rows if row.maximum]
    share = f", {percent_range(min(shares), max(shares))} of all there is to know" if shares else ""
    often = f" in {beyond_chance} of {seeds}{GAP}seeds" if seeds > 1 else ""
    return (
        f"Within {first.domain}, {arm}'s experts tell {bits} of a token's class (keyword, identifier, operator, …)"
        f"{share}, in layer {first.layer}: more than chance{often} (p < {ALPHA}, adjusted for layers). "
        "How much untrained gates would tell was not measured."
    )
