"""Which experts of a layer a token uses together, for layers of k ≥ 2 slots: over all pairs of a token's set.

Tokens of a domain weigh equally, and so do domains. With P_i the share of tokens that use expert i (they sum to k) and
P_ij the share that use both, co-activation is P_ij / P_i [Muennighoff et al. 2024, arXiv:2409.02060, §5] and lift is
P_ij / (P_i P_j). Even without any preference the lift is below 1, since no expert is chosen twice: its chance level is
that of E independent choices with these loads of which exactly k happened to be made (conditional Bernoulli sampling,
the distribution of sets with the most entropy among those with these P_i) [Chen, Dempster and Liu 1994].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import t

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.statistics import (
    REPLICATES,
    TAIL,
    Bootstrap,
    Domains,
    bootstrap,
    documents_per_domain,
)
from moe_emergence.analysis.token_information import check_tokens, domain_joint, in_batches
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.errors import AnalysisError

_ROUNDS = 2_000
_CLOSE = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Coactivation:
    """[experts, experts] matrices of one layer, each with a diagonal of NaN, and of rows of NaN for unused experts.

    Attributes:
        together: how many tokens use both.
        share: P_ij / P_i, of the tokens of expert i (row) the share that use j too, 0..1, rows summing to k − 1;
            share_low, share_high: 95 % over documents; share_chance: by independent choice with these loads.
        lift: P_ij / (P_i P_j), 0 when never together; lift_low, lift_high: 95 % over documents; lift_chance: by
            independent choice, (k − 1) E / (k (E − 1)) when the load is even.
        documents: of the smallest domain.
    """

    together: Int[np.ndarray, "experts experts"]
    share: Float[np.ndarray, "experts experts"]
    share_low: Float[np.ndarray, "experts experts"]
    share_high: Float[np.ndarray, "experts experts"]
    share_chance: Float[np.ndarray, "experts experts"]
    lift: Float[np.ndarray, "experts experts"]
    lift_low: Float[np.ndarray, "experts experts"]
    lift_high: Float[np.ndarray, "experts experts"]
    lift_chance: Float[np.ndarray, "experts experts"]
    documents: int


@dataclass(frozen=True, kw_only=True)
class CoactivationRow:
    """Of the tokens that use `expert`, how many use `other` too.

    Attributes:
        documents: of the smallest domain; tokens: of the trace; together: that use both.
        share: of the tokens of `expert`, 0..1, domains weighted equally; over all others they sum to k − 1.
        lift: share ÷ the share of all tokens that use `other`, the same both ways.
        …_low, …_high: 95 % over documents; …_chance: by independent choice without repetition at these loads.
    """

    arm: str
    seed: int
    step: int
    layer: int
    expert: int
    other: int
    documents: int
    tokens: int
    together: int
    share: float
    share_low: float
    share_high: float
    share_chance: float
    lift: float
    lift_low: float
    lift_high: float
    lift_chance: float


def coactivation_rows(run: Run, trace: Trace) -> Iterator[CoactivationRow]:
    """One row a layer and ordered pair of used experts; none for k = 1, or with fewer than 2 documents in a domain."""
    for layer in trace.layers if trace.domain_sizes.min() > 1 else ():
        if layer.experts.shape[1] > 1:
            yield from _rows(run, trace, layer)


def coactivation(
    experts: Int[np.ndarray, "tokens slots"],
    document: Int[np.ndarray, " tokens"],
    domain: Domains,
    n_experts: int,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Coactivation:
    """Every pair of every token's set, whatever the slots' order.

    Args:
        experts: k different experts a token.
        document: each token's row in `domain`.

    Raises:
        AnalysisError: fewer than 2 slots, or a domain with fewer than 2 documents or without tokens.
    """
    slots = experts.shape[1]
    if slots < 2:
        raise AnalysisError(f"co-activation needs at least 2 experts a token; got {slots}: measure runs with top_k > 1")
    counts = pair_counts(experts, document, len(domain), n_experts)
    check_tokens(counts, domain)

    def measures(
        joint: Float[np.ndarray, "draws domains experts experts"],
    ) -> Float[np.ndarray, "draws 2 experts experts"]:
        # a token fills k² cells, its pairs in both orders and each expert with itself
        both = joint.sum(1) * slots**2
        used = np.diagonal(both, axis1=-2, axis2=-1)
        share = both / np.where(used > 0, used, 1)[..., :, None]
        return np.stack([share, share / np.where(used > 0, used, 1)[..., None, :]], axis=1)

    found = bootstrap(in_batches(measures, counts, domain), domain, replicates=replicates, seed=seed)
    used = domain_joint(counts, domain, np.ones((1, len(domain)), dtype=np.int64)).sum((0, 1)).diagonal() * slots**2
    chance = independent_pairs(used, slots)
    pairs = np.where(np.eye(n_experts, dtype=bool) | (used[:, None] == 0) | (used == 0), np.nan, 1)
    (share, lift), (share_ends, lift_ends) = found.observed, _ends(found)
    scale = np.where(used > 0, used, 1)
    return Coactivation(
        together=counts.sum(0),
        share=share * pairs,
        share_low=share_ends[0] * pairs,
        share_high=share_ends[1] * pairs,
        share_chance=chance / scale[:, None] * pairs,
        lift=lift * pairs,
        lift_low=lift_ends[0] * pairs,
        lift_high=lift_ends[1] * pairs,
        lift_chance=chance / scale[:, None] / scale * pairs,
        documents=int(documents_per_domain(domain).min()),
    )


def pair_counts(
    experts: Int[np.ndarray, "tokens slots"], document: Int[np.ndarray, " tokens"], documents: int, n_experts: int
) -> Int[np.ndarray, "documents experts experts"]:
    """Tokens of each document that use both experts, symmetric; on the diagonal, that use the expert. Sums to T·k²."""
    cells = (document[:, None, None] * n_experts + experts[:, :, None]) * n_experts + experts[:, None, :]
    counts = np.bincount(cells.reshape(-1), minlength=documents * n_experts**2)
    return counts.reshape(documents, n_experts, n_experts)


def independent_pairs(used: Float[np.ndarray, " experts"], slots: int) -> Float[np.ndarray, "experts experts"]:
    """P_ij of sets of exactly `slots` experts drawn independently but for that, such that P_i = `used` (sums to slots).

    The weights of P(S) ∝ Π w_i are found by iteration [Chen, Dempster and Liu 1994, eq. 2.3]; an expert in every set
    is taken out first, since its weight has no bound. The diagonal holds P_i.
    """
    always = used >= 1 - _CLOSE
    left, odds = slots - int(always.sum()), np.where(always, 0, used)
    found = np.outer(used, used)  # pairs with an expert that is always there
    if left > 0:
        free = np.ix_(~always, ~always)
        found[free] = _drawn_pairs(odds, left)[free]
    np.fill_diagonal(found, used)
    return found


def _drawn_pairs(used: Float[np.ndarray, " experts"], slots: int) -> Float[np.ndarray, "experts experts"]:
    weights = used.copy()
    apart = 1 - np.eye(len(used))
    for _ in range(_ROUNDS):
        without = _symmetric(weights * apart, slots - 1)
        total = float(_symmetric(weights, slots))
        if np.abs(weights * without / total - used).max() < _CLOSE:
            break
        weights = used / np.where(without > 0, without, 1)
        weights /= weights.sum()
    both = weights[:, None] * weights * apart
    if slots < 2:
        return np.zeros_like(both)
    rest = _symmetric(weights * (apart[:, None] * apart[None]), slots - 2)
    return both * rest / float(_symmetric(weights, slots))


def _symmetric(weights: Float[np.ndarray, "*rows experts"], degree: int) -> Float[np.ndarray, "*rows"]:
    """Elementary symmetric polynomial: the sum over all sets of `degree` experts of the product of their weights."""
    found = np.zeros((*weights.shape[:-1], degree + 1))
    found[..., 0] = 1
    for expert in range(weights.shape[-1]):
        found[..., 1:] += weights[..., expert, None] * found[..., :-1]
    last: NDArray[np.float64] = found[..., -1]
    return last


def _ends(found: Bootstrap) -> tuple[tuple[NDArray[np.float64], ...], tuple[NDArray[np.float64], ...]]:
    """(low, high) of the shares, and of the lifts: θ̂ · exp(± t · standard error / θ̂), which are skewed and above 0."""
    share = Bootstrap(found.observed[0], found.replicates[:, 0], found.documents).shares()
    lift = Bootstrap(found.observed[1], found.replicates[:, 1], found.documents)
    spread = t.ppf(1 - TAIL, found.documents - 1) * lift.standard_error / np.where(lift.observed > 0, lift.observed, 1)
    return share, (lift.observed * np.exp(-spread), lift.observed * np.exp(spread))


def _rows(run: Run, trace: Trace, layer: LayerTrace) -> Iterator[CoactivationRow]:
    found = coactivation(layer.experts, trace.document, trace.domain, layer.slots.shape[1])
    for expert, other in np.argwhere(~np.isnan(found.share)):
        yield CoactivationRow(
            arm=run.arm,
            seed=run.seed,
            step=trace.step,
            layer=layer.layer,
            expert=int(expert),
            other=int(other),
            documents=found.documents,
            tokens=len(trace.document),
            together=int(found.together[expert, other]),
            share=float(found.share[expert, other]),
            share_low=float(found.share_low[expert, other]),
            share_high=float(found.share_high[expert, other]),
            share_chance=float(found.share_chance[expert, other]),
            lift=float(found.lift[expert, other]),
            lift_low=float(found.lift_low[expert, other]),
            lift_high=float(found.lift_high[expert, other]),
            lift_chance=float(found.lift_chance[expert, other]),
        )
