"""What the registered model returns, and the LM loss in it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from moe_emergence.errors import ModelError
from moe_emergence.routing import RouterOutput

_IGNORED = -100


@dataclass
class MoECausalLMOutput(ModelOutput):
    """What a forward returns. The four losses never share a number; perplexity is exp(`lm_loss`)."""

    # accelerate rebuilds outputs from one dict in the place of the first field, which jaxtyping would refuse.
    __no_type_check__: ClassVar[bool] = True

    loss: Tensor | None = None
    """While training the objective, `lm_loss` + coefficients × the two router losses; in eval `lm_loss`."""
    lm_loss: Tensor | None = None
    load_balancing_loss: Tensor | None = None
    """Unweighted; None in a forward with a cache and without labels, which is generation."""
    router_z_loss: Tensor | None = None
    """Unweighted; None likewise."""
    aux_loss: Tensor | None = None
    """`load_balancing_loss` under the name, and with the meaning, that transformers' MoE models give it."""
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None
    """Raw logits [tokens, experts], one a MoE layer, unless `output_router_logits` is False."""
    routes: tuple[RouterOutput, ...] | None = None
    """One record a MoE layer, in order, each with its `layer_idx`."""


def collect_aux_outputs(output: MoECausalLMOutput) -> list[dict[str, Any]]:
    """One record a MoE layer, detached: the fields of `RouterOutput`, `n_experts` and `topk`."""
    if output.routes is None:
        raise ModelError("this output carries no routing records: it is not that of a model with MoE layers")
    return [_record(route.detach()) for route in output.routes]


def causal_lm_loss(
    logits: Float[Tensor, "batch sequence vocabulary"],
    labels: Int[Tensor, "batch sequence"],
    num_items: int | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats over labels other than −100 (their sum ÷ `num_items` if given).

    In at least fp32; transformers' own also rounds float64 down to it.
    """
    target = _next_labels(labels).flatten().to(logits.device)
    upcast = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    if num_items is None:
        return F.cross_entropy(upcast, target, ignore_index=_IGNORED)
    return F.cross_entropy(upcast, target, ignore_index=_IGNORED, reduction="sum") / num_items


def share_of_step(labels: Tensor | None, num_items: int | Tensor | None) -> float | Tensor:
    """This forward's part of a step of `num_items` labels; 1 where nobody counts."""
    if labels is None or num_items is None:
        return 1.0
    return (_next_labels(labels) != _IGNORED).sum() / num_items


def _next_labels(labels: Tensor) -> Tensor:
    return F.pad(labels, (0, 1), value=_IGNORED)[..., 1:]


def _record(route: RouterOutput) -> dict[str, Any]:
    return vars(route) | {"n_experts": route.router_probs.shape[1], "topk": route.topk_indices.shape[1]}
