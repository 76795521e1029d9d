"""Temporal locality: how often a token goes to the expert of the token before it, and how long such runs are.

Of the first choice, over pairs of adjacent tokens of one document that the model saw in one window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.statistics import (
    REPLICATES,
    Bootstrap,
    Domains,
    Interval,
    bootstrap,
    central_range,
    documents_per_domain,
    generator,
    null_p_value,
)
from moe_emergence.analysis.token_information import SHIFTS, check_tokens
from moe_emergence.analysis.traces import Trace
from moe_emergence.errors import AnalysisError

ALL = "all"
"""What a row of all domains has for its domain; they weigh equally there."""


@dataclass(frozen=True, kw_only=True)
class Locality:
    """Of one domain, or of all with equal weights.

    Attributes:
        share: of adjacent pairs that go to one expert, 0..1; 1 when every document has one; interval: 95 % over
            documents.
        chance: what shuffling each document's routes gives on average, Σ c_i (c_i − 1) / (n (n − 1)) of its counts c_i,
            which sum to n: about Σ f_i².
        excess: share − chance with its 95 % interval over documents.
        null_range, p: the share under those shuffles, central 95 %; how often they show as much, one-sided.
        run_length: tokens ÷ runs of one expert, at least 1; run_length_chance: the same at the chance share.
        pairs: how many; documents: of the smallest domain.
    """

    share: float
    interval: Interval
    chance: float
    excess: float
    excess_interval: Interval
    null_range: Interval
    p: float
    run_length: float
    run_length_chance: float
    pairs: int
    documents: int


@dataclass(frozen=True, kw_only=True)
class LocalityRow:
    """How often adjacent tokens of one domain, or of all with equal weights, go to one expert.

    Attributes:
        domain: "all" for all of them.
        documents: of the domain, or of the smallest; pairs: adjacent tokens of one document and window.
        share: of pairs with equal first choices, 0..1; low, high: 95 % over documents.
        chance: by shuffling each document's routes; null_low, null_high: central 95 % of such shuffles; p: how often
            they show as much, one-sided.
        excess: share − chance; excess_low, excess_high: 95 % over documents.
        run_length: mean number of tokens in a row that go to one expert, 1 …; run_length_chance: at the chance share.
    """

    arm: str
    seed: int
    step: int
    layer: int
    domain: str
    documents: int
    pairs: int
    share: float
    low: float
    high: float
    chance: float
    null_low: float
    null_high: float
    p: float
    excess: float
    excess_low: float
    excess_high: float
    run_length: float
    run_length_chance: float


def locality_rows(run: Run, trace: Trace, window: int | None = None) -> Iterator[LocalityRow]:
    """One row a layer and domain, and one of all domains; none where a domain has fewer than 2 documents.

    Args:
        window: how many places the model saw at a time, each window from a multiple of it; the run's block size if not
            given.
    """
    if trace.domain_sizes.min() < 2:
        return
    adjacent = adjacent_pairs(trace.document, trace.position, window or run.config.data.block_size)
    for layer in trace.layers:
        found = locality(layer.experts[:, 0], trace.document, trace.domain, adjacent)
        for domain, one in zip((*run.manifest.data.domains, ALL), found, strict=True):
            yield LocalityRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=layer.layer,
                domain=domain,
                documents=one.documents,
                pairs=one.pairs,
                share=one.share,
                low=one.interval.low,
                high=one.interval.high,
                chance=one.chance,
                null_low=one.null_range.low,
                null_high=one.null_range.high,
                p=one.p,
                excess=one.excess,
                excess_low=one.excess_interval.low,
                excess_high=one.excess_interval.high,
                run_length=one.run_length,
                run_length_chance=one.run_length_chance,
            )


def adjacent_pairs(
    document: Int[np.ndarray, " tokens"], position: Int[np.ndarray, " tokens"], window: int
) -> Bool[np.ndarray, " pairs"]:
    """[tokens − 1] whether a token and the next are neighbours in one document and one window of that many places."""
    if window < 1:
        raise AnalysisError(f"a window must have at least 1 place; got {window}")
    together = (document[1:] == document[:-1]) & (position[1:] == position[:-1] + 1)
    return together & (position[1:] // window == position[:-1] // window)


def locality(
    experts: Int[np.ndarray, " tokens"],
    document: Int[np.ndarray, " tokens"],
    domain: Domains,
    adjacent: Bool[np.ndarray, " pairs"],
    *,
    draws: int = SHIFTS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[Locality, ...]:
    """One a domain, and the last of all domains.

    Args:
        experts: first choices, documents one after another.
        adjacent: which tokens and their next are a pair, as `adjacent_pairs` says.

    Raises:
        AnalysisError: fewer than 2 documents in a domain, or a domain without a pair.
    """
    sizes = documents_per_domain(domain)
    first = np.flatnonzero(adjacent)
    sums = _sums(experts, document, first, len(domain))
    check_tokens(sums[:, 2], domain)

    def statistic(weights: NDArray[np.int64]) -> Float[np.ndarray, "replicates domains+1 2"]:
        totals = np.stack(
            [weights[:, domain == number] @ sums[domain == number] for number in range(len(sizes))], axis=1
        )
        shares = totals[..., :2] / totals[..., 2:3]
        return np.concatenate([shares, shares.mean(1, keepdims=True)], axis=1)

    documents = np.append(sizes, sizes.min())
    found = bootstrap(statistic, domain, replicates=replicates, seed=seed)
    share = Bootstrap(found.observed[:, 0], found.replicates[..., 0], documents)
    excess = Bootstrap(found.observed @ [1, -1], found.replicates @ [1, -1], documents)
    null = _shuffled(experts, document, domain, first, draws, seed)
    lengths = _run_lengths(found.observed, sums, domain)
    pairs = np.bincount(domain, weights=sums[:, 2])
    low, high = share.shares()
    return tuple(
        Locality(
            share=float(share.observed[place]),
            interval=Interval(float(low[place]), float(high[place])),
            chance=float(found.observed[place, 1]),
            excess=float(excess.observed[place]),
            excess_interval=excess.single(place).estimate().interval,
            null_range=central_range(null[:, place]),
            p=null_p_value(float(share.observed[place]), null[:, place]),
            run_length=float(lengths[place, 0]),
            run_length_chance=float(lengths[place, 1]),
            pairs=int(np.append(pairs, pairs.sum())[place]),
            documents=int(documents[place]),
        )
        for place in range(len(documents))
    )


def _sums(
    experts: NDArray[np.int64], document: NDArray[np.int64], first: NDArray[np.int64], documents: int
) -> Float[np.ndarray, "documents 4"]:
    """Of each document: pairs with one expert, how many of them shuffling would leave, pairs, tokens."""
    pairs = np.bincount(document[first], minlength=documents)
    same = np.bincount(document[first], experts[first] == experts[first + 1], documents)
    width = int(experts.max(initial=0)) + 1
    counts = np.bincount(document * width + experts, minlength=documents * width).reshape(documents, width)
    tokens = counts.sum(1)
    alike = (counts * (counts - 1)).sum(1) / np.maximum(tokens * (tokens - 1), 1)
    return np.stack([same, alike * pairs, pairs, tokens], axis=1)


def _run_lengths(
    shares: Float[np.ndarray, "domains+1 2"], sums: Float[np.ndarray, "documents 4"], domain: Domains
) -> Float[np.ndarray, "domains+1 2"]:
    """Tokens ÷ runs: every token begins one, but for those that go where the token before them went."""
    pairs, tokens = (np.bincount(domain, weights=sums[:, column]) for column in (2, 3))
    lengths = 1 / (1 - shares[:-1] * (pairs / tokens)[:, None])
    return np.concatenate([lengths, lengths.mean(0, keepdims=True)])


def _shuffled(
    experts: NDArray[np.int64],
    document: NDArray[np.int64],
    domain: Domains,
    first: NDArray[np.int64],
    draws: int,
    seed: int,
) -> Float[np.ndarray, "draws domains+1"]:
    """Share of pairs with one expert after each document's routes are shuffled, of each domain and of all."""
    rng, of_pair = generator(seed), domain[document[first]]
    pairs = np.bincount(of_pair)
    found = np.empty((draws, len(pairs) + 1))
    for draw in range(draws):
        moved = experts[np.argsort(document + rng.random(len(document)))]
        found[draw, :-1] = np.bincount(of_pair, moved[first] == moved[first + 1]) / pairs
    found[:, -1] = found[:, :-1].mean(1)
    return found
