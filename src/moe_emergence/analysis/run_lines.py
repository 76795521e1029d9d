"""One run's manifest and record lines to values, every key checked."""

from collections.abc import Iterable

import numpy as np

from moe_emergence.analysis.fields import Fields
from moe_emergence.analysis.records import (
    CollapseEvent,
    Continuation,
    Counts,
    DataRecord,
    DocumentSums,
    Evaluation,
    Floats,
    LayerRouting,
    Manifest,
    Receipt,
    SkippedStep,
    Source,
    Timing,
)
from moe_emergence.config import RunConfig
from moe_emergence.errors import AnalysisError


def read_manifest(fields: Fields) -> Manifest:
    receipt = None if fields.any("receipt") is None else _receipt(fields.group("receipt"))
    return Manifest(
        environment=fields.group("environment").values,
        software={key: fields.values[key] for key in ("package", "git_commit") if fields.values.get(key) is not None},
        data=_data_record(fields.group("data")),
        base=fields.group("base").values,
        receipt=receipt,
        moe_layers=fields.wholes("moe_layers"),
        parameters=fields.whole("parameters"),
        inexact=tuple(_continuation(entry) for entry in fields.groups("inexact")),
    )


def _continuation(fields: Fields) -> Continuation:
    changes = tuple((c.text("name"), c.any("then"), c.any("now")) for c in fields.groups("changes"))
    return Continuation(step=fields.whole("step"), changes=changes)


def _receipt(fields: Fields) -> Receipt:
    return Receipt(
        relative_logit_difference=fields.number("relative_logit_difference"),
        kl_nats=fields.number("kl_nats"),
        dense_lm_loss=fields.number("dense_lm_loss"),
        upcycled_lm_loss=fields.number("upcycled_lm_loss"),
        lm_loss_difference=fields.number("lm_loss_difference"),
        parameters_total=fields.whole("parameters_total"),
        parameters_dense=fields.whole("parameters_dense"),
        parameters_active=fields.whole("parameters_active"),
    )


def _data_record(fields: Fields) -> DataRecord:
    return DataRecord(
        digest=fields.text("digest"),
        corpus=fields.text("corpus"),
        corpus_digest=fields.text("corpus_digest"),
        tokenizer_digest=fields.text("tokenizer_digest"),
        domains=fields.texts("domains"),
        blocks_per_domain=fields.any("blocks_per_domain"),
        tokens=fields.any("tokens"),
        sources=tuple(_source(source) for source in fields.groups("sources")),
        record=fields.group("record").values,
    )


def _source(fields: Fields) -> Source:
    return Source(
        domain=fields.text("domain"),
        source=fields.text("source"),
        licence=fields.text("licence"),
        documents=fields.whole("documents"),
    )


def read_evaluation(line: Fields, manifest: Manifest, config: RunConfig) -> Evaluation:
    domains = manifest.data.domains
    experts = 0 if config.moe is None else config.moe.num_experts
    lm_loss, bits, predicted = (line.group(key) for key in ("lm_loss", "bits_per_byte", "predicted_tokens"))
    return Evaluation(
        step=line.whole("step"),
        split=line.text("split"),
        lm_loss={domain: lm_loss.number(domain) for domain in domains},
        lm_loss_macro=line.number("lm_loss_macro"),
        lm_loss_tokens=line.number("lm_loss_tokens"),
        bits_per_byte={domain: bits.number(domain) for domain in domains},
        predicted_tokens={domain: predicted.whole(domain) for domain in domains},
        documents={domain: _document_sums(line.group("documents").group(domain)) for domain in domains},
        routing=tuple(_layer_routing(layer, (len(domains), experts)) for layer in line.groups("routing")),
    )


def _document_sums(fields: Fields) -> DocumentSums:
    whole = {name: np.array(fields.wholes(name), dtype=np.int64) for name in ("index", "tokens", "bytes")}
    sums = DocumentSums(**whole, loss=np.array(fields.decimals("loss"), dtype=np.float64))
    lengths = {name: len(getattr(sums, name)) for name in ("index", "loss", "tokens", "bytes")}
    if len(set(lengths.values())) != 1:
        raise AnalysisError(f"{fields.where}: 'index', 'loss', 'tokens' and 'bytes' must be as long; found {lengths}")
    return sums


def _layer_routing(fields: Fields, shape: tuple[int, int]) -> LayerRouting:
    return LayerRouting(
        layer=fields.whole("layer"),
        assignments=_matrix(fields, "assignments", shape).astype(np.int64),
        first_choice=_matrix(fields, "first_choice", shape).astype(np.int64),
        mean_probabilities=_matrix(fields, "mean_probabilities", shape),
        entropy_per_token=fields.number("entropy_per_token"),
    )


def _matrix(fields: Fields, key: str, shape: tuple[int, int]) -> Floats:
    rows = fields.items(key)
    try:
        found = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != shape:
        raise AnalysisError(f"{fields.where}: {key!r} must hold numbers [domains, experts] = {list(shape)}")
    return found


def read_collapse(line: Fields) -> CollapseEvent:
    return CollapseEvent(
        step=line.whole("step"), layer=line.whole("layer"), state=line.text("state"), reason=line.text("reason")
    )


def read_skipped(line: Fields) -> SkippedStep:
    return SkippedStep(step=line.whole("step"), cause=line.text("cause"))


def read_timing(line: Fields) -> Timing:
    peak = line.number("peak_memory_mib") if line.values.get("peak_memory_mib") is not None else None
    return Timing(
        event=line.text("event"), step=line.whole("step"), seconds=line.number("seconds"), peak_memory_mib=peak
    )


def read_columns(lines: Iterable[Fields]) -> tuple[Counts, dict[str, Floats]]:
    """Step lines as columns; every line must have the keys of the first."""
    rows = list(lines)
    names = [name for name in rows[0].values if name not in ("event", "step")] if rows else []
    scalars = {name: np.array([row.number(name) for row in rows], dtype=np.float64) for name in names}
    return np.array([row.whole("step") for row in rows], dtype=np.int64), scalars
