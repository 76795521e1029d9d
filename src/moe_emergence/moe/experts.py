"""The experts of one layer: two-matrix MLPs stacked in 3-D parameters, the form of transformers' experts interface."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.integrations import use_experts_implementation


@runtime_checkable
class Dispatch(Protocol):
    """Whatever names the implementation to run: a model's config, so that `set_experts_implementation` acts."""

    _experts_implementation: str | None


class EagerDispatch:
    """For layers that stand outside a model: the forward written below."""

    _experts_implementation: str | None = "eager"


@use_experts_implementation(is_transposed=True, has_bias=True, has_gate=False)
class Experts(nn.Module):
    """y = act(x W_up + b_up) W_down + b_down for each expert, with weights in (input, output) order.

    transformers replaces `forward` by `grouped_mm` or `batched_mm` where `config` says so; "eager" is the one here.
    """

    def __init__(
        self,
        config: Dispatch,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        act_fn: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.up_proj = nn.Parameter(torch.zeros(num_experts, hidden_size, intermediate_size))
        self.up_proj_bias = nn.Parameter(torch.zeros(num_experts, intermediate_size))
        self.down_proj = nn.Parameter(torch.zeros(num_experts, intermediate_size, hidden_size))
        self.down_proj_bias = nn.Parameter(torch.zeros(num_experts, hidden_size))
        self.act_fn = act_fn

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        top_k_index: Int[Tensor, "tokens slots"],
        top_k_weights: Float[Tensor, "tokens slots"],
    ) -> Float[Tensor, "tokens hidden"]:
        """Sum over a token's slots of weight × expert output: a loop over the experts that have tokens."""
        tokens, slots = top_k_index.shape
        chosen = top_k_index.reshape(-1)
        order = chosen.argsort(stable=True)
        counts = torch.bincount(chosen, minlength=self.num_experts).tolist()
        rows = torch.split(hidden_states.index_select(0, order // slots), counts)
        # unbind once: its gradient is one stack, where indexing by expert would add up a full tensor for each
        weights = zip(*(p.unbind(0) for p in self._stacks()), strict=True)
        outputs = [self._expert(x, *w) for x, w in zip(rows, weights, strict=True) if len(x)]
        scaled = torch.cat(outputs) * top_k_weights.reshape(-1).index_select(0, order).unsqueeze(1)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        by_token = scaled.index_select(0, back).view(tokens, slots, -1)
        return by_token.sum(1).to(hidden_states.dtype)

    def _stacks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.up_proj, self.up_proj_bias, self.down_proj, self.down_proj_bias

    def _expert(self, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        return torch.addmm(down_bias, self.act_fn(torch.addmm(up_bias, x, up)), down)
