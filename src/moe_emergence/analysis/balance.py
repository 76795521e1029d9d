"""Balance at the last step on test, a run and a layer, from the recorded counts; every quantity is `routing`'s."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from moe_emergence import routing
from moe_emergence.analysis.records import Counts, LayerRouting, Run, Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted

CAPACITY_FACTORS = ("1.0", "1.25", "2.0")


@dataclass(frozen=True, kw_only=True)
class RoutingRow:
    """How one layer of one run spreads its tokens. E experts, k slots a token.

    Attributes:
        counted: all slots, or the first choice alone (as if k were 1).
        assignments: how many the shares are of (tokens × slots counted).
        busiest_expert, max_load: the largest share of assignments: 1/E at balance, at most 1/k.
        max_violation: E·max − 1: 0 at balance, E/k − 1 at collapse.
        excess: (max load − 1/E) / (1/k − 1/E): 0 at balance, 1 at collapse.
        hot, dead: experts with excess > 3/7, and with a load below 0.1/E.
        effective_experts: exp of the load's entropy: E at balance, k at collapse.
        dropped: capacity factor to the share of assignments that it would have dropped: 0 at balance (factor ≥ 1),
            1 − k·factor/E at collapse.
        entropy_per_token: mean entropy of a token's clean probabilities, nats: 0 certain, ln E undecided.
        entropy_of_load: entropy of the load, nats: ln k at collapse, ln E at balance.
        entropy_per_token_share, entropy_of_load_share: the same ÷ ln E (None for a single expert).
        detector: the collapse detector's last state on training tokens: healthy, warning or collapsed.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    experts: int
    top_k: int
    assignments: int
    busiest_expert: int
    max_load: float
    max_violation: float
    excess: float
    hot: tuple[int, ...]
    dead: tuple[int, ...]
    effective_experts: float
    dropped: Mapping[str, float]
    entropy_per_token: float
    entropy_per_token_share: float | None
    entropy_of_load: float
    entropy_of_load_share: float | None
    detector: str


def routing_rows(suite: Suite) -> tuple[RoutingRow, ...]:
    """One row a run and layer, of all slots; dense runs have none."""
    return tuple(
        _routing_row(run, layer, SLOTS if _top_k(run) > 1 else FIRST_CHOICE, layer.assignments, _top_k(run))
        for run in suite.runs
        for layer in run.last_test.routing
    )


def latest_routing_rows(runs: Iterable[Run]) -> tuple[RoutingRow, ...]:
    """`routing_rows` of runs that have no end yet, from each one's latest evaluation, of whatever split."""
    return tuple(
        _routing_row(run, layer, SLOTS if _top_k(run) > 1 else FIRST_CHOICE, layer.assignments, _top_k(run))
        for run in runs
        if run.evaluations
        for layer in run.evaluations[-1].routing
    )


def first_choice_rows(suite: Suite) -> tuple[RoutingRow, ...]:
    """The same of the first choice alone, for runs with several experts a token."""
    return tuple(
        _routing_row(run, layer, FIRST_CHOICE, layer.first_choice, 1)
        for run in suite.runs
        if _top_k(run) > 1
        for layer in run.last_test.routing
    )


def _top_k(run: Run) -> int:
    return 1 if run.config.moe is None else run.config.moe.top_k


def _routing_row(run: Run, record: LayerRouting, counted: Counted, assignments: Counts, top_k: int) -> RoutingRow:
    counts = torch.from_numpy(assignments.sum(0))
    load = routing.load_of_counts(counts, torch.float64)
    of_load = float(routing.routing_entropy_of_load(load))
    return RoutingRow(
        arm=run.arm,
        seed=run.seed,
        step=run.last_step,
        layer=record.layer,
        counted=counted,
        experts=len(load),
        top_k=top_k,
        assignments=int(counts.sum()),
        busiest_expert=int(load.argmax()),
        max_load=float(load.max()),
        max_violation=float(routing.max_violation(load)),
        excess=float(routing.load_excess(load, top_k)),
        hot=_chosen(routing.hot_experts(load, top_k)),
        dead=_chosen(routing.dead_experts(load)),
        effective_experts=float(routing.effective_experts(load)),
        dropped={factor: float(routing.overflow_share(load, float(factor))) for factor in CAPACITY_FACTORS},
        entropy_per_token=record.entropy_per_token,
        entropy_per_token_share=share_of_maximum(record.entropy_per_token, len(load)),
        entropy_of_load=of_load,
        entropy_of_load_share=share_of_maximum(of_load, len(load)),
        detector=detector_state(run, record.layer),
    )


def _chosen(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())


def share_of_maximum(entropy: float, experts: int) -> float | None:
    """Entropy ÷ ln E, 0..1; None for a single expert, whose entropy is always 0."""
    return entropy / math.log(experts) if experts > 1 else None


def detector_state(run: Run, layer: int) -> str:
    """The state the layer was last found in; healthy when nothing was ever reported."""
    states = [event.state for event in run.collapses if event.layer == layer]
    return states[-1] if states else "healthy"
