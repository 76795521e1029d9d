"""Whether some expert matters to one domain more than to others: chosen on half the documents, tested on the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from moe_emergence.analysis.causal.effects import Origin, domain_means
from moe_emergence.analysis.statistics import (
    PERMUTATIONS,
    TAIL,
    Bootstrap,
    Estimate,
    generator,
    holm,
    null_p_value,
    permuted_labels,
)
from moe_emergence.errors import AnalysisError

LEAST_DOCUMENTS = 4
"""Of a domain: 2 in each half."""
_SPLIT_SEED, _NULL_SEED = 1, 2


@dataclass(frozen=True, kw_only=True)
class SpecificityRow:
    """The most specific expert of one layer of one run under one intervention; specificity is the effect on a domain
    minus the mean over the others, nats a token, as in `KnockoutRow.effect`.

    Attributes:
        expert, domain: those of the highest specificity on one half of the documents of each domain.
        chosen_value: that highest, which is too high, as it was chosen for.
        tested_value: the same expert's and domain's on the other half, with its 95 % interval: about 0 when no expert
            is specific, the effect itself when it matters to that domain alone.
        null_mean, null_high: mean and 97.5 % point of the tested value with the documents' domains dealt anew and all
            done again: halves, choice and test.
        p: how often that reaches tested_value, one-sided; p_holm: after Holm over the run's layers.
        documents: of the smallest domain, in the tested half.
    """

    arm: str
    seed: int
    step: int
    layer: int
    intervention: str
    expert: int
    domain: str
    chosen_value: float
    tested_value: float
    low: float
    high: float
    null_mean: float
    null_high: float
    p: float
    p_holm: float
    documents: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Specificity:
    """As in `SpecificityRow`, of one layer; `null` [permutations] are tested values under dealt domains."""

    expert: int
    domain: int
    chosen_value: float
    tested: Estimate
    null: NDArray[np.float64]
    p: float
    documents: int


def halves(
    domain: Int[np.ndarray, "*permutations documents"], seed: int
) -> Bool[np.ndarray, "*permutations documents"]:
    """True for the first half of each domain's documents (the larger, if odd) in a seeded order of all documents."""
    order = generator(seed).permutation(domain.shape[-1])
    first = np.zeros(domain.shape, dtype=bool)
    for number in range(int(domain.max()) + 1):
        member = domain[..., order] == number
        rank = member.cumsum(-1)
        first[..., order] |= member & (2 * rank <= rank[..., -1:] + 1)
    return first


def specificity(
    origin: Origin, change: Float[np.ndarray, "experts documents"], permutations: int = PERMUTATIONS, seed: int = 0
) -> Specificity:
    """The most specific expert and domain of one half of the documents, tested on the other.

    Raises:
        AnalysisError: a domain has fewer than 4 documents.
    """
    sizes = np.bincount(origin.domain, minlength=len(origin.domains))
    if sizes.min() < LEAST_DOCUMENTS:
        raise AnalysisError(
            f"choosing on one half and testing on the other needs {LEAST_DOCUMENTS} documents a domain; "
            f"{origin.domains[sizes.argmin()]!r} has {sizes.min()}: add documents to the probe"
        )
    labels = permuted_labels(origin.domain, permutations, generator(seed * 10 + _NULL_SEED))
    everything = np.concatenate([origin.domain[np.newaxis], labels])
    first = halves(everything, seed * 10 + _SPLIT_SEED)
    choosing, testing = (_contrasts(change, origin.predicted, everything, half) for half in (first, ~first))
    flat = choosing.reshape(len(choosing), -1)
    best = flat.argmax(1)
    tested = np.take_along_axis(testing.reshape(len(testing), -1), best[:, np.newaxis], axis=1)[:, 0]
    expert, domain = divmod(int(best[0]), len(origin.domains))
    rest = np.flatnonzero(~first[0])
    estimate = _contrast_estimate(origin.of(rest), change[expert, rest], domain)
    return Specificity(
        expert=expert,
        domain=domain,
        chosen_value=float(flat[0, best[0]]),
        tested=estimate,
        null=tested[1:],
        p=null_p_value(float(tested[0]), tested[1:]),
        documents=int(np.bincount(origin.domain[rest]).min()),
    )


def specificity_rows(
    origin: Origin,
    layers: Sequence[int],
    interventions: Sequence[str],
    change: Float[np.ndarray, "interventions layers experts documents"],
) -> Iterator[SpecificityRow]:
    """Every intervention that was possible, every layer."""
    for place, intervention in enumerate(interventions):
        if np.isnan(change[place]).any():
            continue
        found = [specificity(origin, change[place, number]) for number in range(len(layers))]
        adjusted = holm(np.array([one.p for one in found]))
        for layer, one, p_holm in zip(layers, found, adjusted, strict=True):
            yield SpecificityRow(
                arm=origin.arm,
                seed=origin.seed,
                step=origin.step,
                layer=layer,
                intervention=intervention,
                expert=one.expert,
                domain=origin.domains[one.domain],
                chosen_value=one.chosen_value,
                tested_value=one.tested.value,
                low=one.tested.interval.low,
                high=one.tested.interval.high,
                null_mean=float(one.null.mean()),
                null_high=float(np.quantile(one.null, 1 - TAIL)),
                p=one.p,
                p_holm=float(p_holm),
                documents=one.documents,
            )


def _contrasts(
    change: Float[np.ndarray, "experts documents"],
    predicted: Int[np.ndarray, " documents"],
    labels: Int[np.ndarray, "permutations documents"],
    half: Bool[np.ndarray, "permutations documents"],
) -> Float[np.ndarray, "permutations experts domains"]:
    """Effect on each domain minus the mean over the others, on one half."""
    numbers = np.arange(int(labels.max()) + 1)
    member = ((labels[:, np.newaxis] == numbers[:, np.newaxis]) & half[:, np.newaxis]).astype(np.float64)
    effect = np.einsum("pdn,en->ped", member, change, optimize=True) / (member @ predicted)[:, np.newaxis]
    return _own_minus_others(effect)


def _own_minus_others(effect: Float[np.ndarray, "... domains"]) -> Float[np.ndarray, "... domains"]:
    others = effect.sum(-1, keepdims=True) - effect
    return effect - others / (effect.shape[-1] - 1)


def _contrast_estimate(origin: Origin, change: Float[np.ndarray, " documents"], domain: int) -> Estimate:
    found = domain_means(origin, change)
    observed, replicates = (_own_minus_others(v[..., :-1])[..., domain] for v in (found.observed, found.replicates))
    return Bootstrap(observed, replicates, int(np.asarray(found.documents)[-1])).estimate()
