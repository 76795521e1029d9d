"""Routing traces: for the same probe tokens at several steps, which experts each went to, in every MoE layer.

One Parquet row a probe token: `doc` (index of the document), `pos` (place in it), `token_id`, `domain` (index), `loss`
(nats, of the *next* token; null at a document's last), then per MoE layer L and slot k `e{L}_{k}` (expert), `w{L}_{k}`
(its weight) and `h{L}` (entropy of the clean probabilities, nats). Rows run document by document, in the probe set's
order. Beside it, in safetensors: `mean_probabilities.{L}` [documents, experts], and where asked for `fresh_gates.{L}`
[gates, documents, experts]: how many of a document's tokens each of 199 freshly initialised gates would send to each
expert on this layer's inputs: what a router that learned nothing shows on the same hidden states.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
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

from moe_emergence.data.blocks import PreparedData, Probe
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.models.base import weights_digest
from moe_emergence.moe.noise import keyed_normal
from moe_emergence.moe.router import Router, routers_of
from moe_emergence.routing import RouterOutput, expert_counts
from moe_emergence.training import durable
from moe_emergence.training.tensors import model_tensors, whole_cpu, write_tensors

FRESH_GATES = 199
METADATA = b"moe_emergence"
BATCH = 16
_FRESH_SEED, _FRESH_STREAM = 0, 3  # a stream no model's own gate or perturbation is drawn from


def trace_name(step: int) -> str:
    return f"step-{step:06d}"


def step_of_trace(path: Path) -> int:
    """The step in the name of a trace or its neighbour; −1 for any other file."""
    number = path.stem.removeprefix("step-")
    return int(number) if path.name.startswith("step-") and number.isdigit() else -1


@torch.no_grad()  # a sharded model takes no inference tensors
def write_trace(
    model: nn.Module,
    data: PreparedData,
    folder: Path | None,
    *,
    step: int,
    device: torch.device,
    fresh_gates: bool,
    inexact: bool = False,
    full: Callable[[Tensor], Tensor] = whole_cpu,
    poll: Callable[[], None] = stop_if_asked,
) -> Path | None:
    """Route the probe set through `model` and write `folder`/step-NNNNNN.parquet with its small neighbour.

    A model without experts leaves a trace of losses alone.

    Args:
        folder: None in processes beside the first: they compute along, and write nothing.
        inexact: whether the run was continued under other conditions than it was started with.
        full: a whole tensor of one that may be spread over processes.
        poll: called before each batch.

    Raises:
        StopAsked: a signal asked to stop; nothing is written then.
    """
    model.eval()
    probe = data.probe
    table = _Columns(probe)
    beside: dict[str, NDArray[Any]] = {}
    for start in range(0, len(probe.tokens), BATCH):
        poll()
        rows = slice(start, min(start + BATCH, len(probe.tokens)))
        tokens = torch.from_numpy(probe.tokens[rows].astype(np.int64)).to(device)
        with _router_inputs(model) as inputs:
            output = model(input_ids=tokens, use_cache=False)
        routes: tuple[RouterOutput, ...] = getattr(output, "routes", None) or ()
        table.add(rows, _next_losses(output.logits, tokens), routes)
        for route, router in zip(routes, inputs, strict=True):
            _tally(beside, f"mean_probabilities.{route.layer_idx}", probe, rows, _document_means(route, probe, rows))
            if fresh_gates:
                counts = _fresh_counts(inputs[router], router, probe, rows)
                _tally(beside, f"fresh_gates.{route.layer_idx}", probe, rows, counts)
    metadata = _metadata(model, data, step, full) | ({"inexact": True} if inexact else {})
    if folder is None:
        return None
    durable.make_folder(folder)
    path = folder / f"{trace_name(step)}.parquet"
    if beside:
        tensors = {name: torch.from_numpy(values) for name, values in beside.items()}
        write_tensors(path.with_suffix(".safetensors"), tensors)
    _write_parquet(table.arrow(metadata), path)
    return path


def probe_digest(probe: Probe) -> str:
    """sha256 of the probe set."""
    parts = (probe.tokens, probe.length, probe.document, probe.domain)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def _metadata(model: nn.Module, data: PreparedData, step: int, full: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    routers = routers_of(model)
    return {
        "step": step,
        "model_digest": weights_digest(model_tensors(model, full).items()),
        "probe_digest": probe_digest(data.probe),
        "data_digest": data.digest,
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
        probe, size = self.probe, self.probe.tokens.shape[1]
        length = probe.length[rows]
        kept = np.arange(size)[None] < length[:, None]
        position = np.broadcast_to(np.arange(size, dtype=np.int32), kept.shape)
        last = position == length[:, None] - 1
        self._put("doc", np.broadcast_to(probe.document[rows, None], kept.shape)[kept])
        self._put("pos", position[kept])
        self._put("token_id", probe.tokens[rows][kept])
        self._put("domain", np.broadcast_to(probe.domain[rows, None].astype(np.uint8), kept.shape)[kept])
        self._put("loss", np.where(last, np.nan, losses.float().cpu().numpy())[kept].astype(np.float32))
        flat = kept.reshape(-1)
        for route in routes:
            layer, number = route.layer_idx, np.min_scalar_type(route.router_probs.shape[1] - 1)
            for slot in range(route.topk_indices.shape[1]):
                self._put(f"e{layer}_{slot}", route.topk_indices[:, slot].cpu().numpy().astype(number)[flat])
                self._put(f"w{layer}_{slot}", route.topk_weights[:, slot].float().cpu().numpy()[flat])
            self._put(f"h{layer}", route.entropy.float().cpu().numpy()[flat])

    def _put(self, name: str, values: NDArray[Any]) -> None:
        self.columns.setdefault(name, []).append(values)

    def arrow(self, metadata: dict[str, Any]) -> pa.Table:
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        arrays = {name: pa.array(values, from_pandas=name == "loss") for name, values in columns.items()}
        return pa.table(arrays).replace_schema_metadata({METADATA: json.dumps(metadata)})


def _write_parquet(table: pa.Table, path: Path) -> None:
    with durable.replacing(path, table.nbytes) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=1 << 16)


def _next_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """[batch, sequence] loss of the token that follows, in nats; the last column is 0 and never kept."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    return F.pad(losses.view(len(tokens), -1), (0, 1))


def _tally(beside: dict[str, NDArray[Any]], name: str, probe: Probe, rows: slice, values: NDArray[Any]) -> None:
    """Put the values of a batch's documents (axis −2) in their place."""
    if name not in beside:
        shape = (*values.shape[:-2], len(probe.tokens), values.shape[-1])
        beside[name] = np.zeros(shape, dtype=values.dtype)
    beside[name][..., rows, :] = values


def _document_means(route: RouterOutput, probe: Probe, rows: slice) -> NDArray[np.float32]:
    size = probe.tokens.shape[1]
    kept = _kept(probe, rows).to(route.router_probs_clean)
    probs = route.router_probs_clean.view(-1, size, route.router_probs_clean.shape[1])
    means = (probs * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True)
    return means.float().cpu().numpy()


def _kept(probe: Probe, rows: slice) -> Tensor:
    return torch.from_numpy(np.arange(probe.tokens.shape[1])[None] < probe.length[rows, None])


def _fresh_counts(hidden: Tensor, router: Router, probe: Probe, rows: slice) -> NDArray[np.int32]:
    """[gates, documents, experts] of tokens that each fresh gate, drawn as upcycling draws them, would send there."""
    experts, width = router.gate.weight.shape
    stream = (_FRESH_STREAM, router.layer_idx or 0)
    gates = keyed_normal((FRESH_GATES, experts, width), seed=_FRESH_SEED, stream=stream).to(hidden.device)
    documents = rows.stop - rows.start
    kept = _kept(probe, rows).reshape(-1)
    with torch.autocast(hidden.device.type, enabled=False):  # at a router's own precision
        logits = hidden.reshape(-1, width).float() @ gates.view(-1, width).T
    choice = logits.view(-1, FRESH_GATES, experts).argmax(-1).cpu()
    counts = [expert_counts(choice[:, g : g + 1], experts, kept, groups=documents) for g in range(FRESH_GATES)]
    return torch.stack(counts).numpy().astype(np.int32)


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
