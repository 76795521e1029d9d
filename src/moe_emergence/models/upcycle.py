"""Sparse upcycling: a dense model becomes a Mixture of Experts whose every expert starts as a copy of its MLP."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, PreTrainedModel

from moe_emergence.config import MoEConfig
from moe_emergence.errors import ModelError
from moe_emergence.models.configuration import GPT2MoEConfig
from moe_emergence.models.families import family_of
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM, causal_lm_loss
from moe_emergence.models.install import draw_gate, fill_layer, install_moe_layers, materialise
from moe_emergence.models.layers import resolve_layers
from moe_emergence.moe.layer import MoE

__all__ = [
    "UpcycleReceipt",
    "ancestor_state",
    "draw_gate",
    "install_moe_layers",
    "resolve_layers",
    "upcycle",
    "upcycle_receipt",
]


@dataclass(frozen=True, kw_only=True)
class UpcycleReceipt:
    """How far the upcycled model is from the dense one on a fixed batch, and what it costs in parameters."""

    relative_logit_difference: float
    """max |Δ logit| ÷ max |dense logit|; ≤ 1e-5 at perturbation 0, top-1."""
    kl_nats: float
    """KL(dense ‖ upcycled) of next-token distributions, mean over positions."""
    dense_lm_loss: float
    upcycled_lm_loss: float
    lm_loss_difference: float
    """Upcycled − dense, nats a token."""
    parameters_total: int
    parameters_dense: int
    parameters_active: int
    """What one token uses: all but the experts it is not sent to."""

    def to_dict(self) -> dict[str, float | int]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def upcycle(
    dense: PreTrainedModel,
    moe: MoEConfig,
    *,
    seed: int,
    experts_implementation: str = "grouped_mm",
    gate_scale: str = "renormalised",
    gates: Mapping[int, Float[Tensor, "experts hidden"]] | None = None,
) -> GPT2MoEForCausalLM:
    """The dense model with experts in `moe.layers`, on its device and in its dtype and mode; `dense` stays as it is.

    All random numbers are private and keyed by the seed (see `fill_layer`); torch's generators are not touched.

    Args:
        gates: of each block with experts, where its gate starts; None draws them small and random.

    Raises:
        ConfigError: `moe.gate_init` asks for centroids, which are a matter of data, and no gates are given.
    """
    if not isinstance(dense, GPT2LMHeadModel):
        raise ModelError(f"upcycling takes a GPT-2 with its language-modelling head; got {type(dense).__name__}")
    config = GPT2MoEConfig.from_dense(dense.config, moe, gate_scale=gate_scale)
    config._experts_implementation = experts_implementation
    with torch.device("meta"):
        model = GPT2MoEForCausalLM(config)
    _fill_experts(model, dense, moe, seed, gates)
    _copy_the_rest(model, dense)
    model.generation_config = copy.deepcopy(dense.generation_config)
    model.train(dense.training)
    return model


def ancestor_state(dense: PreTrainedModel, layers: Sequence[int]) -> dict[str, Tensor]:
    """The MLPs that the experts of these blocks came from, by their names in the dense model; copies, on the CPU.

    To be stored with a run, so that an expert can be compared with, or reverted to, its ancestor.
    """
    family = family_of(dense.config)
    blocks = family.blocks_of(dense)
    mlps = {id(p) for layer in layers for p in family.mlp_of(blocks[layer]).parameters()}
    return {name: p.detach().cpu().clone() for name, p in dense.named_parameters() if id(p) in mlps}


@torch.no_grad()
def upcycle_receipt(
    dense: PreTrainedModel, moe_model: PreTrainedModel, input_ids: Int[Tensor, "batch sequence"]
) -> UpcycleReceipt:
    """Compare the two on one batch, both in eval mode for its length. (An oracle must be told its domains around it:
    `told_domains`.)"""
    with _evaluating(dense, moe_model):
        ours: Tensor = moe_model(input_ids=input_ids).logits
        theirs: Tensor = dense(input_ids=input_ids).logits
    losses = float(causal_lm_loss(theirs, input_ids)), float(causal_lm_loss(ours, input_ids))
    return UpcycleReceipt(
        relative_logit_difference=float((ours - theirs).abs().max() / theirs.abs().max()),
        kl_nats=float(_kl(theirs, ours)),
        dense_lm_loss=losses[0],
        upcycled_lm_loss=losses[1],
        lm_loss_difference=losses[1] - losses[0],
        parameters_total=moe_model.num_parameters(),
        parameters_dense=dense.num_parameters(),
        parameters_active=active_parameters(moe_model),
    )


def active_parameters(model: PreTrainedModel) -> int:
    """Parameters that one token uses: all but those of the E − k experts of each layer it is not sent to."""
    idle = 0
    for layer in (module for module in model.modules() if isinstance(module, MoE)):
        experts, chosen = layer.experts.num_experts, layer.router.top_k
        idle += sum(p.numel() for p in layer.experts.parameters()) * (experts - chosen) // experts
    total: int = model.num_parameters()
    return total - idle


def _fill_experts(
    model: GPT2MoEForCausalLM, dense: PreTrainedModel, moe: MoEConfig, seed: int, gates: Mapping[int, Tensor] | None
) -> None:
    family = family_of(dense.config)
    ours, theirs = family.blocks_of(model), family.blocks_of(dense)
    for index in model.moe_layer_indices:
        (layer,) = (module for module in ours[index].modules() if isinstance(module, MoE))
        materialise(layer, family.mlp_of(theirs[index]))
        gate = None if gates is None else gates[index]
        fill_layer(layer, family, theirs[index], moe, seed=seed, gate_std=dense.config.initializer_range, gate=gate)


def _copy_the_rest(model: GPT2MoEForCausalLM, dense: PreTrainedModel) -> None:
    wanted = {name for name, p in model.named_parameters(remove_duplicate=False) if p.is_meta}
    state = {name: p.clone() for name, p in dense.state_dict().items() if name in wanted}
    missing = sorted(wanted - set(state))
    if missing:
        raise ModelError(f"the dense model lacks {', '.join(missing)}, which upcycling copies")
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()


def _kl(theirs: Float[Tensor, "*rows vocabulary"], ours: Float[Tensor, "*rows vocabulary"]) -> Float[Tensor, ""]:
    p, q = (x.double().log_softmax(-1).flatten(0, -2) for x in (theirs, ours))
    return F.kl_div(q, p, log_target=True, reduction="batchmean")


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    before = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, before, strict=True):
            model.train(training)
