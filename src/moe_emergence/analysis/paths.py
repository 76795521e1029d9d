"""Paths: which expert of a later layer a token goes to, given its expert in an earlier one, over all pairs of layers.

First choices alone: slots of two layers have no order in common but that of their probabilities, and pairing them by it
would count paths that no weight joins. Layers are named by their place in the model, never by their rank in a list.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from moe_emergence.analysis.information import entropy, mutual_information
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.sequences import turned
from moe_emergence.analysis.statistics import (
    REPLICATES,
    Domains,
    bootstrap,
    generator,
)
from moe_emergence.analysis.token_information import (
    SHIFTS,
    Term,
    cell_counts,
    check_tokens,
    domain_joint,
    equal_domains,
    in_batches,
    term_of,
)
from moe_emergence.analysis.traces import LayerTrace, Trace

TOP_PATHS = 10

Choices = Int[np.ndarray, " tokens"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Paths:
    """Share of the tokens on each path, domains weighted equally, summing to 1, with 95 % intervals over documents."""

    joint: Float[np.ndarray, "experts later"]
    low: Float[np.ndarray, "experts later"]
    high: Float[np.ndarray, "experts later"]


@dataclass(frozen=True, kw_only=True)
class PathInformation:
    """I(E_a;E_b) in bits; maximum: the smaller of H(E_a) and H(E_b)."""

    term: Term
    maximum: float


@dataclass(frozen=True, kw_only=True)
class PathInformationRow:
    """I(E_layer;E_to_layer) of the first choices of one run at one trace, bits: 0..maximum.

    Attributes:
        to_layer: the later of the two, both by their place in the model.
        documents: of the smallest domain; tokens: of the trace.
        maximum: the smaller of the two layers' H(E).
        information: less its bias by the bootstrap; low, high: 95 % over documents.
        plug_in: as counted; null_mean, null_low, null_high: with later routes turned in a circle within documents, mean
            and central 95 %; p: how often that shows as much.
    """

    arm: str
    seed: int
    step: int
    layer: int
    to_layer: int
    documents: int
    tokens: int
    maximum: float
    information: float
    low: float
    high: float
    plug_in: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class PathRow:
    """One of the paths that add most to I(E_layer;E_to_layer).

    Attributes:
        rank: from 1, by share · log2 lift.
        share: of the tokens, 0..1, domains weighted equally; low, high: 95 % over documents.
        chance: share if the two choices were independent, the product of their loads; lift: share ÷ chance, 0 …, 1 when
            independent.
    """

    arm: str
    seed: int
    step: int
    layer: int
    to_layer: int
    rank: int
    expert: int
    to_expert: int
    share: float
    low: float
    high: float
    chance: float
    lift: float


def path_information_rows(run: Run, trace: Trace) -> Iterator[PathInformationRow]:
    """One row a pair of layers, the earlier first; none where a domain has fewer than 2 documents."""
    for earlier, later in _pairs(trace):
        found = path_information(*_choices(earlier, later), trace.document, trace.domain, _experts(earlier, later))
        yield PathInformationRow(
            arm=run.arm,
            seed=run.seed,
            step=trace.step,
            layer=earlier.layer,
            to_layer=later.layer,
            documents=int(trace.domain_sizes.min()),
            tokens=len(trace.document),
            maximum=found.maximum,
            information=found.term.value,
            low=found.term.interval.low,
            high=found.term.interval.high,
            plug_in=found.term.plug_in,
            null_mean=found.term.null_mean,
            null_low=found.term.null_range.low,
            null_high=found.term.null_range.high,
            p=found.term.p,
        )


def path_rows(run: Run, trace: Trace, top: int = TOP_PATHS) -> Iterator[PathRow]:
    """The `top` paths of every pair of layers, those first that add most; none where a domain has fewer than 2
    documents."""
    for earlier, later in _pairs(trace):
        found = paths(*_choices(earlier, later), trace.document, trace.domain, _experts(earlier, later))
        yield from _path_rows(run, trace, earlier, later, found, top)


def paths(
    earlier: Choices,
    later: Choices,
    document: Choices,
    domain: Domains,
    shape: tuple[int, int],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Paths:
    """Joint shares of two layers' first choices; arguments and errors as in `path_information`."""
    counts = _counts(earlier, later, document, domain, shape)
    statistic = in_batches(lambda joint: joint.sum(1), counts, domain)
    resampled = bootstrap(statistic, domain, replicates=replicates, seed=seed)
    low, high = resampled.shares()
    return Paths(joint=resampled.observed, low=low, high=high)


def path_information(
    earlier: Choices,
    later: Choices,
    document: Choices,
    domain: Domains,
    shape: tuple[int, int],
    *,
    draws: int = SHIFTS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> PathInformation:
    """I(E_a;E_b) in bits: 0 when the earlier choice tells nothing of the later, `maximum` when it settles it.

    The null turns each document's later routes in a circle against its earlier ones: what is left is what whole
    documents share.

    Args:
        earlier, later: [tokens] first choices.
        document: each token's row in `domain`; a document's tokens are consecutive and in order.
        shape: (experts, later experts).

    Raises:
        AnalysisError: fewer than 2 documents in a domain, a domain without tokens, or tokens out of order.
    """
    counts = _counts(earlier, later, document, domain, shape)
    statistic = in_batches(lambda joint: mutual_information(joint.sum(1)), counts, domain)
    resampled = bootstrap(statistic, domain, replicates=replicates, seed=seed)
    joint = domain_joint(counts, domain, np.ones((1, len(domain)), dtype=np.int64)).sum((0, 1))
    maximum = min(entropy(joint.sum(axis)) for axis in (0, 1))  # an expert tells no more than there is
    null = _turned(earlier, later, document, domain, shape, draws, seed)
    plug_in, found = float(resampled.observed), resampled.biased_estimate()
    return PathInformation(term=term_of(found, plug_in, null, maximum), maximum=maximum)


def _pairs(trace: Trace) -> Iterator[tuple[LayerTrace, LayerTrace]]:
    measured = trace.domain_sizes.min() > 1
    yield from combinations(sorted(trace.layers, key=lambda layer: layer.layer) if measured else (), 2)


def _choices(earlier: LayerTrace, later: LayerTrace) -> tuple[Choices, Choices]:
    return earlier.experts[:, 0], later.experts[:, 0]


def _counts(
    earlier: Choices, later: Choices, document: Choices, domain: Domains, shape: tuple[int, int]
) -> Int[np.ndarray, "documents experts later"]:
    counts = cell_counts(document, earlier, later[:, None], (len(domain), *shape))
    check_tokens(counts, domain)
    return counts


def _turned(
    earlier: Choices,
    later: Choices,
    document: Choices,
    domain: Domains,
    shape: tuple[int, int],
    draws: int,
    seed: int,
) -> Float[np.ndarray, " draws"]:
    rng, of_token, domains = generator(seed), domain[document], int(domain.max()) + 1
    found = np.empty(draws)
    for draw in range(draws):
        table = cell_counts(of_token, earlier, later[turned(document, rng)][:, None], (domains, *shape))
        joint = equal_domains(table.reshape(domains, -1).astype(np.float64))
        found[draw] = mutual_information(joint.sum(0).reshape(shape))
    return found


def _path_rows(
    run: Run, trace: Trace, earlier: LayerTrace, later: LayerTrace, found: Paths, top: int
) -> Iterator[PathRow]:
    chance = found.joint.sum(1, keepdims=True) * found.joint.sum(0, keepdims=True)
    lift = found.joint / np.where(chance > 0, chance, 1)
    adds = found.joint * np.log2(np.where(lift > 0, lift, 1))
    ranked = np.argsort(np.where(found.joint > 0, -adds, np.inf), axis=None, kind="stable")
    for rank, cell in enumerate(ranked[: min(top, np.count_nonzero(found.joint))], start=1):
        place = np.unravel_index(cell, adds.shape)
        yield PathRow(
            arm=run.arm,
            seed=run.seed,
            step=trace.step,
            layer=earlier.layer,
            to_layer=later.layer,
            rank=rank,
            expert=int(place[0]),
            to_expert=int(place[1]),
            share=float(found.joint[place]),
            low=float(found.low[place]),
            high=float(found.high[place]),
            chance=float(chance[place]),
            lift=float(lift[place]),
        )


def _experts(earlier: LayerTrace, later: LayerTrace) -> tuple[int, int]:
    return earlier.slots.shape[1], later.slots.shape[1]
