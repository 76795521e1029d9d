"""The MoE layer, its drop-in form for a dense MLP, and scoped recording of what routers decided."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from transformers.activations import ACT2FN

from moe_emergence.errors import ModelError
from moe_emergence.moe.experts import Dispatch, EagerDispatch, Experts
from moe_emergence.moe.router import Router, routers_of
from moe_emergence.routing import RouterOutput


@dataclass(frozen=True, kw_only=True)
class MoESpec:
    """What a layer is made of; the MLP's own figures and the router's settings."""

    hidden_size: int
    intermediate_size: int
    num_experts: int
    top_k: int = 1
    activation: str = "gelu_new"
    """A name in transformers' table of activations."""
    dropout: float = 0.0
    """On the layer's output, where the dense MLP has it."""
    noise_std: float = 0.0
    gate_scale: str = "renormalised"
    router: str = "learned"
    loss_free_bias: bool = False
    detach_gate_input: bool = False


class MoE(nn.Module):
    """Router and experts: [batch, sequence, hidden] or [tokens, hidden] → (the same, the record of the routing)."""

    def __init__(self, spec: MoESpec, *, layer_idx: int | None = None, dispatch: Dispatch | None = None) -> None:
        super().__init__()
        self.router = Router(
            spec.hidden_size,
            spec.num_experts,
            spec.top_k,
            layer_idx=layer_idx,
            noise_std=spec.noise_std,
            gate_scale=spec.gate_scale,
            kind=spec.router,
            loss_free_bias=spec.loss_free_bias,
            detach_input=spec.detach_gate_input,
        )
        self.experts = Experts(
            dispatch or EagerDispatch(),
            spec.num_experts,
            spec.hidden_size,
            spec.intermediate_size,
            ACT2FN[spec.activation],
        )
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, hidden_states: Float[Tensor, "*tokens hidden"]
    ) -> tuple[Float[Tensor, "*tokens hidden"], RouterOutput]:
        """Each token's weighted sum of its experts' outputs."""
        route: RouterOutput = self.router(hidden_states)
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        mixed = self._mixed(tokens, route)
        return self.dropout(mixed.reshape(hidden_states.shape)), route

    def _mixed(self, tokens: Float[Tensor, "tokens hidden"], route: RouterOutput) -> Float[Tensor, "tokens hidden"]:
        """Under autocast in its type, as a dense MLP's output is: grouped products know nothing of autocast, and would
        run in the weights' own."""
        where = tokens.device.type
        weights: dict[str, Tensor] = dict(self.experts.named_parameters())
        if torch.is_autocast_enabled(where):
            dtype = torch.get_autocast_dtype(where)
            tokens, weights = tokens.to(dtype), {name: weight.to(dtype) for name, weight in weights.items()}
        mixed: Tensor = functional_call(self.experts, weights, (tokens, route.topk_indices, route.topk_weights))
        return mixed


class MoEWrapper(nn.Module):
    """A `MoE` in a dense MLP's place: returns the output alone; the record is for `record_routing` or the model."""

    def __init__(self, moe: MoE) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, hidden_states: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
        """The layer's output."""
        output: Tensor = self.moe(hidden_states)[0]
        return output


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[RouterOutput]]:
    """Collect every routing decision made inside the block, in order of computation, graph and all.

    For models that do not return their routes. Further forwards append; hooks go on exit, also on error.
    """
    routers = routers_of(model)
    if not routers:
        raise ModelError(f"{type(model).__name__} has no router to record: put MoE layers into it first")
    routes: list[RouterOutput] = []

    def keep(module: nn.Module, args: Any, output: RouterOutput) -> None:
        routes.append(output)

    handles = [router.register_forward_hook(keep) for router in routers]
    try:
        yield routes
    finally:
        for handle in handles:
            handle.remove()
