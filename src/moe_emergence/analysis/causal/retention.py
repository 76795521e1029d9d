"""Retention: how many of its experts a domain needs, keeping those it uses most and rerouting what went to others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from moe_emergence.analysis.causal.effects import Origin, domain_means, single
from moe_emergence.analysis.causal.forward import Observed, Subject, batches
from moe_emergence.analysis.causal.knockout import Arrays, Documents, Done, Survey, document_sums, stoppable
from moe_emergence.analysis.causal.rerouting import only_experts
from moe_emergence.analysis.causal.specificity import halves
from moe_emergence.analysis.statistics import generator

RANDOM_SUBSETS = 3
_SPLIT_SEED, _SUBSET_SEED = 3, 4
_ALL_COUNTS = 8
"""Up to this many experts every number kept is measured; beyond, as many numbers in equal ratios."""
Subset = Literal["own", "other", "random"]


@dataclass(frozen=True, kw_only=True)
class RetentionRow:
    """LM loss of a domain with `kept` of the experts of every MoE layer minus that with all, nats a token.

    Attributes:
        subset: own: those the domain uses most, layer by layer, on one half of its documents; other: the same for other
            domains, mean over them; random: drawn anew, mean over the draws. The loss is of the other half.
        difference: 0 with all experts kept; own below other and random where experts serve domains; with its 95 %
            interval over documents.
        documents: of the domain, in the half measured.
    """

    arm: str
    seed: int
    step: int
    domain: str
    kept: int
    experts: int
    subset: Subset
    difference: float
    low: float
    high: float
    documents: int


def kept_counts(experts: int) -> tuple[int, ...]:
    """The numbers of experts to keep, below all of them: 1..E − 1, or for many experts 8 numbers in equal ratios."""
    if experts <= _ALL_COUNTS:
        return tuple(range(1, experts))
    ratios = np.geomspace(1, experts, _ALL_COUNTS + 1)[:-1]
    return tuple(sorted({round(float(count)) for count in ratios}))


def measured_half(domain: Int[np.ndarray, " documents"]) -> NDArray[np.int64]:
    """Documents that losses are taken on; the others rank the experts."""
    return np.flatnonzero(~halves(domain, _SPLIT_SEED))


def usage_order(
    counts: Int[np.ndarray, "layers documents experts"], domain: Int[np.ndarray, " documents"]
) -> Int[np.ndarray, "domains layers experts"]:
    """Experts of each layer from the most to the least used by a domain, on the half that is not tested."""
    ranking = np.ones(len(domain), dtype=bool)
    ranking[measured_half(domain)] = False
    used = [counts[:, ranking & (domain == number)].sum(1) for number in range(int(domain.max()) + 1)]
    return np.argsort(-np.stack(used), axis=-1, kind="stable")


def random_order(layers: int, experts: int, draws: int, seed: int = 0) -> Int[np.ndarray, "draws layers experts"]:
    """Experts of each layer in random orders."""
    rng = generator(seed * 10 + _SUBSET_SEED)
    return rng.permuted(np.tile(np.arange(experts), (draws, layers, 1)), axis=-1)


def retained_losses(
    subject: Subject, documents: Documents, surveyed: Survey, draws: int = RANDOM_SUBSETS, done: Done = stoppable
) -> Arrays:
    """`retained` [domains + draws, kept counts, docs]: summed change of loss, nats, of each tested document with the
    experts that each domain ranks first, then with those of random orders; NaN on documents that rank."""
    layers = len(subject.layers)
    orders = np.concatenate(
        [usage_order(surveyed.counts, documents.domain), random_order(layers, subject.experts, draws)]
    )
    counts = kept_counts(subject.experts)
    retained = np.full((len(orders), len(counts), len(documents.rows)), np.nan)
    tested = measured_half(documents.domain)
    for batch in batches(documents.probe, documents.rows[tested], subject.device):
        seen = subject.observe(batch)
        for number, order in enumerate(orders):
            for place, kept in enumerate(counts):
                done(1)
                change = _change_with(subject, seen, order[:, :kept])
                retained[number, place, tested[batch.place]] = document_sums(change)
    return {"retained": retained}


def retention_rows(
    origin: Origin, experts: int, retained: Float[np.ndarray, "orders counts documents"]
) -> Iterator[RetentionRow]:
    """Every domain, number kept and kind of subset."""
    tested = measured_half(origin.domain)
    here, domains = origin.of(tested), len(origin.domains)
    values = retained[..., tested]
    for number, domain in enumerate(origin.domains):
        others = [other for other in range(domains) if other != number]
        subsets: Mapping[Subset, Sequence[int]] = {
            "own": [number],
            "other": others,
            "random": range(domains, len(values)),
        }
        for subset, orders in subsets.items():
            found = domain_means(here, values[list(orders)].mean(0))
            for place, kept in enumerate(kept_counts(experts)):
                estimate = single(found, (place, number)).estimate()
                yield RetentionRow(
                    arm=origin.arm,
                    seed=origin.seed,
                    step=origin.step,
                    domain=domain,
                    kept=kept,
                    experts=experts,
                    subset=subset,
                    difference=estimate.value,
                    low=estimate.interval.low,
                    high=estimate.interval.high,
                    documents=int((here.domain == number).sum()),
                )


def _change_with(subject: Subject, seen: Observed, kept: Int[np.ndarray, "layers kept"]) -> Tensor:
    allowed = {}
    for number, layer in enumerate(subject.layers):
        mask = torch.zeros(subject.experts, dtype=torch.bool, device=subject.device)
        mask[torch.from_numpy(kept[number])] = True
        allowed[layer] = mask
    with only_experts(subject.layers, allowed):
        return subject.losses_from_first_layer(seen) - seen.losses
