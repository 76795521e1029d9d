"""What may be said of specialisation, in the words of the verdicts: of arms over seeds, then of single runs."""

from collections.abc import Iterable, Sequence

import numpy as np

from moe_emergence.analysis.arm_verdicts import ArmVerdictRow
from moe_emergence.analysis.comparisons import InformationDifferenceRow
from moe_emergence.analysis.onset import OnsetRow
from moe_emergence.analysis.specialisation import (
    ALPHA,
    FIRST_CHOICE,
    LEARNED,
    NOT_LEARNED,
    UNTESTED,
    InformationRow,
    VerdictRow,
)
from moe_emergence.analysis.statistics import benjamini_hochberg
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import ClassInformationRow
from moe_emergence.report.numbers import (
    GAP,
    count,
    listed,
    percent,
    percent_interval,
    plural,
    points,
    points_interval,
    span,
)


def verdict_phrase(verdicts: Sequence[ArmVerdictRow]) -> str:
    """One arm's verdicts: `learned specialisation in layer 3; no evidence of learned specialisation in layer 2`, with
    `on average over 3 seeds` where it is of several."""
    learned = [row.layer for row in verdicts if is_learned(row)]
    untested = [row.layer for row in verdicts if row.verdict == UNTESTED]
    others = [row.layer for row in verdicts if row.verdict == NOT_LEARNED]
    any_of = "any of " if len(others) > 1 else ""
    parts = [f"{LEARNED} in {layer_names(learned)}"] if learned else []
    parts += [f"{UNTESTED} in {layer_names(untested)}"] if untested else []
    parts += [f"{NOT_LEARNED} in {any_of}{layer_names(others)}"] if others else []
    return f"{'; '.join(parts)}{over_seeds(verdicts)}"


def over_seeds(rows: Sequence[ArmVerdictRow]) -> str:
    """` on average over 3 seeds`; nothing of one seed."""
    return f" on average over {rows[0].seeds}{GAP}seeds" if rows[0].seeds > 1 else ""


def largest_p(row: ArmVerdictRow) -> float:
    """Of the p-values against both nulls, adjusted for layers and arms, the one that decides."""
    return max(row.p_permutation_arms, row.p_fresh_end_arms, row.p_fresh_start_arms)


def single_runs(tables: Tables) -> str:
    """Runs whose own verdict is not their arm's, with how many chance gives: `Taken alone, single runs differ from
    their arm: moe in 1 of 3 runs (layer 3 of seed 43). … in a run alone: 1 of 12 runs; …`; empty where none does."""
    arms = {(row.arm, row.layer): row.verdict for row in tables.arm_verdicts}
    apart = [row for row in tables.verdicts if (row.arm, row.layer) in arms and row.verdict != arms[row.arm, row.layer]]
    if not apart:
        return ""
    told = "; ".join(_runs_apart([row for row in apart if row.arm == arm], tables.verdicts) for arm in arms_of(apart))
    runs = {(row.arm, row.seed) for row in tables.verdicts}
    learned = {(row.arm, row.seed) for row in tables.verdicts if is_learned(row)}
    return (
        f"Taken alone, single runs differ from their arm: {told}. {LEARNED[0].upper()}{LEARNED[1:]} in a run alone: "
        f"{len(learned)} of {plural(len(runs), 'run')}; at {percent(ALPHA)} each {len(runs) * ALPHA:.3g} are expected "
        "by chance."
    )


def _runs_apart(apart: Sequence[VerdictRow], verdicts: Sequence[VerdictRow]) -> str:
    arm = apart[0].arm
    runs, seeds = len({row.seed for row in verdicts if row.arm == arm}), list(dict.fromkeys(row.seed for row in apart))
    where = [f"{layer_names([row.layer for row in apart if row.seed == seed])} of seed {seed}" for seed in seeds]
    return f"{arm} in {len(seeds)} of {plural(runs, 'run')} ({listed(where)})"


def arm_verdicts(tables: Tables, arm: str) -> list[ArmVerdictRow]:
    """One arm's, a row a layer."""
    return [row for row in tables.arm_verdicts if row.arm == arm]


def beyond_chance(p_values: Sequence[float]) -> list[bool]:
    """Which of several tests that are counted together are: p < 0.05 after Benjamini and Hochberg, so that at most 5 %
    of those found are by luck."""
    return [bool(p < ALPHA) for p in benjamini_hochberg(np.array(p_values, dtype=np.float64))]


def is_learned(row: VerdictRow | ArmVerdictRow) -> bool:
    return row.verdict == LEARNED


def is_told(row: ArmVerdictRow) -> bool:
    """Whether a layer whose router learns tells more of the domain than both nulls, whatever its experts do. A router
    that does not learn is never said to."""
    return row.verdict != NOT_LEARNED or largest_p(row) < ALPHA


def layer_names(layers: Sequence[int]) -> str:
    """`layer 3`, `layers 2 and 3`."""
    return f"layer{'s' if len(layers) > 1 else ''} {listed([str(layer) for layer in layers])}"


def arms_of(rows: Iterable[VerdictRow | ArmVerdictRow | InformationRow | InformationDifferenceRow]) -> list[str]:
    """Arms in the order of the table."""
    return list(dict.fromkeys(row.arm for row in rows))


def final_information(tables: Tables) -> list[InformationRow]:
    """First choice at each run's last trace: what verdicts are about."""
    rows = [row for row in tables.information if row.counted == FIRST_CHOICE]
    last = {(row.arm, row.seed): row.step for row in sorted(rows, key=lambda row: row.step)}
    return [row for row in rows if row.step == last[row.arm, row.seed]]


def at_the_end(rows: Iterable[ClassInformationRow]) -> list[ClassInformationRow]:
    """Of each run the rows of its last recorded step."""
    found = list(rows)
    last = {(row.arm, row.seed): row.step for row in sorted(found, key=lambda row: row.step)}
    return [row for row in found if row.step == last[row.arm, row.seed]]


def corrected_share(row: InformationRow | ArmVerdictRow) -> float:
    """I(E;D) freed of the bias of few documents, ÷ H(D): the value that the interval belongs to."""
    return row.corrected / row.maximum if row.maximum else 0.0


def share_with_interval(row: InformationRow | ArmVerdictRow) -> str:
    """`8.4 % [7.8, 9.0]` of H(D)."""
    return percent_interval(corrected_share(row), row.low_share, row.high_share)


def fresh_range(row: InformationRow | ArmVerdictRow) -> tuple[float, float] | None:
    """What fresh gates show, ÷ H(D), less the bias that was taken off this row's own value: verdicts compare counts as
    they are, so beside `corrected_share` the same must come off both."""
    if row.fresh_low is None or row.fresh_high is None or row.maximum == 0:
        return None
    return (row.fresh_low - _bias(row)) / row.maximum, (row.fresh_high - _bias(row)) / row.maximum


def null_range(row: InformationRow | ArmVerdictRow) -> tuple[float, float]:
    """The permutation null's central 95 %, ÷ H(D), less the same."""
    if row.maximum == 0:
        return 0.0, 0.0
    return (row.null_low - _bias(row)) / row.maximum, (row.null_high - _bias(row)) / row.maximum


def untrained_reach(row: ArmVerdictRow) -> float:
    """What untrained gates, one a seed averaged, exceed in 2.5 % of draws, ÷ H(D): the larger of the first and the last
    step's, less the same."""
    return (max(row.fresh_high, row.fresh_start_high) - _bias(row)) / row.maximum if row.maximum else 0.0


def _bias(row: InformationRow | ArmVerdictRow) -> float:
    return row.plug_in - row.corrected


def specialisation_finding(tables: Tables) -> str:
    """In how many of all (arm, layer) experts specialised on average over seeds, and in which arms."""
    verdicts = tables.arm_verdicts
    learned = [row for row in verdicts if is_learned(row)]
    untested = [row for row in verdicts if row.verdict == UNTESTED]
    seeds = max((row.seeds for row in verdicts), default=1)
    over = f" on average over {'up to ' if len({row.seeds for row in verdicts}) > 1 else ''}{seeds}{GAP}seeds"
    of = f"{len(verdicts)} arms × layers{over if seeds > 1 else ''}"
    rest = f"; domain information without a test of its experts: {_places(untested)}" if untested else ""
    if not learned:
        return f"No evidence of learned specialisation in any of {of}{rest}"
    none = [arm for arm in arms_of(verdicts) if arm not in arms_of([*learned, *untested])]
    rest += f"; none in {listed(none)}" if none else ""
    return f"Learned specialisation in {len(learned)} of {of}: {_places(learned)}{rest}"


def _places(rows: Sequence[ArmVerdictRow]) -> str:
    """`moe layer 3; top2 layers 2 and 3`."""
    return "; ".join(f"{arm} {layer_names([row.layer for row in rows if row.arm == arm])}" for arm in arms_of(rows))


def emergence_finding(tables: Tables, arms: Sequence[str]) -> str:
    """The layer of `arms` whose router ends with most domain information, from where it came and since when it tells
    more than untrained gates: `moe, layer 3: 3.5 % of the domain told at step 0, 8.4 % at the last step, above …`."""
    ends = [row for row in final_information(tables) if row.arm in arms]
    if not ends:
        return "Domain information over training"
    by_layer = {
        (row.arm, row.layer): [end for end in ends if (end.arm, end.layer) == (row.arm, row.layer)] for row in ends
    }
    arm, layer = max(by_layer, key=lambda key: _mean_share(by_layer[key]))
    mine = [row for row in tables.information if (row.arm, row.layer, row.counted) == (arm, layer, FIRST_CHOICE)]
    first = [row for row in mine if row.step == min(row.step for row in mine)]
    then, now = percent(round(_mean_share(first), 3)), percent(round(_mean_share(by_layer[arm, layer]), 3))
    mean = f", mean of {len(first)}{GAP}seeds" if len(first) > 1 else ""
    passed = [row for row in tables.onset if (row.arm, row.layer) == (arm, layer)]
    told = f"a token's expert tells {then} of its domain at step {first[0].step}, {now} at the last{mean}"
    return f"{arm}, layer {layer}: {told}{f'; {_passing(passed)}' if passed else ''}"


def _passing(rows: Sequence[OnsetRow]) -> str:
    """`above untrained gates from step 60 on`, `… from step 60 to 240 on in 4 of 5 seeds`, `… in all 5 seeds`."""
    steps = [row.step for row in rows if row.step is not None]
    some = f"all {len(rows)}" if len(steps) == len(rows) else f"{len(steps)} of {len(rows)}"
    often = f" in {some}{GAP}seeds" if len(rows) > 1 else ""
    if not steps:
        return "in no seed above untrained gates" if len(rows) > 1 else "not above untrained gates"
    return f"above untrained gates from step {span(steps, count)} on{often}"


def _mean_share(rows: Sequence[InformationRow]) -> float:
    return float(np.mean([corrected_share(row) for row in rows]))


def information_difference_finding(rows: Sequence[InformationDifferenceRow]) -> str:
    """The largest difference to a baseline that is beyond chance after Holm, or that there is none."""
    apart = [row for row in rows if row.p_holm < ALPHA]
    if not apart:
        return "No arm's domain information is shown to differ from its baseline's"
    top = max(apart, key=lambda row: abs(row.share))
    on_these = " on these seeds" if top.seeds > 1 else ""
    return (
        f"{len(apart)} of {plural(len(rows), 'difference')} to the baseline are beyond chance{on_these}; largest: "
        f"{top.arm} against {top.against}, layer {top.layer}: {points_over_seeds(top)} points"
    )


def points_over_seeds(row: InformationDifferenceRow) -> str:
    """`+8.0 [6.6, 9.4]`, of several seeds with the smallest and the largest: `+8.0 [6.6, 9.4] (single seeds +0.1 to
    +15.5)`, in percentage points of H(D)."""
    change = points_interval(row.share, row.low_share, row.high_share)
    if row.seeds == 1:
        return change
    return f"{change} (single seeds {span([row.seed_low_share, row.seed_high_share], points)})"
