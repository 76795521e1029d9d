"""Passages of a suite's arms: what each read where, from the traces of the first seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables, prepared
from moe_emergence.analysis.text_classes import SCHEMES
from moe_emergence.analysis.token_types import Scheme, character_offsets, token_bytes, token_classes
from moe_emergence.analysis.traces import LayerTrace, Trace, read_trace
from moe_emergence.data.blocks import PreparedData
from moe_emergence.report.passages import TOKENS, Passage, TokenRoute, choose_passage, make_passage


@dataclass(frozen=True, kw_only=True)
class ArmPassages:
    """One passage a domain, as the last layer with experts routed it, and as others did: (layer, passages)."""

    arm: str
    seed: int
    experts: int
    last: tuple[Passage, ...]
    others: tuple[tuple[int, tuple[Passage, ...]], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Document:
    """The beginning of one probe document: row in the probe, domain, bytes and names of the classes of its tokens."""

    row: int
    domain: str
    pieces: list[bytes]
    classes: list[str] | None


def suite_passages(suite: Suite, tables: Tables) -> list[ArmPassages]:
    """Of every arm with experts its first seed's last layer, of the first arm all layers.

    Raises:
        DataError: the prepared data is not there or has changed.
    """
    first_of = {run.arm: run for run in reversed(suite.runs) if run.manifest.moe_layers}
    runs = [run for run in suite.runs if first_of.get(run.arm) is run]
    if not runs:
        return []
    data = prepared(suite)
    first = read_trace(runs[0], runs[0].last_step)
    by_name = {scheme.name: scheme for scheme in SCHEMES}
    schemes = {row.domain: by_name[row.scheme] for row in tables.token_classes}
    documents = [_document(data, first, number, schemes) for number in sorted(set(first.domain.tolist()))]
    return [_arm_passages(run, data, documents, all_layers=run is runs[0]) for run in runs]


def _document(data: PreparedData, trace: Trace, domain: int, schemes: dict[str, Scheme]) -> _Document:
    row, name = choose_passage(data.probe, domain), data.domains[domain]
    ids = trace.token_id[trace.document == row][:TOKENS].tolist()
    text, document = data.probe.texts[row], data.documents[data.probe.document[row]]["id"]
    classes = None
    if scheme := schemes.get(name):
        offsets = character_offsets(ids, text, data.tokenizer, document=document)
        classes = [scheme.label(kind) for kind in token_classes(text, offsets, scheme).tolist()]
    return _Document(
        row=row,
        domain=name,
        pieces=token_bytes(ids, data.tokenizer),
        classes=classes,
    )


def _arm_passages(run: Run, data: PreparedData, documents: list[_Document], *, all_layers: bool) -> ArmPassages:
    trace = read_trace(run, run.last_step)
    *others, last = trace.layers
    return ArmPassages(
        arm=run.arm,
        seed=run.seed,
        experts=last.slots.shape[1],
        last=tuple(_passage(run, data, trace, last, document) for document in documents),
        others=tuple(
            (layer.layer, tuple(_passage(run, data, trace, layer, document) for document in documents))
            for layer in (others if all_layers else ())
        ),
    )


def _passage(run: Run, data: PreparedData, trace: Trace, layer: LayerTrace, document: _Document) -> Passage:
    record = data.documents[data.probe.document[document.row]]
    return make_passage(
        document.pieces,
        list(_routes(trace, layer, document)),
        domain=document.domain,
        document=str(record["id"]),
        source=str(record["source"]),
        arm=run.arm,
        layer=layer.layer,
    )


def _routes(trace: Trace, layer: LayerTrace, document: _Document) -> Iterator[TokenRoute]:
    tokens = np.flatnonzero(trace.document == document.row)[:TOKENS]
    for place, token in enumerate(tokens):
        yield TokenRoute(
            experts=tuple(layer.experts[token].tolist()),
            entropy=float(layer.entropy[token]),
            next_loss=float(trace.loss[token]),
            token_class=None if document.classes is None else document.classes[place],
        )
