"""What may be said of an arm over its seeds: one verdict a layer, of the mean of I(E;D), adjusted for layers and arms.

Verdicts of single runs are as many as there are runs: at 5 % each, some are beyond chance by chance.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from moe_emergence.analysis.causal.specificity import SpecificityDraws, mean_over_seeds_p
from moe_emergence.analysis.fresh_gates import Gates, fresh_sets, strictest_range
from moe_emergence.analysis.information import measured_domain_information
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import (
    FIRST_CHOICE,
    NOT_LEARNED,
    InformationRow,
    Verdict,
    learns,
    strictest_p,
    verdict_of,
)
from moe_emergence.analysis.statistics import generator, holm
from moe_emergence.analysis.traces import Trace, read_trace
from moe_emergence.errors import AnalysisError

DRAWS = 9_999
"""Means of fresh gates, one gate a seed, that an arm of several seeds is compared with."""


@dataclass(frozen=True, kw_only=True)
class ArmVerdictRow:
    """What may be said of one layer of one arm at the last steps of its runs: I(E;D) of the first choice, mean over
    seeds, domains weighted equally, in bits: 0 … H(D) = log2 D.

    Attributes:
        seeds: how many runs with a result the arm has; documents: of the probe set, the same in all of them.
        maximum: H(D).
        plug_in: of the counts as they are, which is what the nulls are compared with.
        null_low, null_high: central 95 % of the same with document labels permuted, alike in all seeds.
        corrected: plug-in less its bias by the bootstrap, what is quoted; low, high: its 95 % interval over documents,
            seeds fixed; corrected_share, low_share, high_share: the three ÷ H(D).
        seed_low, seed_high: the smallest and the largest `corrected` of a seed; lowest_seed, highest_seed: which.
        fresh_low, fresh_high: central 95 % of the mean of fresh gates, one drawn for each seed, on the hidden states of
            the last step, where the gate started informed of the set of gates that reaches highest; fresh_start_high:
            upper end of the same of the first step.
        p_permutation: against permuted labels, after Holm over the arm's layers.
        p_fresh_end, p_fresh_start: against means of fresh gates on the hidden states of the last and of the first
            step, after Westfall and Young over the arm's layers; where the gate started informed, against informed
            gates too, the larger of the two.
        p_specific: that rerouting no expert costs its domain more than others, over the seeds: `mean_over_seeds_p`,
            after Holm over the arm's layers; None where causal tests were not made in every seed.
        p_permutation_arms, p_fresh_end_arms, p_fresh_start_arms, p_specific_arms: the same after `holm_over_arms`.
        verdict: as `specialisation.verdict_of` the last four, and of whether the arm's routers learn.
    """

    arm: str
    layer: int
    seeds: int
    documents: int
    maximum: float
    plug_in: float
    null_low: float
    null_high: float
    corrected: float
    low: float
    high: float
    corrected_share: float
    low_share: float
    high_share: float
    seed_low: float
    seed_high: float
    lowest_seed: int
    highest_seed: int
    fresh_low: float
    fresh_high: float
    fresh_start_high: float
    p_permutation: float
    p_fresh_end: float
    p_fresh_start: float
    p_specific: float | None
    p_permutation_arms: float
    p_fresh_end_arms: float
    p_fresh_start_arms: float
    p_specific_arms: float | None
    verdict: Verdict


def arm_verdict_rows(
    suite: Suite,
    information: Sequence[InformationRow],
    last: Mapping[tuple[str, int], Trace],
    draws: Sequence[SpecificityDraws] = (),
) -> tuple[ArmVerdictRow, ...]:
    """One row an arm and layer that `information_rows` has, over the seeds that have it; `last` holds the last traces,
    `draws` what rerouting told of runs at their last step.

    Raises:
        AnalysisError: runs of an arm have other documents in their probe set; names both.
    """
    steps = {(run.arm, run.seed): run.last_step for run in suite.runs}
    ended = [row for row in draws if row.step == steps.get((row.arm, row.seed))]
    rows = [row for arm in suite.arms for row in _arm_rows(suite.runs_of(arm.name), information, last, ended)]
    return tuple(_over_arms(rows, {run.arm for run in suite.runs if learns(run)}))


def fresh_means(
    fresh: Sequence[Float[np.ndarray, "gates layers"]], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws layers"]:
    """What seeds without anything learned show on average: means of one fresh gate a seed, each drawn on its own.

    Of one seed they are its gates themselves. Of several, draws come from the gates that were recorded, so a tail is
    known no better than these tell: with 199 gates a seed, p-values below about 1/200 are an extrapolation from what
    sums of rarely high gates reach.
    """
    if len(fresh) == 1:
        return fresh[0]
    random = generator(seed)
    return np.mean([values[random.integers(len(values), size=draws)] for values in fresh], axis=0)


def holm_over_arms(p_values: Float[np.ndarray, " tests"], arms: Sequence[str]) -> Float[np.ndarray, " tests"]:
    """p-values that are adjusted within their arm, adjusted for there being several arms, in the order given, at most
    1: from the smallest up, each times the number of arms that have it or a larger one, never below a smaller one's.

    With one test an arm it is Holm's method. The chance of any false one stays ≤ α: when the first true hypothesis is
    reached, every arm with a true one is still counted [Goeman and Solari 2010, sequential rejection].
    """
    ascending = np.argsort(p_values, kind="stable")
    left = [len({arms[test] for test in ascending[place:]}) for place in range(len(ascending))]
    adjusted = np.empty(len(p_values))
    adjusted[ascending] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[ascending] * np.array(left)), 1)
    return adjusted


def _over_arms(rows: Sequence[ArmVerdictRow], learning: Collection[str]) -> Iterator[ArmVerdictRow]:
    """The rows with p-values adjusted for the arms, and the verdict on them."""
    arms = [row.arm for row in rows]
    chance = holm_over_arms(np.array([row.p_permutation for row in rows]), arms)
    end = holm_over_arms(np.array([row.p_fresh_end for row in rows]), arms)
    start = holm_over_arms(np.array([row.p_fresh_start for row in rows]), arms)
    specific = _specific_over_arms(rows)
    for place, row in enumerate(rows):
        against = (chance[place], end[place], start[place])
        own = specific.get((row.arm, row.layer))
        yield replace(
            row,
            p_permutation_arms=float(chance[place]),
            p_fresh_end_arms=float(end[place]),
            p_fresh_start_arms=float(start[place]),
            p_specific_arms=own,
            verdict=verdict_of(row.arm in learning, against, own),
        )


def _specific_over_arms(rows: Sequence[ArmVerdictRow]) -> dict[tuple[str, int], float]:
    """(arm, layer) to its adjusted p-value, among those that have one."""
    tested = {(row.arm, row.layer): row.p_specific for row in rows if row.p_specific is not None}
    adjusted = holm_over_arms(np.array(list(tested.values())), [arm for arm, _ in tested])
    return dict(zip(tested, adjusted.tolist(), strict=True))


def _specific_p(
    runs: Sequence[Run], layers: Sequence[int], draws: Sequence[SpecificityDraws]
) -> dict[int, float | None]:
    """Layer to the p-value over the runs' seeds, after Holm; None where a run has none."""
    of_layer = {
        layer: [row for run in runs for row in draws if (row.arm, row.seed, row.layer) == (run.arm, run.seed, layer)]
        for layer in layers
    }
    if any(len(rows) < len(runs) for rows in of_layer.values()):
        return dict.fromkeys(layers)
    adjusted = holm(np.array([mean_over_seeds_p(rows) for rows in of_layer.values()]))
    return dict(zip(layers, adjusted.tolist(), strict=True))


def _arm_rows(
    runs: Sequence[Run],
    information: Sequence[InformationRow],
    last: Mapping[tuple[str, int], Trace],
    draws: Sequence[SpecificityDraws],
) -> Iterator[ArmVerdictRow]:
    """An arm's layers before anything is adjusted for other arms."""
    measured = [(run, rows) for run in runs if (rows := _final_rows(run, information))]
    if not measured:
        return
    ends = [last[run.arm, run.seed] for run, _ in measured]
    _refuse_other_documents([run for run, _ in measured], ends)
    domain = ends[0].domain
    counts = [np.stack([end.layers[place].first_choice for end in ends]) for place in range(len(ends[0].layers))]
    found = [measured_domain_information(seeds, domain) for seeds in counts]
    observed = np.array([layer.plug_in for layer in found])
    end = _fresh_mean_sets([run for run, _ in measured], ends)
    start = _fresh_mean_sets([run for run, _ in measured], [read_trace(run, 0) for run, _ in measured])
    p_chance = holm(np.array([layer.p for layer in found]))
    p_end, p_start = strictest_p(observed, end), strictest_p(observed, start)
    p_specific = _specific_p([run for run, _ in measured], [layer.layer for layer in ends[0].layers], draws)
    for place, layer in enumerate(found):
        of_seeds = sorted((rows[place].corrected, run.seed) for run, rows in measured)
        fresh = strictest_range(end, place)
        yield ArmVerdictRow(
            arm=measured[0][0].arm,
            layer=ends[0].layers[place].layer,
            seeds=len(measured),
            documents=len(domain),
            maximum=layer.maximum,
            plug_in=layer.plug_in,
            null_low=layer.null_low,
            null_high=layer.null_high,
            corrected=layer.corrected,
            low=layer.interval.low,
            high=layer.interval.high,
            corrected_share=layer.corrected / layer.maximum,
            low_share=layer.interval.low / layer.maximum,
            high_share=layer.interval.high / layer.maximum,
            seed_low=of_seeds[0][0],
            seed_high=of_seeds[-1][0],
            lowest_seed=of_seeds[0][1],
            highest_seed=of_seeds[-1][1],
            fresh_low=fresh.low,
            fresh_high=fresh.high,
            fresh_start_high=strictest_range(start, place).high,
            p_permutation=float(p_chance[place]),
            p_fresh_end=float(p_end[place]),
            p_fresh_start=float(p_start[place]),
            p_specific=p_specific[ends[0].layers[place].layer],
            p_permutation_arms=float(p_chance[place]),
            p_fresh_end_arms=float(p_end[place]),
            p_fresh_start_arms=float(p_start[place]),
            p_specific_arms=p_specific[ends[0].layers[place].layer],
            verdict=NOT_LEARNED,
        )


def _fresh_mean_sets(runs: Sequence[Run], traces: Sequence[Trace]) -> list[Gates]:
    """`fresh_means` of each set of untrained gates that all seeds have."""
    of_seeds = [fresh_sets(run, trace) for run, trace in zip(runs, traces, strict=True)]
    return [fresh_means(gates) for gates in zip(*of_seeds, strict=True)]


def _final_rows(run: Run, information: Sequence[InformationRow]) -> list[InformationRow]:
    """One a layer, of the first choice at the last step."""
    wanted = (run.arm, run.seed, run.last_step, FIRST_CHOICE)
    return [row for row in information if (row.arm, row.seed, row.step, row.counted) == wanted]


def _refuse_other_documents(runs: Sequence[Run], traces: Sequence[Trace]) -> None:
    """Domains are permuted alike in all seeds: every run must have the same documents."""
    for run, trace in zip(runs, traces, strict=True):
        if not np.array_equal(trace.index, traces[0].index):
            raise AnalysisError(
                f"{run.folder} has other documents in its probe set than {runs[0].folder} ({len(trace.index)} and "
                f"{len(traces[0].index)}, or other ones): an arm's seeds are compared on the same documents only; "
                "give them the same data"
            )
