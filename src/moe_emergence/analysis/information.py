"""What the expert tells of the domain, in bits, with its nulls and its interval; and what the domains' losses are.

`counts` [documents, experts] says how many tokens of each document went to each expert, `domain` which domain 0..D−1
the document is of. Seeds of an arm share documents: with a leading axis of seeds, a quantity is the mean over seeds,
and documents are drawn for all seeds at once, so intervals are over documents with the seeds as they are.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr, rel_entr

from moe_emergence.analysis.statistics import (
    PERMUTATIONS,
    REPLICATES,
    Bootstrap,
    Difference,
    Domains,
    Estimate,
    Interval,
    bootstrap,
    central_range,
    documents_per_domain,
    generator,
    null_p_value,
    permuted_labels,
)
from moe_emergence.errors import AnalysisError

Counts = Int[np.ndarray, "*seeds documents experts"]
Losses = Float[np.ndarray, "*seeds documents"]
Weights = Int[np.ndarray, "replicates documents"]


@dataclass(frozen=True, kw_only=True)
class DomainInformation:
    """I(E;D) of one layer, bits.

    Attributes:
        estimate: plug_in − null_mean: about 0 when domains mean nothing; with N documents in all it is about
            I·(D − 1)/N too low, since permuting deals documents of different domains into one.
        corrected: the bootstrap's bias-corrected value, 0..maximum, which has no such bias and lies in `interval`.
        interval: 95 % for the true I over documents like these, 0..maximum.
        p: share of permutations of the documents' domains that reach the plug-in, at least 1/(1 + permutations).
        plug_in: I of the counts as they are, 0..maximum: biased upwards, the more the fewer documents.
        null_mean, null_low, null_high: mean and central 95 % of the plug-in under those permutations.
        maximum: H(D) = log2 D.
        documents: of the smallest domain.
        tokens: how many assignments were counted, all seeds together.
    """

    estimate: float
    corrected: float
    interval: Interval
    p: float
    plug_in: float
    null_mean: float
    null_low: float
    null_high: float
    maximum: float
    documents: int
    tokens: int


@dataclass(frozen=True, eq=False)
class DomainShares:
    """p(e|d), the share of a domain's tokens that each expert takes, 0..1, rows summing to 1; 95 % intervals a cell."""

    shares: Float[np.ndarray, "domains experts"]
    low: Float[np.ndarray, "domains experts"]
    high: Float[np.ndarray, "domains experts"]


@dataclass(frozen=True)
class DomainLosses:
    """LM loss in nats a token: Σ loss / Σ tokens of each domain, and their mean with domains weighted equally."""

    domains: tuple[Estimate, ...]
    macro: Estimate


@dataclass(frozen=True)
class LossDifferences:
    """LM loss of one arm minus another's, nats a token, below 0 where the first is better; as in `DomainLosses`."""

    domains: tuple[Difference, ...]
    macro: Difference


def entropy(mass: Float[np.ndarray, "*cells"]) -> float:
    """Of all cells together, bits; 0 where one has everything, log2 of their number where they are alike."""
    total = mass.sum()
    return float(entr(mass / (total if total > 0 else 1)).sum() / math.log(2))


def mutual_information(joint: Float[np.ndarray, "*tables rows columns"]) -> Float[np.ndarray, "*tables"]:
    """Σ p(r,c) log2 p(r,c)/(p(r) p(c)) of each table, in bits, p = cell / sum: 0 when independent (or empty), log2 of
    the number of rows when they are equally likely and share no column [Cover and Thomas 2006, eq. 2.28]."""
    total = joint.sum((-2, -1), keepdims=True)
    p = joint / np.where(total > 0, total, 1)
    independent = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    return np.maximum(rel_entr(p, independent).sum((-2, -1)), 0) / math.log(2)


def normalised_information(joint: Float[np.ndarray, "*tables rows columns"]) -> Float[np.ndarray, "*tables"]:
    """2·I/(H(rows) + H(columns)) of each table: 0 when independent or when neither varies, 1 when either tells the
    other. Unlike I/H(columns), two rows that share a column between them lower it [Press et al. 1992, §14.4]."""
    total = joint.sum((-2, -1), keepdims=True)
    p = joint / np.where(total > 0, total, 1)
    entropies = entr(p.sum(-1)).sum(-1) + entr(p.sum(-2)).sum(-1)
    told = 2 * math.log(2) * mutual_information(joint)
    return np.minimum(told / np.where(entropies > 0, entropies, 1), 1)


def miller_madow_bias(counts: Int[np.ndarray, "*tables rows columns"]) -> Float[np.ndarray, "*tables"]:
    """How far the plug-in I of counts is above the truth by chance, in bits, to first order: (cells − rows − columns +
    1)/(2 N ln 2), of cells, rows and columns that have counts, N their sum [Miller 1955]. 0 for an empty table.

    It takes the N counts as independent. Tokens of one document are alike, so here it is a lower bound: the bias is
    about that of as many independent draws as the documents are worth, which permuting whole documents shows.
    """
    found = counts > 0
    cells = found.sum((-2, -1)) - found.any(-1).sum(-1) - found.any(-2).sum(-1) + 1
    total = counts.sum((-2, -1))
    return np.where(total > 0, cells, 0) / (2 * math.log(2) * np.maximum(total, 1))


def miller_madow_information(counts: Int[np.ndarray, "*tables rows columns"]) -> Float[np.ndarray, "*tables"]:
    """Plug-in I less `miller_madow_bias`, in bits; below 0 where chance would show more than the counts do."""
    return mutual_information(counts) - miller_madow_bias(counts)


def domain_information(
    counts: Counts, domain: Domains, weights: Weights | None = None
) -> Float[np.ndarray, "*replicates_and_seeds"]:
    """Plug-in I(E;D) with domains weighted equally, mean over d of KL(p(e|d) ‖ mean over d of p(e|d)), in bits: 0 when
    every domain uses the experts alike, log2 D when no two share one. With weights, one value a resample first."""
    return mutual_information(_shares(counts, _membership(domain, weights)))


def measured_domain_information(
    counts: Counts, domain: Domains, permutations: int = PERMUTATIONS, replicates: int = REPLICATES, seed: int = 0
) -> DomainInformation:
    """I(E;D) with its permutation null and its interval.

    Raises:
        AnalysisError: counts do not fit the domains, or a domain has fewer than 2 documents or no tokens.
    """
    _check_counts(counts, domain)
    resampled = _bootstrapped_information(counts, domain, replicates, seed)
    plug_in, maximum = float(resampled.observed), math.log2(len(documents_per_domain(domain)))
    null = _permuted_information(counts, domain, permutations, seed)
    null_range, null_mean = central_range(null), float(null.mean())
    low, high = np.clip(resampled.reflected(), 0, maximum)
    return DomainInformation(
        estimate=plug_in - null_mean,
        corrected=float(np.clip(resampled.corrected, 0, maximum)),
        interval=Interval(float(low), float(high)),
        p=null_p_value(plug_in, null),
        plug_in=plug_in,
        null_mean=null_mean,
        null_low=null_range.low,
        null_high=null_range.high,
        maximum=maximum,
        documents=int(documents_per_domain(domain).min()),
        tokens=int(counts.sum()),
    )


def labelled_shares(
    counts: Counts, labels: Int[np.ndarray, "*labellings documents"], number: int
) -> Float[np.ndarray, "*labellings_and_seeds labels experts"]:
    """p(e|label), the share of the tokens under each label 0..number−1 that each expert takes, for each way to label
    the documents: rows sum to 1, or to 0 for a label without tokens."""
    return _shares(counts, labels[..., np.newaxis, :] == np.arange(number)[:, np.newaxis])


def resampled_shares(
    counts: Counts, labels: Int[np.ndarray, " documents"], number: int, weights: Weights
) -> Float[np.ndarray, "replicates *seeds labels experts"]:
    """The same for one way to label, on each resample of the documents."""
    return _shares(counts, (labels == np.arange(number)[:, np.newaxis]) * weights[:, np.newaxis, :])


def fresh_gate_values(
    fresh: Int[np.ndarray, "gates documents experts"], domain: Domains
) -> Float[np.ndarray, " gates"]:
    """Plug-in I(E;D) of each fresh gate on the same documents, in bits: what a router that learned nothing shows.
    `null_p_value(plug_in, values)` says how many of them reach an observed plug-in."""
    _check_counts(fresh, domain)
    return domain_information(fresh, domain)


def information_difference(
    first: Counts, second: Counts, domain: Domains, replicates: int = REPLICATES, seed: int = 0
) -> Difference:
    """I(E;D) of the first minus the second, in bits, −log2 D..log2 D, 0 when equal: both on the same resamples, so what
    the documents share cancels; `value` is the bootstrap's bias-corrected one, since the arms' biases can differ."""
    return resampled_information_difference(first, second, domain, replicates, seed).difference(biased=True)


def resampled_information_difference(
    first: Counts, second: Counts, domain: Domains, replicates: int = REPLICATES, seed: int = 0
) -> Bootstrap:
    """What `information_difference` is read from; its value is biased."""
    _check_counts(first, domain)
    _check_counts(second, domain)

    def statistic(weights: Weights) -> Float[np.ndarray, " replicates"]:
        return _mean_information(first, domain, weights) - _mean_information(second, domain, weights)

    return bootstrap(statistic, domain, replicates=replicates, seed=seed)


def domain_shares(counts: Counts, domain: Domains, replicates: int = REPLICATES, seed: int = 0) -> DomainShares:
    """The domain's counts for the expert / all of the domain's counts, mean over seeds, with intervals."""
    _check_counts(counts, domain)

    def statistic(weights: Weights) -> Float[np.ndarray, "replicates domains experts"]:
        shares = _shares(counts, _membership(domain, weights))
        return shares.reshape(len(weights), -1, *shares.shape[-2:]).mean(1)

    sizes = documents_per_domain(domain)[:, np.newaxis]
    resampled = bootstrap(statistic, domain, documents=sizes, replicates=replicates, seed=seed)
    return DomainShares(resampled.observed, *resampled.shares())


def domain_losses(
    losses: Losses,
    tokens: Int[np.ndarray, " documents"],
    domain: Domains,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> DomainLosses:
    """An arm's own loss with intervals, from each document's summed loss in nats and its predicted tokens."""
    values = _bootstrapped_losses(losses, tokens, domain, replicates, seed)
    *domains, macro = (value.estimate() for value in values)
    return DomainLosses(tuple(domains), macro)


def loss_difference(
    first: Losses,
    second: Losses,
    tokens: Int[np.ndarray, " documents"],
    domain: Domains,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> LossDifferences:
    """Loss of the first minus the second, from both arms' summed loss in nats of the same documents."""
    *domains, macro = resampled_loss_differences(first, second, tokens, domain, replicates, seed)
    return LossDifferences(tuple(value.difference() for value in domains), macro.difference())


def resampled_loss_differences(
    first: Losses,
    second: Losses,
    tokens: Int[np.ndarray, " documents"],
    domain: Domains,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Bootstrap]:
    """What `loss_difference` is read from: one for each domain, and the last for their mean."""
    _check_losses(first, tokens, domain)
    _check_losses(second, tokens, domain)
    between = _mean_over_seeds(first) - _mean_over_seeds(second)
    return _bootstrapped_losses(between, tokens, domain, replicates, seed)


def _membership(domain: Domains, weights: Weights | None) -> Int[np.ndarray, "*replicates domains documents"]:
    of_domain = domain == np.arange(domain.max() + 1)[:, np.newaxis]
    return of_domain if weights is None else of_domain * weights[:, np.newaxis, :]


def _shares(
    counts: Counts, membership: Int[np.ndarray, "*replicates domains documents"]
) -> Float[np.ndarray, "*replicates_and_seeds domains experts"]:
    """p(e|d) for each way to put documents in domains and each seed; a domain without tokens stays 0."""
    seeds, (documents, experts) = counts.shape[:-2], counts.shape[-2:]
    flat = np.moveaxis(counts.reshape(-1, documents, experts), 0, 1).reshape(documents, -1)
    tables = membership.astype(np.float64) @ flat.astype(np.float64)
    tables = np.moveaxis(tables.reshape(*tables.shape[:-1], -1, experts), -2, -3)
    total = tables.sum(-1, keepdims=True)
    shares = tables / np.where(total > 0, total, 1)
    return shares.reshape(*membership.shape[:-2], *seeds, *shares.shape[-2:])


def _mean_information(counts: Counts, domain: Domains, weights: Weights) -> Float[np.ndarray, " replicates"]:
    return domain_information(counts, domain, weights).reshape(len(weights), -1).mean(1)


def _bootstrapped_information(counts: Counts, domain: Domains, replicates: int, seed: int) -> Bootstrap:
    return bootstrap(partial(_mean_information, counts, domain), domain, replicates=replicates, seed=seed)


def _permuted_information(
    counts: Counts, domain: Domains, permutations: int, seed: int
) -> Float[np.ndarray, " permutations"]:
    labels = permuted_labels(domain, permutations, generator(seed))
    shares = labelled_shares(counts, labels, int(domain.max()) + 1)
    return mutual_information(shares).reshape(permutations, -1).mean(1)


def _mean_over_seeds(losses: Losses) -> Float[np.ndarray, " documents"]:
    return losses.reshape(-1, losses.shape[-1]).mean(0)


def _bootstrapped_losses(
    losses: Losses, tokens: Int[np.ndarray, " documents"], domain: Domains, replicates: int, seed: int
) -> list[Bootstrap]:
    """One for each domain, and the last for their mean."""
    _check_losses(losses, tokens, domain)
    sums = np.stack([_mean_over_seeds(losses), tokens.astype(np.float64)], axis=1)

    def statistic(weights: Weights) -> Float[np.ndarray, "replicates values"]:
        totals = _membership(domain, weights) @ sums
        means = totals[..., 0] / totals[..., 1]
        return np.concatenate([means, means.mean(1, keepdims=True)], axis=1)

    sizes = documents_per_domain(domain)
    together = bootstrap(statistic, domain, np.append(sizes, sizes.min()), replicates, seed)
    return [together.single(place) for place in range(len(sizes) + 1)]


def _check_counts(counts: Counts, domain: Domains) -> None:
    sizes = documents_per_domain(domain)
    if counts.ndim < 2 or counts.shape[-2] != len(domain):
        raise AnalysisError(
            f"counts must be [..., documents, experts] with the {len(domain)} documents of domain; got {counts.shape}"
        )
    tokens = [int(counts[..., domain == number, :].sum((-2, -1)).min(initial=1)) for number in range(len(sizes))]
    if not all(tokens):
        raise AnalysisError(f"every domain needs tokens; domain {tokens.index(0)} has none: leave it out of the counts")


def _check_losses(losses: Losses, tokens: Int[np.ndarray, " documents"], domain: Domains) -> None:
    if losses.shape[-1:] != domain.shape or tokens.shape != domain.shape:
        raise AnalysisError(
            f"losses and tokens must be of the {len(domain)} documents of domain; got {losses.shape} and {tokens.shape}"
        )
    if tokens.min() < 1:
        raise AnalysisError(
            f"every document needs predicted tokens; document {tokens.argmin()} has {tokens.min()}: leave it out"
        )
