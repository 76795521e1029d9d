"""Putting MoE layers into a model's blocks, in place, and filling them from the MLPs they replace."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_emergence.config import MoEConfig
from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.models.families import Family, family_of
from moe_emergence.models.layers import resolve_layers
from moe_emergence.moe.experts import Dispatch
from moe_emergence.moe.layer import MoE, MoESpec, MoEWrapper
from moe_emergence.moe.noise import keyed_normal
from moe_emergence.moe.router import Router

# First word of the key of each kind of random number, so that no two share a stream and neither moves the other. Those
# of drop-upcycling are beyond any block's index, which is the first word of the routers' noise.
_GATE, _PERTURBATION, _UNITS, _REDRAWN = 1, 2, 2**32 + 1, 2**32 + 2
_UNIT_AXIS = {"up_proj": 1, "up_proj_bias": 0, "down_proj": 0}
"""For each parameter of one expert that has a part for each hidden unit, the axis that they lie along."""


def install_moe_layers(
    model: PreTrainedModel, moe: MoEConfig, *, seed: int | None, gate_scale: str = "renormalised"
) -> tuple[int, ...]:
    """Replace the MLP of the chosen blocks by a `MoEWrapper`, in place; returns the blocks' indices.

    With a seed the layer is filled from the MLP it replaces (`fill_layer`), and torch's generator is left alone. With
    None its memory stays empty: for a model that initialises itself, or is about to load a checkpoint.
    """
    family = family_of(model.config)
    blocks = family.blocks_of(model)
    indices = resolve_layers(moe.layers, len(blocks))
    for index in indices:
        mlp = family.mlp_of(blocks[index])
        if isinstance(mlp, MoEWrapper):
            raise ModelError(f"block {index} already holds a Mixture of Experts; upcycle a dense model")
        layer = _empty_layer(family, model, moe, gate_scale, index)
        if seed is not None:
            fill_layer(layer, family, blocks[index], moe, seed=seed, gate_std=model.config.initializer_range)
        blocks[index].set_submodule(family.mlp, MoEWrapper(layer).train(mlp.training))
    return indices


@torch.no_grad()
def fill_layer(
    layer: MoE,
    family: Family,
    dense_block: nn.Module,
    moe: MoEConfig,
    *,
    seed: int,
    gate_std: float,
    gate: Float[Tensor, "experts hidden"] | None = None,
) -> None:
    """Sparse upcycling of one layer [Komatsuzaki 2022], with private random numbers keyed by the seed.

    Expert = MLP + Gaussian noise of standard deviation `perturbation` × that parameter's own (a constant parameter
    stays), and a share of its hidden units drawn anew (`redraw_units`); gate as given or ~ N(0, gate_std²), loss-free
    bias 0. Keys hold block and expert, so that arms which differ in k, in the number of experts, in the perturbation or
    in the share share all they have in common.

    Raises:
        ConfigError: the gate is to start from centroids, and none is given.
    """
    if gate is None and moe.gate_init == "centroids":
        raise ConfigError(
            "moe.gate_init 'centroids' is fitted on a run's training tokens, which `train` and `suite` read: use "
            "those, or take moe.gate_init 'small_random'"
        )
    block = layer.router.layer_idx or 0
    mlp = family.mlp_parameters(dense_block)
    for position, (name, dense) in enumerate(mlp.items()):
        stack = layer.experts.get_parameter(name)
        stack.copy_(dense.expand_as(stack))
        scale = moe.perturbation * float(dense.double().std(correction=0))
        for expert in range(moe.num_experts) if scale > 0 else ():
            noise = keyed_normal(dense.shape, seed=seed, stream=(_PERTURBATION, block, expert, position))
            stack[expert] += (scale * noise).to(stack)
    if moe.reinit_share > 0:
        redraw_units(layer, mlp, moe.reinit_share, seed=seed)
    if gate is None:
        draw_gate(layer.router, seed=seed, std=gate_std)
    else:
        layer.router.gate.weight.copy_(gate)
    if layer.router.expert_bias is not None:
        layer.router.expert_bias.zero_()


@torch.no_grad()
def redraw_units(layer: MoE, mlp: Mapping[str, Tensor], share: float, *, seed: int) -> None:
    """Drop-upcycling [Nakamura et al. 2025, 2502.19261, §3]: each expert loses what it had of the MLP in the nearest
    whole number to share × units of its hidden units, drawn for it alone.

    A unit's column of `up_proj`, its entry of that one's bias and its row of `down_proj` are replaced by N(μ, σ²), with
    μ and σ those of the same parameter of `mlp` over all units drawn. The paper's models have no biases, and its
    published code draws the units of each matrix on its own; here a unit is drawn anew as a whole.
    """
    block, units = layer.router.layer_idx or 0, mlp["up_proj"].shape[1]
    for expert in range(layer.experts.num_experts):
        order = keyed_normal((units,), seed=seed, stream=(_UNITS, block, expert)).argsort(stable=True)
        chosen = order[: round(share * units)]
        for position, (name, axis) in enumerate(_UNIT_AXIS.items()):
            dropped = mlp[name].index_select(axis, chosen.to(mlp[name].device)).double().cpu()
            noise = keyed_normal(dropped.shape, seed=seed, stream=(_REDRAWN, block, expert, position))
            drawn = dropped.mean() + dropped.std(correction=0) * noise
            stack = layer.experts.get_parameter(name)
            stack[expert].index_copy_(axis, chosen.to(stack.device), drawn.to(stack))


@torch.no_grad()
def draw_gate(router: Router, *, seed: int, std: float) -> None:
    """Initialise the gate ~ N(0, std²) with private random numbers keyed by (seed, block)."""
    weight = router.gate.weight
    weight.copy_(std * keyed_normal(weight.shape, seed=seed, stream=(_GATE, router.layer_idx or 0)))


def _empty_layer(family: Family, model: PreTrainedModel, moe: MoEConfig, gate_scale: str, index: int) -> MoE:
    config = model.config
    spec = MoESpec(
        hidden_size=family.hidden_size(config),
        intermediate_size=family.intermediate_size(config),
        num_experts=moe.num_experts,
        top_k=moe.top_k,
        activation=family.activation(config),
        dropout=family.dropout(config),
        noise_std=moe.noise_std,
        gate_scale=gate_scale,
        router=moe.router,
        loss_free_bias=moe.bias_rate > 0,
        detach_gate_input=moe.detach_gate_input,
    )
    with torch.device("meta"):  # so that torch's generator is not touched and no memory is filled twice
        layer = MoE(spec, layer_idx=index, dispatch=cast(Dispatch, config))
    return materialise(layer, family.mlp_of(family.blocks_of(model)[index]))


def materialise(layer: MoE, beside: nn.Module) -> MoE:
    """Give the layer memory, still empty, where `beside` has its own and in its dtype; the router in at least fp32."""
    like = next(beside.parameters())
    layer.experts.to(like.dtype)
    layer.router.to(torch.promote_types(like.dtype, torch.float32))
    return layer.to_empty(device=like.device)
