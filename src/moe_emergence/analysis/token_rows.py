"""Token classes × experts, a run and a layer, at the last step; what classes tell of experts; how far they reach."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moe_emergence.analysis.class_information import class_counts, class_information
from moe_emergence.analysis.comparisons import LastTraces
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted
from moe_emergence.analysis.token_labels import DomainClasses
from moe_emergence.analysis.traces import LayerTrace, Trace, read_trace
from moe_emergence.routing import load_of_counts


@dataclass(frozen=True, kw_only=True)
class TokenClassRow:
    """One cell of token classes × experts.

    Attributes:
        scheme: whose classes these are, Python's, those of mathematics or of prose: the domain's.
        assignments: how many of the class's assignments go to the expert; share: ÷ all of the class's; uniform: 1/E.
    """

    arm: str
    seed: int
    layer: int
    counted: Counted
    domain: str
    scheme: str
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
        scheme: as in `TokenClassRow`; domains of different schemes have different classes and maxima.
        null_mean, null_low, null_high: with each document's classes shifted in a circle against its routes.
        estimate: plug_in − null_mean; low, high: its 95 % interval over documents; p: one-sided.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    domain: str
    scheme: str
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


@dataclass(frozen=True, kw_only=True)
class ClassCoverageRow:
    """How far a domain's classes reach: the same for every run, since all read the same probe.

    Attributes:
        scheme: as in `TokenClassRow`.
        documents: of the domain in the probe; tokens: of them.
        documents_not_tokenised: of these, how many stop tokenising within the part that the probe reads; what follows
            is of the class `other`. Mathematics and prose take any text: 0.
        other_share: share of the tokens whose class is `other`, 0..1.
    """

    domain: str
    scheme: str
    documents: int
    documents_not_tokenised: int
    tokens: int
    other_share: float


def class_coverage_rows(classes: dict[str, DomainClasses]) -> tuple[ClassCoverageRow, ...]:
    """One row a domain."""
    return tuple(
        ClassCoverageRow(
            domain=domain,
            scheme=found.scheme.name,
            documents=found.documents,
            documents_not_tokenised=found.not_tokenised,
            tokens=len(found.classes),
            other_share=float((found.classes == found.scheme.classes["OTHER"]).mean()),
        )
        for domain, found in classes.items()
    )


def token_class_rows(suite: Suite, last: LastTraces, classes: dict[str, DomainClasses]) -> tuple[TokenClassRow, ...]:
    """One row a run, layer, way of counting, domain, class and expert; classes without tokens are left out."""
    return tuple(
        row
        for run in suite.runs
        for layer in last[run.arm, run.seed].layers
        for domain, found in classes.items()
        for counted, experts in _ways(layer, _rows_of(suite, last[run.arm, run.seed], domain))
        for row in _cells(run, layer, domain, counted, found, experts)
    )


def class_information_rows(
    suite: Suite, last: LastTraces, classes: dict[str, DomainClasses]
) -> tuple[ClassInformationRow, ...]:
    """One row a run, end of it, layer, way of counting and domain; none with fewer than 2 probe documents."""
    return tuple(
        row
        for run in suite.runs
        if run.manifest.moe_layers and classes
        for trace in (read_trace(run, 0), last[run.arm, run.seed])
        for row in _class_informations(suite, run, trace, classes)
    )


def _class_informations(
    suite: Suite, run: Run, trace: Trace, classes: dict[str, DomainClasses]
) -> Iterator[ClassInformationRow]:
    for layer in trace.layers:
        for domain, labelled in classes.items():
            mine = _rows_of(suite, trace, domain)
            if len(np.unique(trace.document[mine])) < 2:
                continue
            for counted, experts in _ways(layer, mine):
                found = class_information(labelled.classes, experts, trace.document[mine], layer.slots.shape[1])
                yield ClassInformationRow(
                    arm=run.arm,
                    seed=run.seed,
                    step=trace.step,
                    layer=layer.layer,
                    counted=counted,
                    domain=domain,
                    scheme=labelled.scheme.name,
                    documents=found.documents,
                    tokens=len(labelled.classes),
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
    run: Run, layer: LayerTrace, domain: str, counted: Counted, labelled: DomainClasses, experts: NDArray[np.int64]
) -> Iterator[TokenClassRow]:
    kinds, scheme = labelled.classes, labelled.scheme
    shape = (1, len(scheme.classes), layer.slots.shape[1])
    counts = class_counts(kinds, experts, np.zeros(len(kinds), dtype=np.int64), shape)[0]
    shares = load_of_counts(torch.from_numpy(counts), torch.float64).numpy()
    for kind in scheme.classes:
        if counts[kind].any():
            for expert in range(counts.shape[1]):
                yield TokenClassRow(
                    arm=run.arm,
                    seed=run.seed,
                    layer=layer.layer,
                    counted=counted,
                    domain=domain,
                    scheme=scheme.name,
                    token_class=scheme.label(kind),
                    expert=expert,
                    assignments=int(counts[kind, expert]),
                    share=float(shares[kind, expert]),
                    uniform=1 / counts.shape[1],
                )
