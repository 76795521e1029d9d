"""Did experts specialise: the answer box's sentences, each with its numbers and intervals."""

from collections.abc import Iterator, Sequence

from moe_emergence.analysis.comparisons import InformationDifferenceRow
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE, InformationRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import ClassInformationRow
from moe_emergence.report.numbers import (
    GAP,
    count,
    interval,
    listed,
    loss,
    percent_range,
    plural,
    points_interval,
    span,
)
from moe_emergence.report.verdicts import (
    arms_of,
    at_the_end,
    corrected_share,
    final_information,
    fresh_range,
    null_range,
    share_with_interval,
    verdict_phrase,
)

_EXAMPLES = {
    "Python": "keyword, identifier, operator",
    "mathematics": "number, variable, operator",
    "prose": "function word, content word, name",
}
"""Of each scheme's classes."""


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
    if tables.information_changes:
        yield _change_sentence(tables.information_changes)
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
    told = listed([layer_information(mine) for mine in layers])
    fresh = [found for mine in layers if (found := _fresh(mine))]
    gates = f"untrained gates on the same hidden states reach {listed(fresh)}" if fresh else ""
    permuted = f"documents with permuted domains {union_of([null_range(row) for row in rows])}"
    nulls = f"{gates}, {permuted}" if gates else f"{permuted} are reached by chance"
    whole = f"all there is to know of its domain (H(D) = {loss(rows[0].maximum)} bits)"
    return f"A token's expert tells {told} of {whole}; {nulls}."


def layer_information(rows: Sequence[InformationRow]) -> str:
    """`8.4 % [7.8, 9.0] in layer 3 (0.133 bits)`, or the range over seeds with the ends of their intervals."""
    first = rows[0]
    if len(rows) == 1:
        return f"{share_with_interval(first)} in layer {first.layer} ({loss(first.corrected)} bits)"
    shares = percent_range(min(map(corrected_share, rows)), max(map(corrected_share, rows)))
    ends = percent_range(min(row.low_share for row in rows), max(row.high_share for row in rows))
    return f"{shares} (intervals within {ends}) in layer {first.layer} over {len(rows)}{GAP}seeds"


def _fresh(rows: Sequence[InformationRow]) -> str:
    """What fresh gates of one layer reach, over its seeds; empty where they were not recorded."""
    found = [ends for row in rows if (ends := fresh_range(row)) is not None]
    return f"{union_of(found)} in layer {rows[0].layer}" if found else ""


def union_of(ranges: Sequence[tuple[float, float]]) -> str:
    """From the lowest to the highest of some shares' ranges."""
    return percent_range(min(low for low, _ in ranges), max(high for _, high in ranges))


def _strongest(rows: Sequence[InformationRow]) -> str:
    top = max(rows, key=corrected_share)
    several = len({row.seed for row in rows}) > 1
    where = f"layer {top.layer}{f' of seed {top.seed}' if several else ''}"
    return f"{'up to ' if len(rows) > 1 else ''}{share_with_interval(top)}, in {where}"


def _difference_sentence(rows: Sequence[InformationDifferenceRow]) -> str:
    """`Compared with moe, in percentage points of the same: no_lb +1.2 [−0.1, 2.4] in layer 2 and …`."""
    parts = []
    for arm in arms_of(rows):
        mine = [row for row in rows if row.arm == arm]
        early = mine[0].step != mine[0].against_step
        steps = f" (at step {count(mine[0].step)} against {count(mine[0].against_step)})" if early else ""
        parts.append(f"{arm}{_own_seeds(mine, rows)} {_points(mine)}{steps}")
    return (
        f"Compared with {rows[0].against}, in percentage points of the same{_all_seeds(rows)}: {'; '.join(parts)}. "
        f"{_not_shown([row.p_holm for row in rows])}"
    )


def _change_sentence(rows: Sequence[InformationDifferenceRow]) -> str:
    """`Since step 0, in percentage points of the same: moe +6.5 [3.8, 9.2] in layer 2 and …`."""
    parts = []
    for arm in arms_of(rows):
        mine = [row for row in rows if row.arm == arm]
        parts.append(f"{arm}{_own_seeds(mine, rows)} {_points(mine)}")
    return (
        f"Since the same runs' step 0, in percentage points of the same{_all_seeds(rows)}: {'; '.join(parts)}. "
        f"{_not_shown([row.p_holm for row in rows])} A change is from one gate to another: what untrained gates show "
        "too is not called learned."
    )


def _points(rows: Sequence[InformationDifferenceRow]) -> str:
    """One arm's layers."""
    return listed([f"{points_interval(row.share, row.low_share, row.high_share)} in layer {row.layer}" for row in rows])


def _all_seeds(rows: Sequence[InformationDifferenceRow]) -> str:
    """How many seeds every value is the mean of, where it is the same for all."""
    numbers = {row.seeds for row in rows}
    return f" (means of {rows[0].seeds}{GAP}seeds)" if len(numbers) == 1 and rows[0].seeds > 1 else ""


def _own_seeds(
    mine: Sequence[InformationDifferenceRow],
    rows: Sequence[InformationDifferenceRow],
) -> str:
    """How many seeds an arm's values are the mean of, where arms differ in it."""
    return f" ({plural(mine[0].seeds, 'seed')})" if len({row.seeds for row in rows}) > 1 else ""


def _not_shown(p_values: Sequence[float]) -> str:
    unclear = sum(p >= ALPHA for p in p_values)
    if not unclear:
        return f"{'All are' if len(p_values) > 1 else 'It is'} beyond chance (p < {ALPHA}, Holm over layers)."
    if unclear == len(p_values):
        return f"{'None is' if unclear > 1 else 'It is not'} shown to differ from 0 (p ≥ {ALPHA}, Holm over layers)."
    are = "is" if unclear == 1 else "are"
    return f"{unclear} of these {len(p_values)} {are} not shown to differ from 0 (p ≥ {ALPHA}, Holm over layers)."


def _classes(tables: Tables, arm: str) -> Iterator[str]:
    """How far this arm's experts tell each domain's classes of tokens, in the layer where it is most, over its seeds.

    The layer is the best of several, so its p-values are multiplied by how many there are.
    """
    known = [row for row in tables.class_information if row.arm == arm and row.counted == FIRST_CHOICE]
    rows = at_the_end(known)
    for domain in dict.fromkeys(row.domain for row in rows):
        layers: dict[int, list[ClassInformationRow]] = {}
        for row in rows:
            if row.domain == domain:
                layers.setdefault(row.layer, []).append(row)
        best = max(layers.values(), key=lambda mine: sum(row.estimate for row in mine))
        before = [row for row in known if row.step == 0 and (row.layer, row.domain) == (best[0].layer, domain)]
        yield _class_sentence(arm, best, before, sum(row.p * len(layers) < ALPHA for row in best))


def _class_sentence(
    arm: str, rows: Sequence[ClassInformationRow], before: Sequence[ClassInformationRow], beyond_chance: int
) -> str:
    first, seeds = rows[0], len(rows)
    bits = f"{_class_bits(rows)} bits{f' over {seeds}{GAP}seeds' if seeds > 1 else ''}"
    if not beyond_chance:
        tell = f"{arm}'s experts are not shown to tell a token's class beyond chance"
        return f"Within {first.domain}, {tell} (up to {bits})."
    shares = [row.estimate / row.maximum for row in rows if row.maximum]
    share = f", {percent_range(min(shares), max(shares))} of all there is to know" if shares else ""
    often = f" in {beyond_chance} of {seeds}{GAP}seeds" if seeds > 1 else ""
    return (
        f"Within {first.domain}, {arm}'s experts tell {bits} of a token's class ({_EXAMPLES[first.scheme]}, …)"
        f"{share}, in layer {first.layer}: more than chance{often} (p < {ALPHA}, adjusted for layers). "
        f"The same runs' untrained gates, at step 0, told {_class_bits(before)} bits."
    )


def _class_bits(rows: Sequence[ClassInformationRow]) -> str:
    """`0.256 [0.210, 0.299]` of one seed, `0.236 to 0.291` of several."""
    if len(rows) == 1:
        return interval(rows[0].estimate, rows[0].low, rows[0].high)
    return span([row.estimate for row in rows], loss)
