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
from safetensors import safe_open

from moe_emergence.analysis.fields import Fields
from moe_emergence.analysis.layer_experts import LayerExperts, layer_experts
from moe_emergence.analysis.records import Counts, Floats, Run
from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.routing import expert_counts
from moe_emergence.training.checkpoint import checkpoints_in, step_of
from moe_emergence.training.trace import METADATA, step_of_trace, trace_name

WAY_OUT = "put the run's own trace back, or train the run again"
_MODEL = "model_digest"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTrace:
    """One layer's routing of the probe set at one step.

    Attributes:
        experts: [tokens, k] chosen experts, most probable first.
        weights: [tokens, k] what each chosen expert's output is multiplied by.
        slots: [documents, experts] assignments of each document; first_choice: of each token's first expert alone.
        entropy: [tokens] of the clean probabilities, nats.
        margin: [tokens] the largest clean probability minus the second largest, 0..1.
        fresh: [gates, documents, experts] first choices of fresh gates on this layer's inputs; None where not recorded.
        informed: the same of gates fitted to where those inputs cluster; of runs alone whose gate started so.
        record: what was recorded of gate and experts; None where not, as of the wide probe set.
    """

    layer: int
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]
    slots: Counts
    first_choice: Counts
    entropy: Floats
    margin: Floats
    fresh: NDArray[np.int32] | None
    informed: NDArray[np.int32] | None = None
    record: LayerExperts | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """The probe set at one step.

    Attributes:
        document: [tokens] row of the token's document in the probe set, rising.
        position: [tokens] place in the document.
        token_id: [tokens].
        loss: [tokens] nats, of the next token; NaN at a window's last.
        index: [documents] the document's place in the corpus.
        domain: [documents] index into the run's domains.
        layers: one a layer with experts; none for a dense run.
        domains: how many the run has, also such as have no document here.
    """

    step: int
    document: NDArray[np.int64]
    position: NDArray[np.int64]
    token_id: NDArray[np.int64]
    loss: Floats
    index: NDArray[np.int64]
    domain: NDArray[np.int64]
    layers: tuple[LayerTrace, ...]
    domains: int = 0

    @property
    def domain_sizes(self) -> NDArray[np.int64]:
        """[domains] documents of each."""
        return np.bincount(self.domain, minlength=self.domains)


def trace_steps(run: Run, *, wide: bool = False) -> tuple[int, ...]:
    """The steps that have a trace, rising; with `wide`, those that have one of the wide probe set."""
    return traced_steps(run.folder, wide=wide)


def traced_steps(folder: Path, *, wide: bool = False) -> tuple[int, ...]:
    """`trace_steps` of the run in `folder`."""
    steps = (step_of_trace(path) for path in (folder / "traces").glob("wide-*.parquet" if wide else "step-*.parquet"))
    return tuple(sorted(step for step in steps if step >= 0))


def snapshot_steps(run: Run) -> tuple[int, ...]:
    """The steps whose weights the run kept (`training.snapshots`), rising."""
    return tuple(map(step_of, checkpoints_in(run.folder / "snapshots")))


def read_traces(run: Run) -> Iterator[Trace]:
    """Every trace of `run`, one after another, so that only one is held."""
    return (read_trace(run, step) for step in trace_steps(run))


def read_trace(run: Run, step: int, *, wide: bool = False) -> Trace:
    """One trace of `run`, of the probe set, or of the wide one: the first and the last step alone have that.

    Raises:
        AnalysisError: it is missing or torn, of another run, of other data, tokenizer, layers or step than the run's,
            or of another probe set than the run's first; names the file and both values.
    """
    stop_if_asked()
    path = run.folder / "traces" / f"{trace_name(step, wide=wide)}.parquet"
    if not path.exists():
        raise AnalysisError(f"{path} is missing: {_why_missing(run, wide)}")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise torn(path, error) from error
    facts = _facts(path, table.schema)
    _check(run, facts, step, wide)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    document, index, first = _documents(columns, path)
    domain = _in_range(_column(columns, "domain", path), len(run.manifest.data.domains), "domain", path)
    layers = facts.wholes("layers")
    beside = _beside(path, facts) if layers and not wide else {}
    return Trace(
        step=step,
        document=document,
        position=_column(columns, "pos", path).astype(np.int64),
        token_id=_column(columns, "token_id", path).astype(np.int64),
        loss=_column(columns, "loss", path).astype(np.float64),
        index=index,
        domain=domain[first],
        layers=tuple(_layer(columns, facts, layer, document, len(index), beside, path) for layer in layers),
        domains=len(run.manifest.data.domains),
    )


def _layer(
    columns: Mapping[str, Any],
    facts: Fields,
    layer: int,
    document: NDArray[np.int64],
    documents: int,
    beside: Mapping[str, NDArray[Any]],
    path: Path,
) -> LayerTrace:
    top_k, experts = facts.whole("top_k"), facts.whole("num_experts")
    chosen, weights = (
        np.stack([_column(columns, f"{kind}{layer}_{slot}", path) for slot in range(top_k)], axis=1) for kind in "ew"
    )
    chosen = _in_range(chosen, experts, f"e{layer}_…", path)
    return LayerTrace(
        layer=layer,
        experts=chosen,
        weights=weights,
        slots=document_counts(chosen, document, documents, experts),
        first_choice=document_counts(chosen[:, :1], document, documents, experts),
        entropy=_column(columns, f"h{layer}", path).astype(np.float64),
        margin=_column(columns, f"m{layer}", path).astype(np.float64),
        fresh=_untrained(beside, f"fresh_gates.{layer}", (documents, experts), path),
        informed=_untrained(beside, f"informed_gates.{layer}", (documents, experts), path),
        record=layer_experts(beside, layer, experts, path),
    )


def document_counts(experts: NDArray[np.int64], document: NDArray[np.int64], documents: int, width: int) -> Counts:
    """[documents, experts] of [tokens, k] chosen experts."""
    cells = document[:, None] * width + experts
    counts = expert_counts(torch.from_numpy(cells), documents * width)
    return counts.view(documents, width).numpy()


def _documents(columns: Mapping[str, Any], path: Path) -> tuple[NDArray[np.int64], ...]:
    """Each row's document, and for each of these, in the order of the rows, its corpus index and first row."""
    numbers = _column(columns, "doc", path).astype(np.int64)
    first = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if len(numbers) else np.empty(0, dtype=np.int64)
    if len(np.unique(numbers[first])) != len(first):
        raise AnalysisError(
            f"{path}: the rows of a document do not lie together: the trace was changed after it was made"
        )
    return np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(numbers)])), numbers[first], first


def _check(run: Run, facts: Fields, step: int, wide: bool) -> None:
    """That the trace is what its place says."""
    data = run.manifest.data
    expected = {
        "step": step,
        "arm": run.arm,
        "seed": run.seed,
        "data_digest": data.digest,
        "tokenizer_digest": data.tokenizer_digest,
        "layers": list(run.manifest.moe_layers),
    }
    for key, value in expected.items():
        if facts.any(key) != value:
            raise AnalysisError(f"{facts.where}: {key!r} is {facts.any(key)!r}, but the run's is {value!r}: {WAY_OUT}")
    first = run.folder / "traces" / f"{trace_name(trace_steps(run, wide=wide)[0], wide=wide)}.parquet"
    probe = _facts(first, _schema(first)).text("probe_digest")
    if facts.text("probe_digest") != probe:
        raise AnalysisError(
            f"{facts.where}: 'probe_digest' is {facts.text('probe_digest')!r}, but {first.name} has {probe!r}: "
            f"{WAY_OUT}"
        )


def _why_missing(run: Run, wide: bool) -> str:
    if wide and run.config.data.wide_probe_tokens == 0:
        return "the run's data.wide_probe_tokens is 0; train it again with more"
    return f"the run recorded it{' at its first and last step' if wide else ''}; put it back, or train the run again"


def recorded_model(run: Run, step: int) -> str | None:
    """The digest of the model that the trace of `step` was made with; None where there is no trace or it says none."""
    path = run.folder / "traces" / f"{trace_name(step)}.parquet"
    if not path.exists():
        return None
    facts = _facts(path, _schema(path))
    return facts.text(_MODEL) if _MODEL in facts.values else None


def _schema(path: Path) -> Any:
    try:
        return pq.read_schema(path)
    except (OSError, ValueError) as error:
        raise torn(path, error) from error


def _facts(path: Path, schema: Any) -> Fields:
    try:
        return Fields(json.loads((schema.metadata or {})[METADATA]), str(path))
    except (ValueError, KeyError) as error:
        raise torn(path, error) from error


def torn(path: Path, error: Exception) -> AnalysisError:
    """What to raise for a file that is not a trace, or no longer."""
    return AnalysisError(f"{path} cannot be read as a routing trace: {error}")


def _column(columns: Mapping[str, Any], name: str, path: Path) -> NDArray[Any]:
    if name not in columns:
        raise AnalysisError(f"{path}: no column {name!r}; found {', '.join(columns)}")
    found: NDArray[Any] = columns[name]
    return found


def _in_range(values: NDArray[Any], count: int, name: str, path: Path) -> NDArray[np.int64]:
    """`values` as whole numbers, 0 … count − 1: a larger one would be counted for another document."""
    if len(values) and not 0 <= values.min() <= values.max() < count:
        raise AnalysisError(
            f"{path}: {name!r} must lie between 0 and {count - 1}; found {values.min()} to {values.max()}: {WAY_OUT}"
        )
    return values.astype(np.int64)


def read_neighbour(path: Path) -> Mapping[str, NDArray[Any]]:
    """What lies beside the trace at `path`, by name.

    Raises:
        AnalysisError: one of them is missing or torn, or they are not of one trace.
    """
    return _beside(path, _facts(path, _schema(path)))


def _beside(path: Path, facts: Fields) -> Mapping[str, NDArray[Any]]:
    neighbour = path.with_suffix(".safetensors")
    try:
        with safe_open(neighbour, framework="numpy") as file:
            recorded = json.loads((file.metadata() or {}).get(METADATA.decode(), "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # safetensors raises its own kind, of no common base
        raise AnalysisError(f"{neighbour} cannot be read: {error}") from error
    if recorded is not None:  # those of earlier versions say nothing, and cannot be told apart
        _check_neighbour(Fields(recorded, str(neighbour)), facts, path)
    return tensors


def _check_neighbour(found: Fields, facts: Fields, path: Path) -> None:
    for key, value in facts.values.items():
        if found.any(key) != value:
            raise AnalysisError(
                f"{found.where}: {key!r} is {found.any(key)!r}, but {path.name} has {value!r}: put the trace's own "
                "neighbour back, or train the run again"
            )


def _untrained(
    beside: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, int], path: Path
) -> NDArray[np.int32] | None:
    found = beside.get(name)
    if found is not None and found.shape[1:] != shape:
        raise AnalysisError(
            f"{path.with_suffix('.safetensors')}: {name!r} must be [gates, documents, experts] = "
            f"[…, {shape[0]}, {shape[1]}]; found {list(found.shape)}"
        )
    return found
