"""Vocabulary specialisation: how far single token ids belong to single experts.

N_ix / N_x is the share of the tokens with id x that use expert i; the measure is its largest over i, averaged over ids
[Muennighoff et al. 2024, arXiv:2409.02060, §5]. An id that occurs once has the value 1 under any router, so ids count
only with support, and the same under routes that do not know the tokens stands beside it. Tokens are pooled over
domains, of which a probe set holds equally many.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import t

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.sequences import turned
from moe_emergence.analysis.specialisation import Counted
from moe_emergence.analysis.statistics import (
    TAIL,
    Bootstrap,
    Domains,
    Statistic,
    bootstrap,
    central_range,
    documents_per_domain,
    generator,
    null_p_value,
)
from moe_emergence.analysis.token_information import SHIFTS, cell_counts, ways_of_tokens
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.errors import AnalysisError

OCCURRENCES, DOCUMENTS = 20, 5
"""How often, and in how many documents, an id occurs at least to be counted."""
TOP_IDS = 20
_REPLICATES = 500
_CELLS = 1 << 21


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """Of the ids with support, in rising order.

    Lists of E + 1 values are of all experts first, then of the ids whose largest expert is 0, 1, …: NaN where there are
    none.

    Attributes:
        ids, occurrences, documents: [ids] the id, how many tokens have it, and how many documents hold one.
        shares: [ids, experts] N_ix / N_x, 0..1, rows summing to k; low, high: 95 % of each over documents.
        own: [E + 1] how many ids.
        specialisation: [E + 1] mean over ids of the largest share: k/E when no expert knows the token, 1 when every id
            keeps to one; the fewer occurrences, the more chance adds.
        spread: [E + 1] half the width of its 95 % interval over documents.
        null: [draws, E + 1] the same with each document's ids turned in a circle against its routes, which keeps every
            document's expert loads, and the runs of both.
        load: [experts] share of all tokens that use each.
    """

    ids: Int[np.ndarray, " ids"]
    occurrences: Int[np.ndarray, " ids"]
    documents: Int[np.ndarray, " ids"]
    shares: Float[np.ndarray, "ids experts"]
    low: Float[np.ndarray, "ids experts"]
    high: Float[np.ndarray, "ids experts"]
    own: Int[np.ndarray, " experts+1"]
    specialisation: Float[np.ndarray, " experts+1"]
    spread: Float[np.ndarray, " experts+1"]
    null: Float[np.ndarray, "draws experts+1"]
    load: Float[np.ndarray, " experts"]


@dataclass(frozen=True, kw_only=True)
class VocabularyRow:
    """Mean over ids of the largest share of an id's tokens that use one expert, of one layer, or of one of its experts.

    Attributes:
        counted: all slots or the first choice.
        expert: whose ids: those of which it has the largest share; None for all ids.
        documents: of the smallest domain; ids: with support; tokens: of the trace.
        uniform: k/E, the least it can be; 1 is the most.
        plug_in: as counted; null_mean, null_low, null_high: with each document's ids turned in a circle against its
            routes, mean and central 95 %; p: how often that shows as much.
        estimate: plug_in − null_mean, what ids tell beyond their documents and chance; low, high: 95 % over documents:
            where it lies for other documents as many and as long. None, as the null, for an expert to which the null
            leaves no ids.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    expert: int | None
    documents: int
    ids: int
    tokens: int
    uniform: float
    plug_in: float
    null_mean: float | None
    null_low: float | None
    null_high: float | None
    p: float
    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class CharacteristicTokenRow:
    """One of the ids of which an expert has the largest shares.

    Attributes:
        rank: from 1; of equal shares the more frequent id comes first.
        occurrences: tokens with the id; documents: that hold one.
        share: of those tokens that use the expert, 0..1; low, high: 95 % over documents, of this id by itself: of many
            ids the first in rank are there by chance too.
        lift: share ÷ the share of all tokens that use the expert, 1 when the id tells nothing.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    expert: int
    rank: int
    token_id: int
    occurrences: int
    documents: int
    share: float
    low: float
    high: float
    lift: float


def vocabulary_rows(run: Run, trace: Trace) -> Iterator[VocabularyRow]:
    """One row a layer and way of counting for all ids, and one for each expert that has ids; none without an id with
    support, or where a domain has fewer than 2 documents."""
    for layer, counted, experts in _measured(trace):
        found = vocabulary(trace.token_id, experts, trace.document, trace.domain, layer.slots.shape[1])
        if found is not None:
            yield from (_row(run, trace, layer, counted, found, int(place)) for place in np.flatnonzero(found.own))


def characteristic_token_rows(run: Run, trace: Trace, top: int = TOP_IDS) -> Iterator[CharacteristicTokenRow]:
    """The `top` ids with support of each layer, way of counting and expert that uses any."""
    for layer, counted, experts in _measured(trace):
        found = vocabulary(trace.token_id, experts, trace.document, trace.domain, layer.slots.shape[1], draws=0)
        if found is not None:
            for expert in range(layer.slots.shape[1]):
                yield from _token_rows(run, trace, layer, counted, found, expert, top)


def vocabulary(
    token_id: Int[np.ndarray, " tokens"],
    experts: Int[np.ndarray, "tokens slots"],
    document: Int[np.ndarray, " tokens"],
    domain: Domains,
    n_experts: int,
    *,
    min_occurrences: int = OCCURRENCES,
    min_documents: int = DOCUMENTS,
    draws: int = SHIFTS,
    replicates: int = _REPLICATES,
    seed: int = 0,
) -> Vocabulary | None:
    """The measure on ids with support; None where none has it.

    Args:
        document: each token's row in `domain`; a document's tokens are consecutive and in order.
        min_documents: at least 2: an id of one document says nothing of others.

    Raises:
        AnalysisError: a domain has fewer than 2 documents, or min_documents is below 2.
    """
    if min_documents < 2:
        raise AnalysisError(f"min_documents must be at least 2, as intervals are over documents; got {min_documents}")
    documents_per_domain(domain)
    names, place, occurrences = np.unique(token_id, return_inverse=True, return_counts=True)
    holding = np.bincount(np.unique(place * len(domain) + document) // len(domain))
    enough = (occurrences >= min_occurrences) & (holding >= min_documents)
    if not enough.any():
        return None
    number = np.where(enough, np.cumsum(enough) - 1, -1)[place]
    kept = np.flatnonzero(number >= 0)
    shape = (len(domain), int(enough.sum()), n_experts)
    counts = cell_counts(document[kept], number[kept], experts[kept], shape)
    slots = experts.shape[1]
    null = [
        _specialisation(
            cell_counts(np.zeros_like(kept), number[kept], experts[turned(document, rng)[kept]], (1, *shape[1:])), slots
        )[0]
        for rng in [generator(seed)]
        for _ in range(draws)
    ]
    resampled = bootstrap(_resampled(counts, slots), domain, replicates=replicates, seed=seed)
    shares = counts.sum(0) * slots / counts.sum((0, 2))[:, None]
    low, high = share_intervals(counts, slots)
    return Vocabulary(
        ids=names[enough],
        occurrences=occurrences[enough],
        documents=holding[enough],
        shares=shares,
        low=low,
        high=high,
        own=np.append(len(shares), np.bincount(shares.argmax(1), minlength=n_experts)),
        specialisation=resampled.observed,
        spread=_spread(resampled),
        null=np.array(null).reshape(draws, n_experts + 1),
        load=np.bincount(experts.reshape(-1), minlength=n_experts) / len(experts),
    )


def share_intervals(
    counts: Int[np.ndarray, "documents ids experts"], slots: int = 1
) -> tuple[Float[np.ndarray, "ids experts"], Float[np.ndarray, "ids experts"]]:
    """(low, high) of 95 % for N_ix / N_x over documents: Wilson's interval at the number of tokens that, drawn one by
    one, would vary as much as these documents do, with Student's t [Wilson 1927; Korn and Graubard 1998]. Where all
    tokens or none use the expert nothing varies, and documents count as one draw each."""
    tokens = counts.sum(-1, keepdims=True) / slots
    holding = (tokens > 0).sum(0)
    total = tokens.sum(0)
    share = counts.sum(0) / total
    variance = ((counts - share * tokens) ** 2).sum(0) / total**2 * holding / np.maximum(holding - 1, 1)
    varies = variance > 0
    effective = np.where(varies, share * (1 - share) / np.where(varies, variance, 1), holding)
    z = t.ppf(1 - TAIL, np.maximum(holding - 1, 1)) ** 2 / np.minimum(effective, total)
    centre, half = (share + z / 2) / (1 + z), np.sqrt(z * share * (1 - share) + z**2 / 4) / (1 + z)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def _specialisation(counts: Float[np.ndarray, "draws ids experts"], slots: int) -> Float[np.ndarray, "draws experts+1"]:
    """Mean over ids of the largest share, of all ids that occur and of those whose largest expert is 0, 1, …"""
    tokens = counts.sum(-1) / slots
    largest = np.where(tokens > 0, counts.max(-1) / np.where(tokens > 0, tokens, 1), 0)
    expert = counts.argmax(-1)
    of = np.stack([tokens > 0, *(((expert == i) & (tokens > 0)) for i in range(counts.shape[-1]))], axis=-1)
    number = of.sum(1)
    return np.where(number > 0, (largest[..., None] * of).sum(1) / np.maximum(number, 1), np.nan)


def _resampled(counts: NDArray[np.int64], slots: int) -> Statistic:
    flat = counts.reshape(len(counts), -1).astype(np.float64)

    def statistic(weights: NDArray[np.int64]) -> Float[np.ndarray, "replicates experts+1"]:
        size = max(1, _CELLS // flat.shape[1])
        parts = (weights[start : start + size] for start in range(0, len(weights), size))
        return np.concatenate(
            [_specialisation((part.astype(np.float64) @ flat).reshape(-1, *counts.shape[1:]), slots) for part in parts]
        )

    return statistic


def _spread(resampled: Bootstrap) -> Float[np.ndarray, " experts+1"]:
    """Half the width of a 95 % interval: t times the standard error, of the resamples in which an expert has ids."""
    documents = int(resampled.documents)
    there = np.ma.masked_invalid(resampled.replicates)
    deviation = there.std(0).filled(np.nan) * np.sqrt(documents / (documents - 1))
    return deviation * t.ppf(1 - TAIL, documents - 1)


def _measured(trace: Trace) -> Iterator[tuple[LayerTrace, Counted, NDArray[np.int64]]]:
    for layer in trace.layers if trace.domain_sizes.min() > 1 else ():
        for counted, experts in ways_of_tokens(layer):
            yield layer, counted, experts


def _row(run: Run, trace: Trace, layer: LayerTrace, counted: Counted, found: Vocabulary, place: int) -> VocabularyRow:
    null = found.null[:, place][~np.isnan(found.null[:, place])]
    plug_in, spread = float(found.specialisation[place]), float(found.spread[place])
    null_mean, between = (float(null.mean()), central_range(null)) if len(null) else (None, None)
    estimate = None if null_mean is None else plug_in - null_mean
    return VocabularyRow(
        arm=run.arm,
        seed=run.seed,
        step=trace.step,
        layer=layer.layer,
        counted=counted,
        expert=place - 1 if place else None,
        documents=int(trace.domain_sizes.min()),
        ids=int(found.own[place]),
        tokens=len(trace.document),
        uniform=float(found.load.mean()),
        plug_in=plug_in,
        null_mean=null_mean,
        null_low=None if between is None else between.low,
        null_high=None if between is None else between.high,
        p=null_p_value(plug_in, null),
        estimate=estimate,
        low=None if estimate is None else estimate - spread,
        high=None if estimate is None else estimate + spread,
    )


def _token_rows(
    run: Run, trace: Trace, layer: LayerTrace, counted: Counted, found: Vocabulary, expert: int, top: int
) -> Iterator[CharacteristicTokenRow]:
    ranked = np.lexsort((-found.occurrences, -found.shares[:, expert]))[:top]
    for rank, place in enumerate(ranked[found.shares[ranked, expert] > 0], start=1):
        share = float(found.shares[place, expert])
        yield CharacteristicTokenRow(
            arm=run.arm,
            seed=run.seed,
            step=trace.step,
            layer=layer.layer,
            counted=counted,
            expert=expert,
            rank=rank,
            token_id=int(found.ids[place]),
            occurrences=int(found.occurrences[place]),
            documents=int(found.documents[place]),
            share=share,
            low=float(found.low[place, expert]),
            high=float(found.high[place, expert]),
            lift=share / float(found.load[expert]),
        )
