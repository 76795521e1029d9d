"""Effects of interventions with intervals over documents, from each document's summed change of loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from moe_emergence.analysis.statistics import Bootstrap, bootstrap, documents_per_domain
from moe_emergence.errors import AnalysisError


@dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
    """What rows are of: a run at a step, and its documents with a loss.

    Attributes:
        domains: names; domain: [docs] index into them; predicted: [docs] tokens with a loss, at least 1.
    """

    arm: str
    seed: int
    step: int
    domains: tuple[str, ...]
    domain: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def tokens(self, domain: str | None) -> int:
        """With a loss, of one domain or of all."""
        mine = slice(None) if domain is None else self.domain == self.domains.index(domain)
        return int(self.predicted[mine].sum())

    def of(self, places: NDArray[np.int64]) -> "Origin":
        """On some of the documents."""
        return Origin(
            arm=self.arm,
            seed=self.seed,
            step=self.step,
            domains=self.domains,
            domain=self.domain[places],
            predicted=self.predicted[places],
        )


@dataclass(frozen=True, kw_only=True)
class KnockoutRow:
    """What one intervention on one expert does to the loss of one domain (None: mean over domains).

    Attributes:
        effect: Σ change of loss ÷ the domain's predicted tokens, nats a token: above 0 when the expert helps, 0 when it
            has no tokens or does nothing that another would not; with its 95 % interval, paired by document, and
            two-sided p. Changes of later tokens that see an affected one count.
        per_affected: the same sum ÷ affected tokens, with its interval; None without any (for the mean: in some
            domain), the interval alone None where they are of one document.
        affected: tokens with a loss one of whose k experts it is; affected_share: of the domain's.
        documents: of the domain, or of the smallest.
    """

    arm: str
    seed: int
    step: int
    layer: int
    expert: int
    domain: str | None
    intervention: str
    effect: float
    low: float
    high: float
    p: float
    per_affected: float | None
    per_affected_low: float | None
    per_affected_high: float | None
    affected: int
    affected_share: float
    documents: int


@dataclass(frozen=True, kw_only=True)
class DoseRow:
    """Change of loss with all experts of a layer at W_0 + dose · (W_e − W_0), W_0 the MLP they were copied from: nats a
    token of the domain (None: mean over domains), with its 95 % interval; 0 at dose 1."""

    arm: str
    seed: int
    step: int
    layer: int
    dose: float
    domain: str | None
    effect: float
    low: float
    high: float
    documents: int


def domain_means(origin: Origin, sums: Float[np.ndarray, "*cells documents"], seed: int = 0) -> Bootstrap:
    """Σ over a domain's documents ÷ Σ of its predicted tokens [*cells, domains + 1], the last the mean of domains."""
    cells = sums.reshape(-1, sums.shape[-1])
    members = _members(origin)

    def statistic(weights: Int[np.ndarray, "replicates documents"]) -> Float[np.ndarray, "replicates ..."]:
        parts = []
        for mine in members:
            drawn = weights[:, mine].astype(np.float64)
            parts.append(drawn @ cells[:, mine].T / (drawn @ origin.predicted[mine])[:, np.newaxis])
        return _with_mean(np.stack(parts, axis=-1)).reshape(len(weights), *sums.shape[:-1], -1)

    return bootstrap(statistic, origin.domain, _sizes(origin), seed=seed)


def domain_ratios(
    origin: Origin,
    sums: Float[np.ndarray, "cells documents"],
    counts: Int[np.ndarray, "cells documents"],
    seed: int = 0,
) -> Bootstrap:
    """Σ sums ÷ Σ counts of each domain [cells, domains + 1], the last the mean of domains; NaN without counts.

    A resample that draws document i w_i times has the linearised ratio r + Σ (w_i − 1)(x_i − r c_i)/(C − c_i), C = Σ c,
    since one without any counted token has no ratio. C − c_i is what is left without document i, as in the jackknife
    [Efron and Tibshirani 1993, §11.5]; with C alone intervals come out too short.
    """
    totals = np.stack([counts[:, mine].sum(1) for mine in _members(origin)], axis=1)
    with np.errstate(invalid="ignore"):
        ratios = np.stack([sums[:, mine].sum(1) for mine in _members(origin)], axis=1) / np.where(
            totals > 0, totals, np.nan
        )
    left = sums - np.take_along_axis(ratios, origin.domain[np.newaxis], axis=1) * counts
    rest = np.take_along_axis(totals, origin.domain[np.newaxis], axis=1) - counts
    scaled = left / rest.clip(min=1)

    def statistic(weights: Int[np.ndarray, "replicates documents"]) -> Float[np.ndarray, "replicates ..."]:
        parts = [(weights[:, mine] - 1.0) @ scaled[:, mine].T for mine in _members(origin)]
        return _with_mean(ratios + np.stack(parts, axis=-1))

    return bootstrap(statistic, origin.domain, _sizes(origin), seed=seed)


def knockout_rows(
    origin: Origin,
    layers: Sequence[int],
    interventions: Sequence[str],
    change: Float[np.ndarray, "interventions layers experts documents"],
    affected: Int[np.ndarray, "layers experts documents"],
) -> Iterator[KnockoutRow]:
    """Every expert and intervention that was possible on every domain, then their mean."""
    for place, intervention in enumerate(interventions):
        for number, layer in enumerate(layers):
            if not np.isnan(change[place, number]).any():
                yield from _layer_rows(origin, layer, intervention, change[place, number], affected[number])


def dose_rows(
    origin: Origin, layers: Sequence[int], doses: Sequence[float], dose: Float[np.ndarray, "doses layers documents"]
) -> Iterator[DoseRow]:
    """Every layer and dose on every domain, then their mean."""
    found = domain_means(origin, dose)
    for number, layer in enumerate(layers):
        for place, a in enumerate(doses):
            for column, domain in enumerate((*origin.domains, None)):
                effect = single(found, (place, number, column)).estimate()
                yield DoseRow(
                    arm=origin.arm,
                    seed=origin.seed,
                    step=origin.step,
                    layer=layer,
                    dose=a,
                    domain=domain,
                    effect=effect.value,
                    low=effect.interval.low,
                    high=effect.interval.high,
                    documents=int(_sizes(origin)[column]),
                )


def single(found: Bootstrap, place: tuple[int, ...]) -> Bootstrap:
    """One value of an array of values."""
    documents = np.broadcast_to(found.documents, found.observed.shape)
    replicates = found.replicates.reshape(len(found.replicates), -1)[:, np.ravel_multi_index(place, documents.shape)]
    return Bootstrap(found.observed[place], replicates, int(documents[place]))


def measurable_documents(domain: NDArray[np.int64], domains: int, least: int = 2) -> bool:
    """Whether there are 2 domains or more to tell apart, and each has the documents that intervals need."""
    sizes = np.bincount(domain, minlength=domains)
    return domains > 1 and int(sizes.min()) >= least


def _layer_rows(
    origin: Origin,
    layer: int,
    intervention: str,
    change: Float[np.ndarray, "experts documents"],
    affected: Int[np.ndarray, "experts documents"],
) -> Iterator[KnockoutRow]:
    total, ratio = domain_means(origin, change), domain_ratios(origin, change, affected)
    share = domain_means(origin, affected).observed
    for expert in range(len(change)):
        for column, domain in enumerate((*origin.domains, None)):
            effect = single(total, (expert, column)).difference()
            mine = slice(None) if domain is None else origin.domain == column
            value, low, high = _per_affected(single(ratio, (expert, column)), _spread(origin, affected[expert], column))
            yield KnockoutRow(
                arm=origin.arm,
                seed=origin.seed,
                step=origin.step,
                layer=layer,
                expert=expert,
                domain=domain,
                intervention=intervention,
                effect=effect.value,
                low=effect.interval.low,
                high=effect.interval.high,
                p=effect.p,
                per_affected=value,
                per_affected_low=low,
                per_affected_high=high,
                affected=int(affected[expert, mine].sum()),
                affected_share=float(share[expert, column]),
                documents=int(_sizes(origin)[column]),
            )


def _per_affected(ratio: Bootstrap, documents: int) -> tuple[float | None, float | None, float | None]:
    if np.isnan(ratio.observed):
        return None, None, None
    estimate = ratio.estimate()
    if documents < 2:
        return estimate.value, None, None
    return estimate.value, estimate.interval.low, estimate.interval.high


def _spread(origin: Origin, affected: NDArray[np.int64], column: int) -> int:
    """Documents with affected tokens, of the domain or of the one with fewest."""
    found = [int((affected[mine] > 0).sum()) for mine in _members(origin)]
    return min(found) if column == len(found) else found[column]


def _members(origin: Origin) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(origin.domain == number) for number in range(len(origin.domains))]


def _sizes(origin: Origin) -> NDArray[np.int64]:
    """Documents of each domain, and of the smallest."""
    sizes = documents_per_domain(origin.domain)
    if len(sizes) != len(origin.domains):
        raise AnalysisError(f"{len(origin.domains)} domains need documents; only {len(sizes)} have any in the probe")
    return np.append(sizes, sizes.min())


def _with_mean(values: Float[np.ndarray, "... domains"]) -> Float[np.ndarray, "... columns"]:
    return np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)
