"""Whether some expert matters to one domain more than to others: chosen on half the documents, tested on the rest.

One split's result hangs on its luck: another may choose another expert, and be significant where the first was not. So
it is repeated over random splits, and what is tested is the mean over them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from moe_emergence.analysis.causal.effects import Origin
from moe_emergence.analysis.statistics import (
    PERMUTATIONS,
    TAIL,
    Estimate,
    bootstrap,
    generator,
    holm,
    null_p_value,
    permuted_labels,
)
from moe_emergence.errors import AnalysisError

LEAST_DOCUMENTS = 4
"""Of a domain: 2 in each half."""
SPLITS = 24
"""Random divisions of the documents in halves."""
_SEEDS, _NULL_SEED = 1_000, 999


@dataclass(frozen=True, kw_only=True)
class SpecificityRow:
    """The most specific expert of one layer of one run under one intervention; specificity is the effect on a domain
    minus the mean over the others, nats a token, as in `KnockoutRow.effect`.

    Attributes:
        expert, domain: those of the highest specificity on one half of the documents of each domain, in most of
            `splits` random halvings: in `chosen_in` of them, 1..splits.
        chosen_value: that highest, mean over the splits that chose it: too high, as it was chosen for.
        tested_value: the same expert's and domain's on the other half, mean over the same splits, with its two-sided
            95 % interval: about 0 when no expert is specific, the effect itself when it matters to that domain alone.
        mean_value: tested value of what each split chose, mean over all splits.
        null_mean, null_high: mean and 97.5 % point of mean_value with the documents' domains dealt anew and all done
            again: halves, choice and test.
        p: how often that reaches mean_value, one-sided; p_holm: after Holm over the run's layers.
        documents: of the smallest domain, in a tested half.
    """

    arm: str
    seed: int
    step: int
    layer: int
    intervention: str
    expert: int
    domain: str
    splits: int
    chosen_in: int
    chosen_value: float
    tested_value: float
    low: float
    high: float
    mean_value: float
    null_mean: float
    null_high: float
    p: float
    p_holm: float
    documents: int


@dataclass(frozen=True, kw_only=True)
class SpecificityDraws:
    """`SpecificityRow.mean_value` of rerouting in one layer of a run, with every draw of its null, in the order of the
    dealings, which are the same for the same documents."""

    arm: str
    seed: int
    step: int
    layer: int
    mean_value: float
    null: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Specificity:
    """As in `SpecificityRow`, of one layer; `null` [permutations] are mean values under dealt domains."""

    expert: int
    domain: int
    splits: int
    chosen_in: int
    chosen_value: float
    tested: Estimate
    mean_value: float
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
    origin: Origin,
    change: Float[np.ndarray, "experts documents"],
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    splits: int = SPLITS,
) -> Specificity:
    """The most specific expert and domain of one half of the documents, tested on the other, over several splits.

    Raises:
        AnalysisError: a domain has fewer than 4 documents.
    """
    sizes = np.bincount(origin.domain, minlength=len(origin.domains))
    if sizes.min() < LEAST_DOCUMENTS:
        raise AnalysisError(
            f"choosing on one half and testing on the other needs {LEAST_DOCUMENTS} documents a domain; "
            f"{origin.domains[sizes.argmin()]!r} has {sizes.min()}: add documents to the probe"
        )
    labels = permuted_labels(origin.domain, permutations, generator(seed * _SEEDS + _NULL_SEED))
    everything = np.concatenate([origin.domain[np.newaxis], labels])
    done = [_one_split(change, origin.predicted, everything, seed * _SEEDS + number) for number in range(splits)]
    tested = np.mean([one.tested for one in done], axis=0)
    chosen = np.array([one.chosen for one in done])
    often = np.bincount(chosen, minlength=len(change) * len(origin.domains))
    mine = [one for one in done if one.chosen == often.argmax()]
    expert, domain = divmod(int(often.argmax()), len(origin.domains))
    halves_tested = np.stack([~one.first for one in mine])
    return Specificity(
        expert=expert,
        domain=domain,
        splits=splits,
        chosen_in=len(mine),
        chosen_value=float(np.mean([one.chosen_value for one in mine])),
        tested=mean_over_halves(origin, change[expert], against_others(domain, len(origin.domains)), halves_tested),
        mean_value=float(tested[0]),
        null=tested[1:],
        p=null_p_value(float(tested[0]), tested[1:]),
        documents=int(np.bincount(origin.domain[~mine[0].first]).min()),
    )


@dataclass(frozen=True, eq=False)
class _Split:
    """Of one split: which documents chose, which cell (expert × domain) was chosen and its value there, and the tested
    value [1 + permutations] of the domains as they are and of those dealt anew."""

    first: NDArray[np.bool_]
    chosen: int
    chosen_value: float
    tested: NDArray[np.float64]


def _one_split(
    change: Float[np.ndarray, "experts documents"],
    predicted: Int[np.ndarray, " documents"],
    labels: Int[np.ndarray, "draws documents"],
    seed: int,
) -> _Split:
    first = halves(labels, seed)
    choosing, testing = (_contrasts(change, predicted, labels, half) for half in (first, ~first))
    flat = choosing.reshape(len(labels), -1)
    best = flat.argmax(1)
    tested = np.take_along_axis(testing.reshape(len(labels), -1), best[:, np.newaxis], axis=1)[:, 0]
    return _Split(first[0], int(best[0]), float(flat[0, best[0]]), tested)


def measured_specificity(
    origin: Origin, change: Mapping[str, Float[np.ndarray, "layers experts documents"]]
) -> dict[str, list[Specificity]]:
    """Every intervention that was possible, to its layers in order."""
    return {
        intervention: [specificity(origin, layer) for layer in layers]
        for intervention, layers in change.items()
        if not np.isnan(layers).any()
    }


def specificity_rows(
    origin: Origin, layers: Sequence[int], tested: Mapping[str, Sequence[Specificity]]
) -> Iterator[SpecificityRow]:
    """Every intervention and layer of `measured_specificity`."""
    for intervention, found in tested.items():
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
                splits=one.splits,
                chosen_in=one.chosen_in,
                chosen_value=one.chosen_value,
                tested_value=one.tested.value,
                low=one.tested.interval.low,
                high=one.tested.interval.high,
                mean_value=one.mean_value,
                null_mean=float(one.null.mean()),
                null_high=float(np.quantile(one.null, 1 - TAIL)),
                p=one.p,
                p_holm=float(p_holm),
                documents=one.documents,
            )


def specificity_draws(
    origin: Origin, layers: Sequence[int], tested: Sequence[Specificity]
) -> Iterator[SpecificityDraws]:
    """One a layer."""
    for layer, one in zip(layers, tested, strict=True):
        yield SpecificityDraws(
            arm=origin.arm,
            seed=origin.seed,
            step=origin.step,
            layer=layer,
            mean_value=one.mean_value,
            null=tuple(one.null.tolist()),
        )


def mean_over_seeds_p(draws: Sequence[SpecificityDraws]) -> float:
    """How often the mean over seeds of values under dealt domains reaches the mean of the seeds' own, one-sided: one
    layer of one arm, on documents that all seeds share, so that a draw deals them alike in all of them.

    1/(1 + permutations) where no draw does, 1 where every one does; of one seed it is `SpecificityRow.p`.
    """
    null = np.mean([one.null for one in draws], axis=0)
    return null_p_value(float(np.mean([one.mean_value for one in draws])), null)


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


def mean_over_halves(
    origin: Origin,
    change: Float[np.ndarray, " documents"],
    weights: Float[np.ndarray, " domains"],
    tested: Bool[np.ndarray, "splits documents"],
) -> Estimate:
    """Σ weight · effect on the domain, mean over tested halves, with its interval over documents.

    Ratios are linearised as in `effects.domain_ratios`: a document counts for what it adds in the halves that hold it,
    and a resample that draws none of a half's documents has a value all the same.
    """
    value, adds, drawn = 0.0, np.zeros(len(change)), []
    for number in np.flatnonzero(weights):
        half = tested & (origin.domain == number)
        tokens = (half @ origin.predicted)[:, np.newaxis]
        ratio = (half @ change)[:, np.newaxis] / tokens
        value += weights[number] * float(ratio.mean())
        left = (change - ratio * origin.predicted) / np.where(half, tokens - origin.predicted, 1)
        adds += weights[number] * np.where(half, left, 0).mean(0)
        drawn.append(int(half.any(0).sum()))

    def statistic(drawings: Int[np.ndarray, "replicates documents"]) -> Float[np.ndarray, " replicates"]:
        return np.asarray(value + (drawings - 1.0) @ adds)

    return bootstrap(statistic, origin.domain, min(drawn)).estimate()


def against_others(domain: int, domains: int) -> Float[np.ndarray, " domains"]:
    """Weights of a domain against the mean of the others: 1 and −1/(D − 1), which sum to 0."""
    return np.where(np.arange(domains) == domain, 1.0, -1 / (domains - 1))
