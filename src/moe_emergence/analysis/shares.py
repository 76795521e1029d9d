"""Domains × experts of the probe set at the last step, with intervals over documents."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_emergence.analysis.comparisons import LastTraces
from moe_emergence.analysis.information import domain_shares
from moe_emergence.analysis.records import Counts, Run, Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted, measurable
from moe_emergence.analysis.traces import LayerTrace, Trace


@dataclass(frozen=True, kw_only=True)
class ShareRow:
    """One cell of domains × experts.

    Attributes:
        counted: all slots, or the first choice alone.
        documents: of the domain, in the probe set.
        assignments: how many of the domain's assignments go to the expert.
        share: the same ÷ all of the domain's assignments, 0..1; sums to 1 over experts.
        low, high: 95 % interval over documents.
        uniform: 1/E, what every cell would be if domain and load told nothing.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    domain: str
    documents: int
    expert: int
    assignments: int
    share: float
    low: float
    high: float
    uniform: float


def share_rows(suite: Suite, last: LastTraces) -> tuple[ShareRow, ...]:
    """One row a run, layer, domain and expert, of all slots; none where a domain has fewer than 2 probe documents."""
    return tuple(
        row
        for run, trace, layer in _layers(suite, last)
        for row in _share_rows(run, trace, layer, SLOTS if layer.experts.shape[1] > 1 else FIRST_CHOICE, layer.slots)
    )


def first_choice_share_rows(suite: Suite, last: LastTraces) -> tuple[ShareRow, ...]:
    """The same of the first choice alone, for runs with several experts a token."""
    return tuple(
        row
        for run, trace, layer in _layers(suite, last)
        if layer.experts.shape[1] > 1
        for row in _share_rows(run, trace, layer, FIRST_CHOICE, layer.first_choice)
    )


def _layers(suite: Suite, last: LastTraces) -> Iterator[tuple[Run, Trace, LayerTrace]]:
    for run in suite.runs:
        trace = last[run.arm, run.seed]
        if measurable(trace):
            yield from ((run, trace, layer) for layer in trace.layers)


def _share_rows(run: Run, trace: Trace, layer: LayerTrace, counted: Counted, counts: Counts) -> Iterator[ShareRow]:
    found = domain_shares(counts, trace.domain)
    for number, domain in enumerate(run.manifest.data.domains):
        mine = trace.domain == number
        for expert in range(counts.shape[1]):
            yield ShareRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=layer.layer,
                counted=counted,
                domain=domain,
                documents=int(mine.sum()),
                expert=expert,
                assignments=int(counts[mine, expert].sum()),
                share=float(found.shares[number, expert]),
                low=float(found.low[number, expert]),
                high=float(found.high[number, expert]),
                uniform=1 / counts.shape[1],
            )
