"""A run's routing traces as counts a document: all that the measures of domains need of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from moe_emergence.analysis.fields import Fields
from moe_emergence.analysis.records import Counts, Floats, Run
from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.routing import expert_counts
from moe_emergence.training.trace import METADATA, trace_name


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTrace:
    """One layer's routing of the probe set at one step.

    Attributes:
        experts: [tokens, k] chosen experts, most probable first.
        slots: [documents, experts] assignments of each document; first_choice: of each token's first expert alone.
        entropy: [tokens] of the clean probabilities, nats.
        fresh: [gates, documents, experts] first choices of fresh gates on this layer's inputs; None where not recorded.
    """

    layer: int
    experts: NDArray[np.int64]
    slots: Counts
    first_choice: Counts
    entropy: Floats
    fresh: NDArray[np.int32] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """The probe set at one step.

    Attributes:
        document: [tokens] row of the token's document in the probe set, rising.
        token_id: [tokens].
        loss: [tokens] nats, of the next token; NaN at a document's last.
        index: [documents] the document's place in the corpus.
        domain: [documents] index into the run's domains.
        layers: one a layer with experts; none for a dense run.
    """

    step: int
    document: NDArray[np.int64]
    token_id: NDArray[np.int64]
    loss: Floats
    index: NDArray[np.int64]
    domain: NDArray[np.int64]
    layers: tuple[LayerTrace, ...]


def trace_steps(run: Run) -> tuple[int, ...]:
    """The steps that have a trace, rising."""
    names = (path.stem.removeprefix("step-") for path in (run.folder / "traces").glob("step-*.parquet"))
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def read_traces(run: Run) -> Iterator[Trace]:
    """Every trace of `run`, one after another, so that only one is held."""
    return (read_trace(run, step) for step in trace_steps(run))


def read_trace(run: Run, step: int) -> Trace:
    """One trace of `run`.

    Raises:
        AnalysisError: it is missing or torn, was made on other data or has other layers than the run; names the file.
    """
    stop_if_asked()
    path = run.folder / "traces" / f"{trace_name(step)}.parquet"
    if not path.exists():
        raise AnalysisError(f"{path} is missing: the run recorded it; put it back, or train the run again")
    try:
        table = pq.read_table(path)
        facts = Fields(json.loads((table.schema.metadata or {})[METADATA]), str(path))
    except (OSError, ValueError, KeyError) as error:
        raise AnalysisError(f"{path} cannot be read as a routing trace: {error}") from error
    _check(run, facts, path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    index, first, document = _documents(columns, path)
    top_k, experts = facts.whole("top_k"), facts.whole("num_experts")
    beside = _beside(path) if facts.wholes("layers") else {}
    layers = []
    for layer in facts.wholes("layers"):
        chosen = np.stack([_column(columns, f"e{layer}_{slot}", path) for slot in range(top_k)], axis=1).astype(
            np.int64
        )
        layers.append(
            LayerTrace(
                layer=layer,
                experts=chosen,
                slots=document_counts(chosen, document, len(index), experts),
                first_choice=document_counts(chosen[:, :1], document, len(index), experts),
                entropy=_column(columns, f"h{layer}", path).astype(np.float64),
                fresh=_fresh(beside, layer, (len(index), experts), path),
            )
        )
    return Trace(
        step=step,
        document=document,
        token_id=_column(columns, "token_id", path).astype(np.int64),
        loss=_column(columns, "loss", path).astype(np.float64),
        index=index,
        domain=_column(columns, "domain", path).astype(np.int64)[first],
        layers=tuple(layers),
    )


def document_counts(experts: NDArray[np.int64], document: NDArray[np.int64], documents: int, width: int) -> Counts:
    """[documents, experts] of [tokens, k] chosen experts."""
    cells = document[:, None] * width + experts
    counts = expert_counts(torch.from_numpy(cells), documents * width)
    return counts.view(documents, width).numpy()


def _documents(columns: Mapping[str, Any], path: Path) -> tuple[NDArray[np.int64], ...]:
    """(corpus index, first row) of each document, in the order of the rows, and each row's document."""
    numbers = _column(columns, "doc", path).astype(np.int64)
    first = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if len(numbers) else np.empty(0, dtype=np.int64)
    if len(np.unique(numbers[first])) != len(first):
        raise AnalysisError(
            f"{path}: the rows of a document do not lie together: the trace was changed after it was made"
        )
    return numbers[first], first, np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(numbers)]))


def _check(run: Run, facts: Fields, path: Path) -> None:
    expected = {"data_digest": run.manifest.data.digest, "layers": list(run.manifest.moe_layers)}
    for key, value in expected.items():
        if facts.any(key) != value:
            raise AnalysisError(f"{path}: {key!r} is {facts.any(key)!r}, but the run's manifest says {value!r}")


def _column(columns: Mapping[str, Any], name: str, path: Path) -> NDArray[Any]:
    if name not in columns:
        raise AnalysisError(f"{path}: no column {name!r}; found {', '.join(columns)}")
    found: NDArray[Any] = columns[name]
    return found


def _beside(path: Path) -> Mapping[str, NDArray[Any]]:
    neighbour = path.with_suffix(".safetensors")
    try:
        return load_file(neighbour)
    except Exception as error:  # safetensors raises its own kind, of no common base
        raise AnalysisError(f"{neighbour} cannot be read: {error}") from error


def _fresh(
    beside: Mapping[str, NDArray[Any]], layer: int, shape: tuple[int, int], path: Path
) -> NDArray[np.int32] | None:
    found = beside.get(f"fresh_gates.{layer}")
    if found is not None and found.shape[1:] != shape:
        raise AnalysisError(
            f"{path.with_suffix('.safetensors')}: 'fresh_gates.{layer}' must be [gates, documents, experts] = "
            f"[…, {shape[0]}, {shape[1]}]; found {list(found.shape)}"
        )
    return found
