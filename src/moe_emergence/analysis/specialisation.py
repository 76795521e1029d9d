"""Domain information of every run, layer and trace against its nulls, and what may be said of it.

A number of routed domains alone proves nothing: a fresh gate on the same hidden states separates domains too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from moe_emergence.analysis.causal.interventions import NEXT
from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.fresh_gates import fresh_sets, strictest_range
from moe_emergence.analysis.information import fresh_gate_values, measured_domain_information
from moe_emergence.analysis.records import Counts, Run, Suite
from moe_emergence.analysis.statistics import central_range, holm, null_p_value
from moe_emergence.analysis.traces import LayerTrace, Trace, read_trace, read_traces

ALPHA = 0.05
Counted = Literal["slots", "first choice"]
SLOTS: Counted = "slots"
FIRST_CHOICE: Counted = "first choice"
"""All k assignments of a token, or its most probable expert alone; for top-1 they are the same, kept as the latter."""
Verdict = Literal[
    "learned specialisation",
    "no evidence of learned specialisation",
    "learned domain information, experts not tested",
]
LEARNED: Verdict = "learned specialisation"
NOT_LEARNED: Verdict = "no evidence of learned specialisation"
UNTESTED: Verdict = "learned domain information, experts not tested"
"""Beyond both nulls, where no causal test was made that could say whether experts matter to their domains."""


@dataclass(frozen=True, kw_only=True)
class InformationRow:
    """I(E;D) of one layer of one run at one trace, domains weighted equally, in bits: 0 … H(D) = log2 D.

    Attributes:
        counted: all slots or the first choice.
        documents, tokens: of the probe set.
        maximum: H(D).
        plug_in: of the counts as they are; biased upwards.
        null_mean, null_low, null_high: the same with document labels permuted: mean and central 95 %.
        estimate: plug_in − null_mean; low by about I·(D − 1)/documents, since permuting mixes the domains.
        corrected: the plug-in less its bias by the bootstrap, what is quoted; low, high: its 95 % interval.
        estimate_share, low_share, high_share: estimate, low and high ÷ H(D).
        p_permutation: how often permuted labels show as much.
        fresh_mean, fresh_low, fresh_high: plug-in of fresh gates on the same hidden states, mean and central 95 %
            (first and last trace; None between).
        p_fresh: how often a fresh gate shows as much as this router.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    documents: int
    tokens: int
    maximum: float
    plug_in: float
    null_mean: float
    null_low: float
    null_high: float
    estimate: float
    corrected: float
    low: float
    high: float
    estimate_share: float
    low_share: float
    high_share: float
    p_permutation: float
    fresh_mean: float | None
    fresh_low: float | None
    fresh_high: float | None
    p_fresh: float | None


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """What may be said of one layer of one run at its last step, from the first choice.

    Attributes:
        information: plug-in I(E;D), bits.
        p_permutation: against permuted document labels, after Holm over the run's layers.
        p_fresh_end, p_fresh_start: against fresh gates on this layer's hidden states of the last and of the first step,
            after Westfall and Young over the run's layers; of a gate that started informed, against informed gates
            too, the larger of the two.
        fresh_end_high, fresh_start_high: upper end of the central 95 % of those gates, of the set that reaches highest,
            bits.
        p_specific: that no expert's rerouting costs one domain more than others, `SpecificityRow.p_holm` of this layer;
            None where causal tests were not made.
        verdict: as `verdict_of` these p-values and of whether the router learns.
    """

    arm: str
    seed: int
    layer: int
    information: float
    p_permutation: float
    p_fresh_end: float
    p_fresh_start: float
    fresh_end_high: float
    fresh_start_high: float
    p_specific: float | None
    verdict: Verdict

    @property
    def above_permutation(self) -> bool:
        """More than documents dealt to domains at random would show."""
        return self.p_permutation < ALPHA

    @property
    def above_fresh(self) -> bool:
        """More than routers that learned nothing show, on the hidden states of either end."""
        return max(self.p_fresh_end, self.p_fresh_start) < ALPHA


def information_rows(suite: Suite) -> tuple[InformationRow, ...]:
    """One row a run, trace, layer and way of counting; none where a domain has fewer than 2 probe documents."""
    return tuple(row for run in suite.runs for row in _information_rows(run))


def verdict_rows(
    suite: Suite, information: Sequence[InformationRow], specificity: Sequence[SpecificityRow] = ()
) -> tuple[VerdictRow, ...]:
    """One row a run and layer that `information_rows` has; the traces add how fresh gates go together over layers."""
    return tuple(row for run in suite.runs for row in _verdict_rows(run, information, specificity))


def verdict_of(learns: bool, information: Sequence[float], specific: float | None) -> Verdict:
    """Learned specialisation where the router learns, every p-value of `information` is below 0.05, and so is
    `specific`, without which (None) it is not tested. A hash of the token's id beats both nulls and has learnt nothing;
    experts that tell a domain and are missed by none are labels, not specialists."""
    if not learns or max(information) >= ALPHA:
        return NOT_LEARNED
    if specific is None:
        return UNTESTED
    return LEARNED if specific < ALPHA else NOT_LEARNED


def learns(run: Run) -> bool:
    """Whether the run has experts and a router whose gate is trained."""
    return run.config.moe is not None and run.config.moe.router == "learned"


def measurable(trace: Trace) -> bool:
    """Whether every domain has the 2 documents that intervals and nulls need, and there are 2 domains to tell apart."""
    sizes = trace.domain_sizes
    return len(sizes) > 1 and int(sizes.min()) > 1


def counted_ways(layer: LayerTrace) -> Iterator[tuple[Counted, Counts]]:
    """The ways to count a layer's routing: for one expert a token both are the same."""
    if layer.experts.shape[1] > 1:
        yield SLOTS, layer.slots
    yield FIRST_CHOICE, layer.first_choice


def _information_rows(run: Run) -> Iterator[InformationRow]:
    for trace in read_traces(run) if run.manifest.moe_layers else ():
        if measurable(trace):
            for layer in trace.layers:
                for counted, counts in counted_ways(layer):
                    yield _information_row(run, trace, layer, counted, counts)


def _information_row(run: Run, trace: Trace, layer: LayerTrace, counted: Counted, counts: Counts) -> InformationRow:
    measured = measured_domain_information(counts, trace.domain)
    fresh = (
        fresh_gate_values(layer.fresh, trace.domain) if layer.fresh is not None and counted == FIRST_CHOICE else None
    )
    fresh_range = None if fresh is None else central_range(fresh)
    return InformationRow(
        arm=run.arm,
        seed=run.seed,
        step=trace.step,
        layer=layer.layer,
        counted=counted,
        documents=len(trace.domain),
        tokens=len(trace.document),
        maximum=measured.maximum,
        plug_in=measured.plug_in,
        null_mean=measured.null_mean,
        null_low=measured.null_low,
        null_high=measured.null_high,
        estimate=measured.estimate,
        corrected=measured.corrected,
        low=measured.interval.low,
        high=measured.interval.high,
        estimate_share=measured.estimate / measured.maximum,
        low_share=measured.interval.low / measured.maximum,
        high_share=measured.interval.high / measured.maximum,
        p_permutation=measured.p,
        fresh_mean=None if fresh is None else float(fresh.mean()),
        fresh_low=None if fresh_range is None else fresh_range.low,
        fresh_high=None if fresh_range is None else fresh_range.high,
        p_fresh=None if fresh is None else null_p_value(measured.plug_in, fresh),
    )


def _verdict_rows(
    run: Run, information: Sequence[InformationRow], specificity: Sequence[SpecificityRow]
) -> Iterator[VerdictRow]:
    rows = [
        row
        for row in information
        if (row.arm, row.seed, row.step, row.counted) == (run.arm, run.seed, run.last_step, FIRST_CHOICE)
    ]
    if not rows:
        return
    observed = np.array([row.plug_in for row in rows])
    start, end = (fresh_sets(run, read_trace(run, step)) for step in (0, run.last_step))
    p_chance = holm(np.array([row.p_permutation for row in rows]))
    p_start, p_end = strictest_p(observed, start), strictest_p(observed, end)
    specific = {
        row.layer: row.p_holm
        for row in specificity
        if (row.arm, row.seed, row.step, row.intervention) == (run.arm, run.seed, run.last_step, NEXT)
    }
    for place, row in enumerate(rows):
        against = (p_chance[place], p_start[place], p_end[place])
        yield VerdictRow(
            arm=run.arm,
            seed=run.seed,
            layer=row.layer,
            information=row.plug_in,
            p_permutation=float(p_chance[place]),
            p_fresh_end=float(p_end[place]),
            p_fresh_start=float(p_start[place]),
            fresh_end_high=strictest_range(end, place).high,
            fresh_start_high=strictest_range(start, place).high,
            p_specific=specific.get(row.layer),
            verdict=verdict_of(learns(run), against, specific.get(row.layer)),
        )


def westfall_young(
    observed: Float[np.ndarray, " layers"], null: Float[np.ndarray, "draws layers"]
) -> Float[np.ndarray, " layers"]:
    """One-sided p-values adjusted over layers: how often a draw's largest standardised value, over layers, reaches a
    layer's own [Westfall and Young 1993, maxT]. Unlike Holm's, they can be as small as 1/(1 + draws) for any number
    of layers."""
    mean, deviation = null.mean(0), null.std(0)
    scale = np.where(deviation > 0, deviation, 1)
    largest = ((null - mean) / scale).max(1)
    return np.array([null_p_value(float(value), largest) for value in (observed - mean) / scale])


def strictest_p(
    observed: Float[np.ndarray, " layers"], sets: Sequence[Float[np.ndarray, "draws layers"]]
) -> Float[np.ndarray, " layers"]:
    """The largest of the p-values against each set of untrained gates, each adjusted over layers: a router has learned
    only what none of them shows."""
    return np.max([westfall_young(observed, gates) for gates in sets], axis=0)
