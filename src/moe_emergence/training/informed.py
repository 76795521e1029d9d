"""Informed gates: what k-means of the gates' inputs on training tokens gives, to start from and to compare with."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_emergence.config import MoEConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.models.families import family_of
from moe_emergence.models.layers import resolve_layers
from moe_emergence.moe.centroids import centroid_gate
from moe_emergence.moe.router import routers_of

BLOCKS = 24
"""Training blocks a domain that gates are fitted on, at most."""
TOKENS = 4_096
"""Tokens of them, at most, as many of each domain."""
INFORMED_GATES = 99
"""Gates of the null, fitted from other k-means seeds."""
BATCH = 16
_START, _NULL = 1, 2  # second words of the seeds: no gate of the null starts as a run's own
_NULL_SEED = 0


def centroid_gates(dense: PreTrainedModel, moe: MoEConfig, data: PreparedData, *, seed: int) -> dict[int, Tensor]:
    """For each block that is to have experts, [experts, hidden] where its gate starts, from the dense model's hidden
    states before that block's MLP."""
    family = family_of(dense.config)
    blocks = family.blocks_of(dense)
    mlps = {layer: family.mlp_of(blocks[layer]) for layer in resolve_layers(moe.layers, len(blocks))}
    inputs = training_inputs(dense, mlps, data, device=next(dense.parameters()).device)
    return {
        layer: centroid_gate(hidden, moe.num_experts, seed=(seed, _START, layer)) for layer, hidden in inputs.items()
    }


def informed_gates(
    model: nn.Module,
    data: PreparedData,
    *,
    device: torch.device,
    fit: bool = True,
    poll: Callable[[], None] = stop_if_asked,
) -> dict[int, Tensor]:
    """For each layer with experts, [gates, experts, hidden] gates that start as `centroid_gates` does, on the hidden
    states that `model` has now: what an informed gate shows that was never trained.

    Args:
        fit: False in processes beside the first, which only compute along; nothing is returned then.
    """
    routers = {router.layer_idx or 0: router for router in routers_of(model)}
    inputs = training_inputs(model, routers, data, device=device, poll=poll)
    found: dict[int, Tensor] = {}
    for layer, hidden in inputs.items() if fit else ():
        gates = []
        for number in range(INFORMED_GATES):
            poll()
            seed = (_NULL_SEED, _NULL, layer, number)
            gates.append(centroid_gate(hidden, routers[layer].gate.out_features, seed=seed))
        found[layer] = torch.stack(gates)
    return found


def training_rows(data: PreparedData) -> NDArray[np.int64]:
    """Training blocks, as many of each domain, spread evenly over its text: a function of the data alone."""
    domains = [np.flatnonzero(data.train.domain == number) for number in range(len(data.domains))]
    each = min(BLOCKS, *map(len, domains))
    return np.concatenate([rows[np.linspace(0, len(rows) - 1, each).astype(int)] for rows in domains])


@torch.no_grad()  # a sharded model takes no inference tensors
def training_inputs(
    model: nn.Module,
    modules: Mapping[int, nn.Module],
    data: PreparedData,
    *,
    device: torch.device,
    poll: Callable[[], None] = stop_if_asked,
) -> dict[int, Tensor]:
    """[tokens, hidden] of what each module is given on the same training tokens, without dropout; in CPU memory."""
    rows = training_rows(data)
    parts: dict[int, list[Tensor]] = {layer: [] for layer in modules}
    hooks = [module.register_forward_pre_hook(_recorder(parts[layer])) for layer, module in modules.items()]
    mode = model.training
    model.eval()
    try:
        for start in range(0, len(rows), BATCH):
            poll()
            tokens = torch.from_numpy(data.train.tokens[rows[start : start + BATCH]].astype(np.int64))
            model(input_ids=tokens.to(device), use_cache=False)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    inputs = {layer: torch.cat(found) for layer, found in parts.items()}
    return {layer: hidden[_spread(len(hidden))] for layer, hidden in inputs.items()}


def _recorder(found: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        hidden = arguments[0]
        found.append(hidden.reshape(-1, hidden.shape[-1]).float().cpu())

    return record


def _spread(count: int) -> Tensor:
    """Places of at most `TOKENS` of `count` tokens, evenly."""
    return torch.from_numpy(np.linspace(0, count - 1, min(TOKENS, count)).astype(np.int64))
