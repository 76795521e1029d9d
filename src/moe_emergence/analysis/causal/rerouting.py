"""Routing with fewer experts, or by other gates: what a layer would decide on the same hidden states."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moe_emergence.config import ASSIGNING_ROUTERS
from moe_emergence.errors import AnalysisError
from moe_emergence.moe.layer import MoE
from moe_emergence.moe.router import Router
from moe_emergence.routing import RouterOutput


def preference(router: Router, route: RouterOutput) -> Float[Tensor, "tokens experts"]:
    """What a router takes the k highest of: s_i + b_i, or for one that assigns experts in turn, minus the turns from a
    token's first expert to i."""
    if router.kind in ASSIGNING_ROUTERS:
        experts = router.gate.out_features
        turn = (torch.arange(experts, device=route.topk_indices.device) - route.topk_indices[:, :1]) % experts
        return -turn.to(route.router_probs.dtype)
    return route.router_probs if router.expert_bias is None else route.router_probs + router.expert_bias


def rerouted(
    router: Router, route: RouterOutput, allowed: Bool[Tensor, " experts"]
) -> tuple[Int[Tensor, "tokens slots"], Float[Tensor, "tokens slots"]]:
    """Experts and weights if only the `allowed` ones could be chosen: the k most preferred of those (all, where there
    are fewer), weighted as the layer's gate scale weighs them."""
    slots = min(router.top_k, int(allowed.sum()))
    if slots == 0:
        raise AnalysisError(f"a token needs an expert; none of the {len(allowed)} is allowed: leave at least one")
    indices = preference(router, route).masked_fill(~allowed, -torch.inf).topk(slots, dim=-1).indices
    if router.kind in ASSIGNING_ROUTERS:
        return indices, torch.full_like(route.router_probs[:, :slots], 1 / slots)
    return indices, router.slot_weights(route.router_probs.gather(-1, indices), route.router_logits, indices)


@contextmanager
def only_experts(layers: Mapping[int, MoE], allowed: Mapping[int, Bool[Tensor, " experts"]]) -> Iterator[None]:
    """Let the layers choose among the allowed experts alone for the length of the block, also on error."""
    with ExitStack() as hooks:
        for number, mask in allowed.items():
            hooks.callback(layers[number].router.register_forward_hook(_restricted(mask)).remove)
        yield


@contextmanager
def other_gates(layers: Mapping[int, MoE], gates: Mapping[int, Float[Tensor, "experts hidden"]]) -> Iterator[None]:
    """Give the layers these gates for the length of the block; their own return on exit, also on error.

    Raises:
        AnalysisError: gates of other layers or another shape than the model's.
    """
    if set(gates) != set(layers):
        raise AnalysisError(f"gates of layers {sorted(gates)} do not fit a model with experts in {sorted(layers)}")
    weights = {number: layers[number].router.gate.weight for number in gates}
    for number, weight in weights.items():
        if gates[number].shape != weight.shape:
            shapes = f"{list(gates[number].shape)}, the model's {list(weight.shape)}"
            raise AnalysisError(f"the gate of layer {number} has shape {shapes}: give one of the same model")
    own = {number: weight.detach().clone() for number, weight in weights.items()}
    try:
        with torch.no_grad():
            for number, weight in weights.items():
                weight.copy_(gates[number])
        yield
    finally:
        with torch.no_grad():
            for number, weight in weights.items():
                weight.copy_(own[number])


def _restricted(mask: Bool[Tensor, " experts"]) -> Any:
    def restrict(router: nn.Module, _: Any, route: RouterOutput) -> RouterOutput:
        assert isinstance(router, Router)
        indices, weights = rerouted(router, route, mask.to(route.topk_indices.device))
        return replace(route, topk_indices=indices, topk_weights=weights)

    return restrict
