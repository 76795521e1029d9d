"""Whether two routers found the same experts: their ids are arbitrary, so they are matched first (Hungarian, by
`scipy.optimize.linear_sum_assignment`), on one half of the probe documents, and compared on the other.

Matching finds agreement in noise: E! ways to name experts leave one that fits. On the half that did not choose it, it
has no such luck, and the null is matched and compared in the same way.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from moe_emergence.analysis.information import labelled_shares, resampled_shares
from moe_emergence.analysis.sequences import turned
from moe_emergence.analysis.statistics import (
    REPLICATES,
    Domains,
    Estimate,
    Interval,
    bootstrap,
    central_range,
    document_halves,
    documents_per_domain,
    generator,
    labels_permuted_in_halves,
    null_p_value,
)

DRAWS = 199
"""Draws of a null; p is at least 1/200."""

Similarity = Float[np.ndarray, "*draws halves experts experts"]
"""How alike expert i of one router and expert j of the other are on each half of the documents."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Agreement with its interval, its null (mean and 97.5 % point), p, and the expert matched to each."""

    agreement: Estimate
    null_mean: float
    null_high: float
    p: float
    matches: tuple[int, ...]


def matched_tokens(
    experts: Int[np.ndarray, "tokens k"],
    others: Int[np.ndarray, "tokens k"],
    document: Int[np.ndarray, " tokens"],
    domain: Domains,
    n_experts: int,
    draws: int = DRAWS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Match:
    """Agreement of two routers on tokens; `document` rises, as in a trace."""
    half, domains, slots = document_halves(domain, seed), len(documents_per_domain(domain)), experts.shape[1]
    group = 2 * domain + half
    pairs = pair_counts(experts, others, document, len(domain), n_experts)

    def similarity(shares: Float[np.ndarray, "*draws groups pairs"]) -> Similarity:
        by_half = shares.reshape(*shares.shape[:-2], domains, 2, n_experts, n_experts)
        return slots * by_half.mean(-4)

    found = similarity(labelled_shares(pairs, group, 2 * domains))
    matchings = _matchings(found)
    rng = generator(seed)
    null = np.empty(draws)
    for draw in range(draws):
        counts = pair_counts(experts, others[turned(document, rng)], group[document], 2 * domains, n_experts)
        null[draw] = cross_matched(similarity(counts / np.maximum(counts.sum(-1, keepdims=True), 1)))
    resampled = bootstrap(
        lambda weights: _compared(similarity(resampled_shares(pairs, group, 2 * domains, weights)), matchings),
        group,
        replicates=replicates,
        seed=seed,
    )
    value, (low, high) = float(resampled.observed), map(float, resampled.shares())
    return _match(Estimate(value, Interval(low, high)), value, null, found)


def matched_profiles(
    counts: Int[np.ndarray, "documents experts"],
    others: Int[np.ndarray, "documents experts"],
    domain: Domains,
    draws: int = DRAWS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Match:
    """Agreement of two routers' domain profiles, corrected for bias: profiles of few documents are noisy, which takes
    off from any correlation of them. The null and p are of the value as it is."""
    half, domains = document_halves(domain, seed), len(documents_per_domain(domain))
    group = 2 * domain + half
    ours, theirs = (_profiles(labelled_shares(routed, group, 2 * domains)) for routed in (counts, others))
    matchings = _matchings(_correlation(ours, theirs))
    labels = labels_permuted_in_halves(domain, half, draws, generator(seed + 1))
    dealt = _correlation(ours, _profiles(labelled_shares(others, 2 * labels + half, 2 * domains)))
    null = np.array([cross_matched(draw) for draw in dealt])

    def statistic(weights: Int[np.ndarray, "replicates documents"]) -> Float[np.ndarray, " replicates"]:
        resampled = (_profiles(resampled_shares(routed, group, 2 * domains, weights)) for routed in (counts, others))
        return _compared(_correlation(*resampled), matchings)

    found = bootstrap(statistic, group, replicates=replicates, seed=seed)
    value, low, high = (float(np.clip(each, -1, 1)) for each in (found.corrected, *found.reflected()))
    raw = float(found.observed)
    return _match(Estimate(value, Interval(low, high)), raw, null, _correlation(ours, theirs))


def pair_counts(
    experts: Int[np.ndarray, "tokens k"],
    others: Int[np.ndarray, "tokens k"],
    group: Int[np.ndarray, " tokens"],
    groups: int,
    n_experts: int,
) -> Int[np.ndarray, "groups pairs"]:
    """[groups, experts × experts]: how many tokens have expert i in a slot of one and j in a slot of the other; each
    token counts k² times."""
    cells = experts[:, :, np.newaxis] * n_experts + others[:, np.newaxis, :]
    cells = group[:, np.newaxis, np.newaxis] * n_experts**2 + cells
    return np.bincount(cells.reshape(-1), minlength=groups * n_experts**2).reshape(groups, -1)


def cross_matched(similarity: Float[np.ndarray, "halves experts experts"]) -> float:
    """Σ_i similarity of i and its match: matched on each half, summed on the other, mean of the two."""
    return float(_compared(similarity, _matchings(similarity)))


def _matchings(similarity: Float[np.ndarray, "halves experts experts"]) -> Int[np.ndarray, "halves experts"]:
    """The other's expert for each, so that the sum over pairs is the largest there is."""
    return np.stack([linear_sum_assignment(half, maximize=True)[1] for half in similarity])


def _compared(similarity: Similarity, matchings: Int[np.ndarray, "halves experts"]) -> Float[np.ndarray, "*draws"]:
    swapped = matchings[::-1, :, np.newaxis]
    cells = np.broadcast_to(swapped, (*similarity.shape[:-1], 1))
    return np.take_along_axis(similarity, cells, axis=-1)[..., 0].sum(-1).mean(-1)


def _profiles(shares: Float[np.ndarray, "*draws groups experts"]) -> Float[np.ndarray, "*draws halves domains experts"]:
    """p(e|d) less its mean over domains, on each half, scaled to length 1 (0 where every domain is the same)."""
    *draws, groups, experts = shares.shape
    by_half = np.moveaxis(shares.reshape(*draws, groups // 2, 2, experts), -2, -3)
    centred = by_half - by_half.mean(-2, keepdims=True)
    length = np.sqrt(np.square(centred).sum((-2, -1), keepdims=True))
    return centred / np.where(length > 0, length, 1)


def _correlation(
    ours: Float[np.ndarray, "*draws halves domains experts"], theirs: Float[np.ndarray, "*draws halves domains experts"]
) -> Similarity:
    return np.swapaxes(ours, -1, -2) @ theirs


def _match(
    agreement: Estimate,
    observed: float,
    null: Float[np.ndarray, " draws"],
    similarity: Float[np.ndarray, "halves experts experts"],
) -> Match:
    return Match(
        agreement=agreement,
        null_mean=float(null.mean()),
        null_high=central_range(null).high,
        p=null_p_value(observed, null),
        matches=tuple(map(int, linear_sum_assignment(similarity.mean(0), maximize=True)[1])),
    )
