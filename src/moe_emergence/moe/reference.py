"""The oracle: one token at a time, one slot at a time, in plain loops. Slow, and simple enough to be believed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_emergence.moe.experts import Experts
from moe_emergence.moe.layer import MoE


def reference_experts(
    experts: Experts,
    hidden_states: Float[Tensor, "tokens hidden"],
    top_k_index: Int[Tensor, "tokens slots"],
    top_k_weights: Float[Tensor, "tokens slots"],
) -> Float[Tensor, "tokens hidden"]:
    """What `experts(hidden_states, top_k_index, top_k_weights)` must return, gradients included."""
    outputs = []
    for token in range(len(hidden_states)):
        x = hidden_states[token]
        y = torch.zeros_like(x)
        for slot in range(top_k_index.shape[1]):
            expert = int(top_k_index[token, slot])
            inner = experts.act_fn(x @ experts.up_proj[expert] + experts.up_proj_bias[expert])
            outer = inner @ experts.down_proj[expert] + experts.down_proj_bias[expert]
            y = y + top_k_weights[token, slot] * outer
        outputs.append(y)
    return torch.stack(outputs)


def reference_route(
    layer: MoE, token: Float[Tensor, " hidden"]
) -> tuple[Int[Tensor, " slots"], Float[Tensor, " slots"]]:
    """Experts and weights of one token without noise, from the definition of each gate scale."""
    router = layer.router
    logits = torch.stack([(row * token).sum() for row in router.gate.weight])
    probs = logits.exp() / logits.exp().sum()
    bias = torch.zeros_like(probs) if router.expert_bias is None else router.expert_bias
    scores = [float(score) for score in probs.detach() + bias]
    chosen = sorted(range(len(scores)), key=lambda expert: -scores[expert])[: router.top_k]
    weights = torch.stack([probs[expert] for expert in chosen])
    if router.gate_scale == "sigmoid":
        weights = torch.stack([1 / (1 + (-logits[expert]).exp()) for expert in chosen])
    elif router.gate_scale == "renormalised" and router.top_k > 1:
        weights = weights / weights.sum()
    elif router.gate_scale == "renormalised":
        weights = weights - weights.detach() + 1 if router.training else torch.ones_like(weights)
    return torch.tensor(chosen), weights


def reference_layer(layer: MoE, hidden_states: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
    """What `layer(hidden_states)[0]` must be without noise and dropout, gradients included."""
    outputs = []
    for token in hidden_states.reshape(-1, hidden_states.shape[-1]):
        indices, weights = reference_route(layer, token)
        outputs.append(reference_experts(layer.experts, token[None], indices[None], weights[None])[0])
    return torch.stack(outputs).reshape(hidden_states.shape)
