"""Router saturation: how much of what a router will choose, or chose at the trace before, it chooses already.

Mean over tokens of |S_t ∩ S_u| / k, S the set of a token's k experts at two steps [Muennighoff et al. 2024,
arXiv:2409.02060, §5]; tokens of a domain weigh equally, and so do domains. Experts keep their numbers within a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.specialisation import Counted
from moe_emergence.analysis.statistics import REPLICATES, Domains, Interval, bootstrap, documents_per_domain
from moe_emergence.analysis.token_information import check_tokens, ways_of_tokens
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.errors import AnalysisError


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Of one layer's sets at two steps.

    Attributes:
        value: mean of |S ∩ S'| / k, 0 when no token keeps an expert, 1 when all keep all, with its 95 % interval over
            documents.
        uniform: k/E, of two sets drawn evenly and independently.
        by_loads: Σ_i P_i Q_i / k with P_i, Q_i the shares of tokens that use expert i: of sets that have these loads
            and nothing else in common. k/E when either load is even.
        documents: of the smallest domain.
    """

    value: float
    interval: Interval
    uniform: float
    by_loads: float
    documents: int


@dataclass(frozen=True, kw_only=True)
class SaturationRow:
    """How much of a layer's routing at `step` is that of `against_step`, 0..1.

    Attributes:
        counted: the sets of all slots, or first choices.
        against: what the other step is: "final" or "previous".
        documents: of the smallest domain; tokens: of the trace.
        overlap: mean of |S ∩ S'| / k; low, high: 95 % over documents.
        chance: k/E; chance_loads: what sets with the loads of both steps and nothing else in common share.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    against: str
    against_step: int
    documents: int
    tokens: int
    overlap: float
    low: float
    high: float
    chance: float
    chance_loads: float


def saturation_rows(run: Run, trace: Trace, other: Trace, name: str) -> Iterator[SaturationRow]:
    """One row a layer and way of counting; none where a domain has fewer than 2 documents.

    Args:
        other: a trace of the same run at another step; name: what it is called in the row.

    Raises:
        AnalysisError: the traces are not of the same tokens, layers and numbers of experts.
    """
    _check_alike(trace, other)
    if trace.domain_sizes.min() < 2:
        return
    for mine, its in zip(trace.layers, other.layers, strict=True):
        experts = mine.slots.shape[1]
        for (counted, one), (_, two) in zip(ways_of_tokens(mine), ways_of_tokens(its), strict=True):
            found = overlap(one, two, trace.document, trace.domain, experts)
            yield SaturationRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=mine.layer,
                counted=counted,
                against=name,
                against_step=other.step,
                documents=found.documents,
                tokens=len(trace.document),
                overlap=found.value,
                low=found.interval.low,
                high=found.interval.high,
                chance=found.uniform,
                chance_loads=found.by_loads,
            )


def overlap(
    one: Int[np.ndarray, "tokens slots"],
    two: Int[np.ndarray, "tokens slots"],
    document: Int[np.ndarray, " tokens"],
    domain: Domains,
    n_experts: int,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Overlap:
    """How much two sets a token have in common; the experts of a set differ, their order does not count.

    Raises:
        AnalysisError: the sets are not of the same tokens and size, or a domain has fewer than 2 documents or no
            tokens.
    """
    if one.shape != two.shape or len(one) != len(document):
        raise AnalysisError(
            f"both sets must be [tokens, slots] of the {len(document)} tokens; got {one.shape} and {two.shape}"
        )
    common = (one[:, :, None] == two[:, None, :]).sum((1, 2))
    sums = np.stack([np.bincount(document, weights, len(domain)) for weights in (common, np.ones(len(document)))], 1)
    slots = one.shape[1]

    def statistic(weights: NDArray[np.int64]) -> Float[np.ndarray, " replicates"]:
        shares = [
            totals[:, 0] / totals[:, 1] / slots
            for number in range(len(documents_per_domain(domain)))
            for totals in [weights[:, domain == number] @ sums[domain == number]]
        ]
        return np.mean(shares, axis=0)

    check_tokens(sums[:, 1], domain)
    found = bootstrap(statistic, domain, replicates=replicates, seed=seed)
    low, high = found.shares()
    usage = [_usage(experts, document, domain, n_experts) for experts in (one, two)]
    return Overlap(
        value=float(found.observed),
        interval=Interval(float(low), float(high)),
        uniform=slots / n_experts,
        by_loads=float(usage[0] @ usage[1]) / slots,
        documents=int(documents_per_domain(domain).min()),
    )


def _usage(
    experts: NDArray[np.int64], document: NDArray[np.int64], domain: Domains, n_experts: int
) -> Float[np.ndarray, " experts"]:
    """Share of the tokens that use each expert, mean over domains; sums to k."""
    of_token = domain[document]
    cells = (of_token[:, None] * n_experts + experts).reshape(-1)
    counts = np.bincount(cells, minlength=(int(domain.max()) + 1) * n_experts).reshape(-1, n_experts)
    shares: NDArray[np.float64] = (counts / np.bincount(of_token)[:, None]).mean(0)
    return shares


def _check_alike(trace: Trace, other: Trace) -> None:
    same = all(np.array_equal(getattr(trace, name), getattr(other, name)) for name in ("index", "document", "token_id"))
    if not same:
        raise AnalysisError(
            f"the traces of steps {trace.step} and {other.step} are of different probe tokens ({len(trace.token_id)} "
            f"and {len(other.token_id)}): compare traces of one run and one probe"
        )
    here, there = ([_form(layer) for layer in each.layers] for each in (trace, other))
    if here != there:
        raise AnalysisError(
            f"the traces of steps {trace.step} and {other.step} have layers of (layer, slots, experts) {here} and "
            f"{there}: compare traces of one run"
        )


def _form(layer: LayerTrace) -> tuple[int, int, int]:
    return layer.layer, layer.experts.shape[1], layer.slots.shape[1]
