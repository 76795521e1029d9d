"""Each domain's specialist: the expert whose rerouting costs it most beyond the others, chosen on half the documents,
measured on the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from moe_emergence.analysis.causal.effects import Origin
from moe_emergence.analysis.causal.specificity import SPLITS, against_others, halves, mean_over_halves

LEAST_COST = 0.005
"""Nats per token of its domain that rerouting a specialist costs at least."""
MOST_OF_OTHERS = 1 / 3
"""Of that cost, what it may cost any other domain at most."""


@dataclass(frozen=True, kw_only=True)
class SpecialistRow:
    """The expert of one run that matters most to `domain`, by rerouting its tokens to their next best expert.

    Attributes:
        layer, expert: of all layers the one with the highest cost for the domain minus the mean cost for the others on
            one half of the documents, in most of `splits` random halvings: in `chosen_in` of them, 1..splits.
        cost: what rerouting it costs the domain on the other half, nats per token of the domain, mean over the splits
            that chose it, with its 95 % interval over documents: 0 of an expert that does nothing another would not.
        other: the largest such cost for any other domain; other_domain: which.
        is_specialist: cost ≥ `LEAST_COST` and other ≤ `MOST_OF_OTHERS` · cost, fixed before the runs it is said of.
        documents: of the domain, in a tested half.
    """

    arm: str
    seed: int
    step: int
    domain: str
    layer: int
    expert: int
    splits: int
    chosen_in: int
    cost: float
    low: float
    high: float
    other: float
    other_domain: str
    is_specialist: bool
    documents: int


def specialist_rows(
    origin: Origin, layers: Sequence[int], change: Float[np.ndarray, "layers experts documents"], splits: int = SPLITS
) -> Iterator[SpecialistRow]:
    """One a domain, from each document's summed change of loss; every domain needs `LEAST_DOCUMENTS`."""
    experts, flat = change.shape[1], change.reshape(-1, change.shape[-1])
    first = np.stack([halves(origin.domain, number) for number in range(splits)])
    costs = np.stack([_costs(origin, flat, half) for half in first])
    for number in range(len(origin.domains)):
        chosen = (costs @ against_others(number, len(origin.domains))).argmax(1)
        often = np.bincount(chosen)
        place = int(often.argmax())
        layer, expert = divmod(place, experts)
        yield _row(origin, number, layers[layer], expert, flat[place], ~first[chosen == place], splits)


def _costs(
    origin: Origin, change: Float[np.ndarray, "cells documents"], half: Bool[np.ndarray, " documents"]
) -> Float[np.ndarray, "cells domains"]:
    """Nats per token of each domain, on one half."""
    members = half & (origin.domain == np.arange(len(origin.domains))[:, np.newaxis])
    return change @ members.T / (members @ origin.predicted)


def _row(
    origin: Origin,
    domain: int,
    layer: int,
    expert: int,
    change: NDArray[np.float64],
    tested: Bool[np.ndarray, "splits documents"],
    splits: int,
) -> SpecialistRow:
    means = np.mean([_costs(origin, change[np.newaxis], half)[0] for half in tested], axis=0)
    cost = mean_over_halves(origin, change, np.eye(len(means))[domain], tested)
    worst = int(np.where(np.arange(len(means)) == domain, -np.inf, means).argmax())
    other = float(means[worst])
    return SpecialistRow(
        arm=origin.arm,
        seed=origin.seed,
        step=origin.step,
        domain=origin.domains[domain],
        layer=layer,
        expert=expert,
        splits=splits,
        chosen_in=len(tested),
        cost=cost.value,
        low=cost.interval.low,
        high=cost.interval.high,
        other=other,
        other_domain=origin.domains[worst],
        is_specialist=cost.value >= LEAST_COST and other <= MOST_OF_OTHERS * cost.value,
        documents=int((tested[0] & (origin.domain == domain)).sum()),
    )
