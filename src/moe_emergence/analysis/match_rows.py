"""Matched routers as rows: seeds of an arm with each other, and a run's steps with each other."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from moe_emergence.analysis.matching import Match, matched_profiles, matched_tokens
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted
from moe_emergence.analysis.statistics import holm
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.errors import AnalysisError

MatchedBy = Literal["tokens", "domains"]
TOKENS: MatchedBy = "tokens"
DOMAINS: MatchedBy = "domains"


@dataclass(frozen=True, kw_only=True)
class MatchRow:
    """How far two routers of one layer agree on the same probe tokens once their experts are matched.

    Attributes:
        seed, step; other_seed, other_step: the two, of one arm.
        counted: all slots or the first choice.
        by: "tokens": agreement is the share of a token's assignments that both give to matched experts, domains
            weighted equally, 0..1: 1 where they differ in names alone. Its null turns the other's experts in a circle
            within each document, which keeps what whole documents and domains share.
            "domains": agreement is the correlation −1..1 of p(e|d) less its mean over domains, over matched experts and
            domains, corrected for bias: 1 where experts' domain profiles differ in names alone, 0 where they have
            nothing in common. Its null, which is not corrected, deals the other's domains anew to its documents.
        documents: of the smallest domain.
        agreement: matched on each half and compared on the other, mean of the two; low, high: its 95 % interval over
            documents, for these two matchings.
        null_mean, null_high: of the null's agreement, mean and 97.5 % point.
        p, p_holm: how often the null shows as much; Holm over the layers of the same two routers.
        matches: the other's expert for each expert, matched on all documents.
    """

    arm: str
    seed: int
    other_seed: int
    step: int
    other_step: int
    layer: int
    counted: Counted
    by: MatchedBy
    documents: int
    agreement: float
    low: float
    high: float
    null_mean: float
    null_high: float
    p: float
    p_holm: float
    matches: tuple[int, ...]


def seed_match_rows(suite: Suite, traces: Mapping[tuple[str, int], Trace]) -> tuple[MatchRow, ...]:
    """Every two seeds of an arm, on the trace given for (arm, seed): at the last step whether they found the same
    experts; at step 0, how far fresh gates agree on the hidden states that they share. None with one seed."""
    return tuple(
        row
        for arm in suite.arms
        for run, other in combinations(suite.runs_of(arm.name), 2)
        for row in match_rows(run, traces[run.arm, run.seed], other, traces[other.arm, other.seed])
    )


def step_match_rows(run: Run, trace: Trace, against: Trace) -> Iterator[MatchRow]:
    """A run's step against another of its own steps: experts that kept their place match themselves."""
    return match_rows(run, trace, run, against)


def match_rows(run: Run, trace: Trace, other: Run, other_trace: Trace) -> Iterator[MatchRow]:
    """One row a layer, way of counting and way of matching; none where a domain has fewer than 4 probe documents.

    Raises:
        AnalysisError: the traces are not of the same tokens, or not of the same layers and numbers of experts.
    """
    _refuse_other_tokens(run, trace, other, other_trace)
    if trace.layers and np.bincount(trace.domain).min() > 3:
        pairs = list(zip(trace.layers, other_trace.layers, strict=True))
        for counted in (SLOTS, FIRST_CHOICE) if pairs[0][0].experts.shape[1] > 1 else (FIRST_CHOICE,):
            for by in (TOKENS, DOMAINS):
                rows = [_match_row(run, trace, other, other_trace, *pair, counted, by) for pair in pairs]
                adjusted = holm(np.array([row.p for row in rows]))
                yield from (replace(row, p_holm=p) for row, p in zip(rows, adjusted.tolist(), strict=True))


def _match_row(
    run: Run,
    trace: Trace,
    other: Run,
    other_trace: Trace,
    layer: LayerTrace,
    other_layer: LayerTrace,
    counted: Counted,
    by: MatchedBy,
) -> MatchRow:
    found = _MATCHERS[by](trace, layer, other_layer, counted)
    return MatchRow(
        arm=run.arm,
        seed=run.seed,
        other_seed=other.seed,
        step=trace.step,
        other_step=other_trace.step,
        layer=layer.layer,
        counted=counted,
        by=by,
        documents=int(np.bincount(trace.domain).min()),
        agreement=found.agreement.value,
        low=found.agreement.interval.low,
        high=found.agreement.interval.high,
        null_mean=found.null_mean,
        null_high=found.null_high,
        p=found.p,
        p_holm=math.nan,
        matches=found.matches,
    )


def _by_tokens(trace: Trace, layer: LayerTrace, other: LayerTrace, counted: Counted) -> Match:
    slots = slice(None) if counted == SLOTS else slice(1)
    experts, others = layer.experts[:, slots], other.experts[:, slots]
    return matched_tokens(experts, others, trace.document, trace.domain, layer.slots.shape[1])


def _by_domains(trace: Trace, layer: LayerTrace, other: LayerTrace, counted: Counted) -> Match:
    ours, theirs = ((side.slots if counted == SLOTS else side.first_choice) for side in (layer, other))
    return matched_profiles(ours, theirs, trace.domain)


_MATCHERS: Mapping[MatchedBy, Callable[[Trace, LayerTrace, LayerTrace, Counted], Match]] = {
    TOKENS: _by_tokens,
    DOMAINS: _by_domains,
}


def _refuse_other_tokens(run: Run, trace: Trace, other: Run, other_trace: Trace) -> None:
    same = np.array_equal(trace.index, other_trace.index) and np.array_equal(trace.document, other_trace.document)
    if not same or not np.array_equal(trace.token_id, other_trace.token_id):
        raise AnalysisError(
            f"{run.folder} at step {trace.step} and {other.folder} at step {other_trace.step} were traced on other "
            f"probe tokens ({len(trace.token_id)} and {len(other_trace.token_id)}): experts are matched on the same "
            "tokens only"
        )
    shapes = [[(layer.layer, *layer.slots.shape[1:]) for layer in side.layers] for side in (trace, other_trace)]
    if shapes[0] != shapes[1]:
        raise AnalysisError(
            f"{run.folder} and {other.folder} have other layers or experts, (layer, experts) {shapes[0]} and "
            f"{shapes[1]}: only routers of the same shape can be matched"
        )
