"""Did experts specialise: the answer box's sentences, each with its numbers and intervals."""

from collections.abc import Iterator, Sequence

from moe_emergence.analysis.arm_verdicts import ArmVerdictRow
from moe_emergence.analysis.comparisons import InformationDifferenceRow
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import ClassInformationRow
from moe_emergence.report.numbers import (
    GAP,
    count,
    interval,
    listed,
    loss,
    p_value,
    percent_range,
    plural,
    span,
)
from moe_emergence.report.verdicts import (
    arm_verdicts,
    arms_of,
    at_the_end,
    corrected_share,
    fresh_range,
    largest_p,
    null_range,
    points_over_seeds,
    share_with_interval,
    single_runs,
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
    arms = arms_of(tables.arm_verdicts)
    if not arms:
        if tables.routing:
            yield "Not measured: it takes two domains, each with two held-out documents or more."
        return
    first, *others = arms
    yield f"{first}: {verdict_phrase(arm_verdicts(tables, first))}. {_numbers(arm_verdicts(tables, first))}"
    if runs := single_runs(tables):
        yield runs
    if tables.information_changes:
        yield _change_sentence(tables.information_changes)
    for against in dict.fromkeys(row.against for row in tables.information_differences):
        yield _difference_sentence([row for row in tables.information_differences if row.against == against])
    if others:
        yield " ".join(_short_sentence(tables, arm) for arm in others)
    yield from _classes(tables, first)


def _short_sentence(tables: Tables, arm: str) -> str:
    """One arm's verdicts with the most that one of its layers shows."""
    rows = arm_verdicts(tables, arm)
    top = strongest(rows)
    most = f"{'up to ' if len(rows) > 1 else ''}{share_with_interval(top)}, in layer {top.layer}"
    return f"{arm}: {verdict_phrase(rows)} ({most}{_single_seeds(top, '; ')})."


def strongest(rows: Sequence[ArmVerdictRow]) -> ArmVerdictRow:
    """The layer that tells most of the domain."""
    return max(rows, key=corrected_share)


def _numbers(rows: Sequence[ArmVerdictRow]) -> str:
    """What each layer of one arm shows, and what both nulls reach."""
    told = listed([layer_information(row) for row in rows])
    fresh = listed([f"{percent_range(*ends)} in layer {row.layer}" for row in rows if (ends := fresh_range(row))])
    permuted = union_of([null_range(row) for row in rows])
    whole = f"all there is to know of its domain (H(D) = {loss(rows[0].maximum)} bits)"
    return (
        f"A token's expert tells {told} of {whole}; {untrained(rows)} reach {fresh}, documents with permuted domains "
        f"{permuted}. {_largest(rows)}. {_specific(rows)}."
    )


def _largest(rows: Sequence[ArmVerdictRow]) -> str:
    """The p-value that decides, of each layer."""
    told = listed([f"{p_value(largest_p(row))} in layer {row.layer}" for row in rows])
    return f"Adjusted for layers and arms, the largest p-value against these is {told}"


def _specific(rows: Sequence[ArmVerdictRow]) -> str:
    """Whether experts matter to their domains, of each layer."""
    tested = [(row.layer, row.p_specific_arms) for row in rows if row.p_specific_arms is not None]
    if not tested:
        return "What rerouting experts costs was not measured in every run, without which none is called specialised"
    told = listed([f"{p_value(p)} in layer {layer}" for layer, p in tested])
    return f"That rerouting no expert costs its own domain more than the others has a p-value of {told}"


def untrained(rows: Sequence[ArmVerdictRow]) -> str:
    """What fresh gates are called: of several seeds it is the mean of as many that is compared."""
    several = f", {rows[0].seeds} at a time averaged," if rows[0].seeds > 1 else ""
    return f"untrained gates on the same hidden states{several}"


def layer_information(row: ArmVerdictRow) -> str:
    """`8.4 % [7.8, 9.0] in layer 3 (0.133 bits)`, of several seeds with the smallest and the largest."""
    return f"{share_with_interval(row)} in layer {row.layer} ({loss(row.corrected)} bits{_single_seeds(row, '; ')})"


def _single_seeds(row: ArmVerdictRow, before: str) -> str:
    """`single seeds 11.3 to 20.4 %`; nothing of one seed."""
    if row.seeds == 1:
        return ""
    return f"{before}single seeds {percent_range(row.seed_low / row.maximum, row.seed_high / row.maximum)}"


def union_of(ranges: Sequence[tuple[float, float]]) -> str:
    """From the lowest to the highest of some shares' ranges."""
    return percent_range(min(low for low, _ in ranges), max(high for _, high in ranges))


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
        f"{_not_shown(rows)}"
    )


def _change_sentence(rows: Sequence[InformationDifferenceRow]) -> str:
    """`Since step 0, in percentage points of the same: moe +6.5 [3.8, 9.2] in layer 2 and …`."""
    parts = []
    for arm in arms_of(rows):
        mine = [row for row in rows if row.arm == arm]
        parts.append(f"{arm}{_own_seeds(mine, rows)} {_points(mine)}")
    return (
        f"Since the same runs' step 0, in percentage points of the same{_all_seeds(rows)}: {'; '.join(parts)}. "
        f"{_not_shown(rows)} A change is from one gate to another: what untrained gates show "
        "too is not called learned."
    )


def _points(rows: Sequence[InformationDifferenceRow]) -> str:
    """One arm's layers."""
    return listed([f"{points_over_seeds(row)} in layer {row.layer}" for row in rows])


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


def _not_shown(rows: Sequence[InformationDifferenceRow]) -> str:
    """How many of the differences may be none; of several seeds that holds for these, since p is over documents."""
    unclear, number = sum(row.p_holm >= ALPHA for row in rows), len(rows)
    several = max(row.seeds for row in rows) > 1
    on_these, over = (" on these seeds", "over documents, ") if several else ("", "")
    if not unclear:
        return f"{'All are' if number > 1 else 'It is'} beyond chance{on_these} ({over}p < {ALPHA}, Holm over layers)."
    shown, why = f"shown to differ from 0{on_these}", f"({over}p ≥ {ALPHA}, Holm over layers)"
    if unclear == number:
        return f"{'None is' if unclear > 1 else 'It is not'} {shown} {why}."
    return f"{unclear} of these {number} {'is' if unclear == 1 else 'are'} not {shown} {why}."


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
