"""Python token classes × experts, a run and a layer, at the last step: of every domain whose documents are Python."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moe_emergence.analysis.class_information import class_counts, class_information
from moe_emergence.analysis.comparisons import LastTraces
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted
from moe_emergence.analysis.token_types import TokenClass, character_offsets, python_domains, token_classes
from moe_emergence.analysis.traces import LayerTrace, Trace, read_trace
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import AnalysisError
from moe_emergence.routing import load_of_counts


@dataclass(frozen=True, kw_only=True)
class TokenClassRow:
    """One cell of token classes × experts.

    Attributes:
        assignments: how many of the class's assignments go to the expert; share: ÷ all of the class's; uniform: 1/E.
    """

    arm: str
    seed: int
    layer: int
    counted: Counted
    domain: str
    token_class: str
    expert: int
    assignments: int
    share: float
    uniform: float


@dataclass(frozen=True, kw_only=True)
class ClassInformationRow:
    """I(E;class) over one domain's tokens at the first or last step, bits: 0 … H(class) = maximum.

    The first step's is what the run's own untrained gates tell.

    Attributes:
        null_mean, null_low, null_high: with each document's classes shifted in a circle against its routes.
        estimate: plug_in − null_mean; low, high: its 95 % interval over documents; p: one-sided.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    domain: str
    documents: int
    tokens: int
    maximum: float
    plug_in: float
    null_mean: float
    null_low: float
    null_high: float
    estimate: float
    low: float
    high: float
    p: float


def probe_classes(data: PreparedData, trace: Trace) -> dict[str, NDArray[np.uint8]]:
    """Domain to the `TokenClass` of each of its tokens in the trace's order; only domains that are Python.

    Raises:
        AnalysisError: the trace's tokens are not those of the prepared documents.
    """
    probe = data.probe
    if not np.array_equal(probe.document, trace.index):
        raise AnalysisError(
            f"the trace is of documents {trace.index[:3]}…, the prepared data probes {probe.document[:3]}…: give the "
            "data the run was made with"
        )
    python = python_domains(probe.texts, probe.domain, len(data.domains))
    found: dict[str, NDArray[np.uint8]] = {}
    for number in np.flatnonzero(python):
        parts = []
        for row in np.flatnonzero(probe.domain == number):
            ids = trace.token_id[trace.document == row]
            document = data.documents[probe.document[row]]["id"]
            parts.append(
                token_classes(
                    probe.texts[row], character_offsets(ids, probe.texts[row], data.tokenizer, document=document)
                )
            )
        found[data.domains[number]] = np.concatenate(parts)
    return found


def token_class_rows(
    suite: Suite, last: LastTraces, classes: dict[str, NDArray[np.uint8]]
) -> tuple[TokenClassRow, ...]:
    """One row a run, layer, way of counting, Python domain, class and expert; classes without tokens are left out."""
    return tuple(
        row
        for run in suite.runs
        for layer in last[run.arm, run.seed].layers
        for domain, kinds in classes.items()
        for counted, experts in _ways(layer, _rows_of(suite, last[run.arm, run.seed], domain))
        for row in _cells(run.arm, run.seed, layer, domain, counted, kinds, experts)
    )


def class_information_rows(
    suite: Suite, last: LastTraces, classes: dict[str, NDArray[np.uint8]]
) -> tuple[ClassInformationRow, ...]:
    """One row a run, end of it, layer, way of counting and Python domain; none with fewer than 2 probe documents."""
    return tuple(
        row
        for run in suite.runs
        if run.manifest.moe_layers and classes
        for trace in (read_trace(run, 0), last[run.arm, run.seed])
        for row in _class_informations(suite, run, trace, classes)
    )


def _class_informations(
    suite: Suite, run: Run, trace: Trace, classes: dict[str, NDArray[np.uint8]]
) -> Iterator[ClassInformationRow]:
    for layer in trace.layers:
        for domain, kinds in classes.items():
            mine = _rows_of(suite, trace, domain)
            if len(np.unique(trace.document[mine])) < 2:
                continue
            for counted, experts in _ways(layer, mine):
                found = class_information(kinds, experts, trace.document[mine], layer.slots.shape[1])
                yield ClassInformationRow(
                    arm=run.arm,
                    seed=run.seed,
                    step=trace.step,
                    layer=layer.layer,
                    counted=counted,
                    domain=domain,
                    documents=found.documents,
                    tokens=len(kinds),
                    maximum=found.maximum,
                    plug_in=found.plug_in,
                    null_mean=found.null_mean,
                    null_low=found.null_range.low,
                    null_high=found.null_range.high,
                    estimate=found.estimate.value,
                    low=found.estimate.interval.low,
                    high=found.estimate.interval.high,
                    p=found.p,
                )


def _rows_of(suite: Suite, trace: Trace, domain: str) -> NDArray[np.bool_]:
    """[tokens] which are of the domain."""
    of_domain: NDArray[np.bool_] = (trace.domain == suite.domains.index(domain))[trace.document]
    return of_domain


def _ways(layer: LayerTrace, mine: NDArray[np.bool_]) -> Iterator[tuple[Counted, NDArray[np.int64]]]:
    """[tokens, slots] experts of one domain's tokens, in the ways to count them."""
    experts = layer.experts[mine]
    if experts.shape[1] > 1:
        yield SLOTS, experts
    yield FIRST_CHOICE, experts[:, :1]


def _cells(
    arm: str,
    seed: int,
    layer: LayerTrace,
    domain: str,
    counted: Counted,
    kinds: NDArray[np.uint8],
    experts: NDArray[np.int64],
) -> Iterator[TokenClassRow]:
    counts = class_counts(kinds, experts, np.zeros(len(kinds), dtype=np.int64), 1, layer.slots.shape[1])[0]
    shares = load_of_counts(torch.from_numpy(counts), torch.float64).numpy()
    for kind in TokenClass:
        if counts[kind].any():
            for expert in range(counts.shape[1]):
                yield TokenClassRow(
                    arm=arm,
                    seed=seed,
                    layer=layer.layer,
                    counted=counted,
                    domain=domain,
                    token_class=kind.name.lower(),
                    expert=expert,
                    assignments=int(counts[kind, expert]),
                    share=float(shares[kind, expert]),
                    uniform=1 / counts.shape[1],
                )
