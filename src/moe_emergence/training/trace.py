"""Routing traces: for the same probe tokens at several steps, which experts each went to, in every MoE layer.

One Parquet row a probe token: `doc` (index of the document), `pos` (place in it), `token_id`, `domain` (index), `loss`
(nats, of the *next* token; null at a window's last), then per MoE layer L and slot k `e{L}_{k}` (expert), `w{L}_{k}`
(its weight), `h{L}` (entropy of the clean probabilities, nats) and `m{L}` (margin: the largest of them minus the second
largest). Rows run document by document, in the probe set's order. `step-NNNNNN` is of the beginnings of documents, and
has a neighbour in safetensors (see `neighbour`) with the same metadata; `wide-NNNNNN`, at both ends of a run, is of the
wide probe set alone.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.probe import Probe
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.models.base import weights_digest
from moe_emergence.moe.router import Router, routers_of, told_domains
from moe_emergence.routing import RouterOutput, margin_of
from moe_emergence.training import durable
from moe_emergence.training.informed import informed_gates as fitted_gates
from moe_emergence.training.neighbour import Neighbour
from moe_emergence.training.tensors import model_tensors, whole_cpu, write_tensors

METADATA = b"moe_emergence"
BATCH = 16
GRAIN = 2**-20
"""What weights, entropies and margins are multiples of: they are 5e-7 off at most."""
_NAME = re.compile(r"(?:step|wide)-(\d{6,})\.(?:parquet|safetensors)")


def trace_name(step: int, *, wide: bool = False) -> str:
    return f"{'wide' if wide else 'step'}-{step:06d}"


def step_of_trace(path: Path) -> int:
    """The step in the name of a trace, wide or not, or of its neighbour; −1 for any other file."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


@torch.no_grad()  # a sharded model takes no inference tensors
def write_trace(
    model: nn.Module,
    data: PreparedData,
    folder: Path | None,
    *,
    step: int,
    device: torch.device,
    fresh_gates: bool = False,
    informed_gates: bool = False,
    ancestor: Mapping[str, Tensor] | None = None,
    wide: bool = False,
    facts: Mapping[str, Any] | None = None,
    full: Callable[[Tensor], Tensor] = whole_cpu,
    poll: Callable[[], None] = stop_if_asked,
) -> Path | None:
    """Route the probe set through `model` and write `folder`/step-NNNNNN.parquet with its neighbour.

    A model without experts leaves a trace of losses alone.

    Args:
        folder: None in processes beside the first: they compute along, and write nothing.
        fresh_gates: whether the neighbour tells what fresh gates do; informed_gates: and those that start informed.
        ancestor: the MLPs that the experts came from, by their names in the dense model: with them, and in the first
            process alone, the neighbour tells how alike the experts are.
        wide: of the wide probe set, as wide-NNNNNN.parquet without a neighbour.
        facts: what else the metadata is to say.
        full: a whole tensor of one that may be spread over processes.
        poll: called before each batch.

    Raises:
        StopAsked: a signal asked to stop; nothing is written then.
    """
    model.eval()
    probe = data.wide if wide else data.probe
    assert probe is not None, "no wide probe set was prepared"
    informed = fitted_gates(model, data, device=device, fit=folder is not None, poll=poll) if informed_gates else None
    table, neighbour = _Columns(probe), None if wide else Neighbour(probe, fresh_gates, ancestor, informed)
    for start in range(0, len(probe.tokens), BATCH):
        poll()
        rows = slice(start, min(start + BATCH, len(probe.tokens)))
        tokens = torch.from_numpy(probe.tokens[rows].astype(np.int64)).to(device)
        with _router_inputs(model) as inputs:
            of_batch = torch.from_numpy(probe.domain[rows].astype(np.int64))
            with told_domains(model, of_batch, len(data.domains)):
                output = model(input_ids=tokens, use_cache=False)
        routes: tuple[RouterOutput, ...] = getattr(output, "routes", None) or ()
        table.add(rows, _next_losses(output.logits, tokens), routes)
        if neighbour is not None:
            neighbour.add(rows, routes, inputs)
    weights = model_tensors(model, full)
    if folder is None:
        return None
    durable.make_folder(folder)
    path = folder / f"{trace_name(step, wide=wide)}.parquet"
    made = _metadata(model, data, probe, step) | {"model_digest": weights_digest(weights.items())} | dict(facts or {})
    beside = {} if neighbour is None else neighbour.tensors(model, weights)
    if beside:
        write_tensors(path.with_suffix(".safetensors"), beside, {METADATA.decode(): json.dumps(made)})
    _write_parquet(table.arrow(made), path)
    return path


def probe_digest(probe: Probe) -> str:
    """sha256 of the probe set."""
    parts = [probe.tokens, probe.length, probe.document, probe.domain]
    parts += [probe.start] if probe.start.any() else []
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def probe_columns(probe: Probe, rows: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """[tokens] `doc`, `pos`, `token_id` and `domain` of the probe set's rows, as a trace of it holds them."""
    kept, _ = _kept_and_last(probe, rows)
    place = np.broadcast_to(np.arange(kept.shape[1], dtype=np.int32), kept.shape)
    return {
        "doc": np.broadcast_to(probe.document[rows, None], kept.shape)[kept],
        "pos": (probe.start[rows, None] + place)[kept],
        "token_id": probe.tokens[rows][kept],
        "domain": np.broadcast_to(probe.domain[rows, None].astype(np.uint8), kept.shape)[kept],
    }


def _kept_and_last(probe: Probe, rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[rows, size] which places are tokens, not padding; and which are a window's last."""
    place, length = np.arange(probe.tokens.shape[1])[None], probe.length[rows, None]
    return place < length, place == length - 1


def _metadata(model: nn.Module, data: PreparedData, probe: Probe, step: int) -> dict[str, Any]:
    routers = routers_of(model)
    return {
        "step": step,
        "probe_digest": probe_digest(probe),
        "data_digest": data.digest,
        "tokenizer_digest": data.manifest["tokenizer_digest"],
        "domains": list(data.domains),
        "layers": [router.layer_idx for router in routers],
        "num_experts": routers[0].gate.out_features if routers else 0,
        "top_k": routers[0].top_k if routers else 0,
    }


class _Columns:
    """The table's columns, filled batch by batch; padding is left out."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, rows: slice, losses: Tensor, routes: tuple[RouterOutput, ...]) -> None:
        kept, last = _kept_and_last(self.probe, rows)
        for name, values in probe_columns(self.probe, rows).items():
            self._put(name, values)
        self._put("loss", np.where(last, np.nan, losses.float().cpu().numpy())[kept].astype(np.float32))
        flat = kept.reshape(-1)
        for route in routes:
            layer, number = route.layer_idx, np.min_scalar_type(route.router_probs.shape[1] - 1)
            for slot in range(route.topk_indices.shape[1]):
                self._put(f"e{layer}_{slot}", route.topk_indices[:, slot].cpu().numpy().astype(number)[flat])
                self._put(f"w{layer}_{slot}", _floats(route.topk_weights[:, slot])[flat])
            self._put(f"h{layer}", _floats(route.entropy)[flat])
            self._put(f"m{layer}", _floats(margin_of(route.router_probs_clean))[flat])

    def _put(self, name: str, values: NDArray[Any]) -> None:
        self.columns.setdefault(name, []).append(values)

    def arrow(self, metadata: dict[str, Any]) -> pa.Table:
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        arrays = {name: pa.array(values, from_pandas=name == "loss") for name, values in columns.items()}
        return pa.table(arrays).replace_schema_metadata({METADATA: json.dumps(metadata)})


def _floats(values: Tensor) -> NDArray[np.float32]:
    """Rounded to `GRAIN`: the digits below are noise that no compression takes away."""
    return (values.float().cpu().double() / GRAIN).round().mul(GRAIN).float().numpy()


def _write_parquet(table: pa.Table, path: Path) -> None:
    floats = [field.name for field in table.schema if field.type == pa.float32()]
    others = [field.name for field in table.schema if field.type != pa.float32()]
    with durable.replacing(path, table.nbytes) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            row_group_size=1 << 16,
            use_dictionary=others,
            use_byte_stream_split=floats,
        )


def _next_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """[batch, sequence] loss of the token that follows, in nats; the last column is 0 and never kept."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    return F.pad(losses.view(len(tokens), -1), (0, 1))


@contextmanager
def _router_inputs(model: nn.Module) -> Iterator[dict[Router, Tensor]]:
    """The hidden states each router is given, in the order of the layers."""
    inputs: dict[Router, Tensor] = {}

    def record(router: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(router, Router)
        inputs[router] = arguments[0]

    hooks = [router.register_forward_pre_hook(record) for router in routers_of(model)]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
