"""What is done to one expert of one layer, as a change of the layer's output at the tokens it concerns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_emergence.analysis.causal.forward import Batch, Seen, Subject
from moe_emergence.analysis.causal.rerouting import rerouted
from moe_emergence.errors import AnalysisError
from moe_emergence.moe.experts import Dispatch, Experts
from moe_emergence.moe.layer import MoE

ZERO, NEXT, SWAP, MEAN, ANCESTOR = "zero", "next", "swap", "mean", "ancestor"
INTERVENTIONS = (ZERO, NEXT, SWAP, MEAN, ANCESTOR)
NEEDS_OTHERS = (NEXT, SWAP)
"""Impossible where every token goes to every expert."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One layer on one batch, with all that interventions on its experts need.

    Attributes:
        outputs: [experts, tokens, hidden] what each expert would give for each token.
        means: [experts, hidden] each expert's mean output over its own tokens.
        ancestor: [tokens, hidden] what the MLP that all experts came from would give; None where it is not known.
        drawn: [tokens] numbers in 0..1 that depend on seed, layer, document and position alone.
    """

    moe: MoE
    seen: Seen
    batch: Batch
    outputs: Float[Tensor, "experts tokens hidden"]
    means: Float[Tensor, "experts hidden"]
    ancestor: Float[Tensor, "tokens hidden"] | None
    drawn: Float[Tensor, " tokens"]


@dataclass(frozen=True, eq=False)
class Affected:
    """Tokens (places in the flattened batch) that go to an expert and have a loss of their own, with the expert's
    weight [affected, 1]."""

    tokens: Int[Tensor, " affected"]
    weight: Float[Tensor, "affected 1"]


def affected(case: Case, expert: int) -> Affected:
    """The tokens an intervention on `expert` changes. (A document's last token has no loss, and none sees it.)"""
    slots = case.seen.route.topk_indices == expert
    tokens = (slots.any(1) & case.batch.predicted.view(-1)).nonzero()[:, 0]
    weight = (case.seen.route.topk_weights * slots).sum(1, keepdim=True)[tokens]
    return Affected(tokens, weight.to(case.outputs.dtype))


def output_change(case: Case, intervention: str, expert: int) -> tuple[Tensor, Tensor]:
    """(tokens [affected], change of the layer's output there [affected, hidden])."""
    at = affected(case, expert)
    return at.tokens, _CHANGES[intervention](case, expert, at)


def possible(intervention: str, subject: Subject) -> bool:
    """Whether a model with E experts and k slots allows it: `next` and `swap` need an expert that is not chosen."""
    return intervention not in NEEDS_OTHERS or subject.top_k < subject.experts


def _zero(case: Case, expert: int, at: Affected) -> Tensor:
    """The expert's contribution is dropped; the weights of other slots stay."""
    return -at.weight * case.outputs[expert, at.tokens]


def _next(case: Case, expert: int, at: Affected) -> Tensor:
    """The k experts are chosen anew without it, weighted as the gate scale says."""
    allowed = torch.arange(len(case.outputs), device=at.tokens.device) != expert
    indices, weights = rerouted(case.moe.router, case.seen.route, allowed)
    route = case.seen.route
    return mixed(case, at.tokens, indices, weights) - mixed(case, at.tokens, route.topk_indices, route.topk_weights)


def _swap(case: Case, expert: int, at: Affected) -> Tensor:
    """Another expert, drawn among those the token is not sent to, takes its place at the same weight."""
    others = case.seen.route.topk_indices.new_ones(len(case.seen.inputs), len(case.outputs), dtype=torch.bool)
    others = others.scatter(1, case.seen.route.topk_indices, False)[at.tokens]
    rank = (case.drawn[at.tokens] * others.sum(1)).long()
    instead = (others.cumsum(1) == rank[:, None] + 1).int().argmax(1)
    return at.weight * (case.outputs[instead, at.tokens] - case.outputs[expert, at.tokens])


def _mean(case: Case, expert: int, at: Affected) -> Tensor:
    """Every token gets the expert's mean output."""
    return at.weight * (case.means[expert] - case.outputs[expert, at.tokens])


def _ancestor(case: Case, expert: int, at: Affected) -> Tensor:
    """The expert computes with the weights it was copied from."""
    if case.ancestor is None:
        raise AnalysisError("reverting to the ancestor needs ancestor.safetensors, which the run's folder lacks")
    return at.weight * (case.ancestor[at.tokens] - case.outputs[expert, at.tokens])


_CHANGES: dict[str, Callable[[Case, int, Affected], Tensor]] = {
    ZERO: _zero,
    NEXT: _next,
    SWAP: _swap,
    MEAN: _mean,
    ANCESTOR: _ancestor,
}


def mixed(case: Case, tokens: Tensor, indices: Tensor, weights: Tensor) -> Float[Tensor, "some hidden"]:
    """What the layer would give for `tokens` under a routing [tokens of the batch, slots]."""
    chosen = case.outputs[indices[tokens], tokens[:, None]]
    return (weights[tokens, :, None].to(chosen.dtype) * chosen).sum(1)


@torch.no_grad()
def all_outputs(experts: Experts, inputs: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "experts tokens hidden"]:
    """What each expert gives for every token; equal experts give exactly equal numbers."""
    index = torch.zeros(len(inputs), 1, dtype=torch.int64, device=inputs.device)
    one = torch.ones(len(inputs), 1, dtype=inputs.dtype, device=inputs.device)
    return torch.stack([experts(inputs, index + expert, one) for expert in range(experts.num_experts)])


@torch.no_grad()
def between(experts: Experts, ancestor: Mapping[str, Tensor], share: float) -> Experts:
    """Experts with weights W_0 + share · (W_e − W_0): the ancestor at 0, themselves at 1."""
    result = _empty_experts(experts, experts.num_experts)
    for name, parameter in result.named_parameters():
        origin = ancestor[name].to(parameter)
        parameter.copy_(origin + share * (experts.get_parameter(name) - origin))
    return result


@torch.no_grad()
def ancestor_output(experts: Experts, ancestor: Mapping[str, Tensor], inputs: Tensor) -> Float[Tensor, "tokens hidden"]:
    """What the MLP that the experts came from gives."""
    origin = _empty_experts(experts, 1)
    for name, parameter in origin.named_parameters():
        parameter.copy_(ancestor[name])
    return all_outputs(origin, inputs)[0]


def _empty_experts(like: Experts, number: int) -> Experts:
    hidden, inner = like.up_proj.shape[1:]
    return Experts(cast(Dispatch, like.config), number, hidden, inner, like.act_fn).to(like.up_proj)


def ancestors_of(subject: Subject, stored: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """For each layer the ancestor's parameters by the names experts have them, from the dense model's names.

    Raises:
        AnalysisError: one is missing.
    """
    family, prefix = subject.family, subject.model.base_model_prefix
    found: dict[int, dict[str, Tensor]] = {}
    for layer in subject.layers:
        names = {n: f"{prefix}.{family.blocks}.{layer}.{family.mlp}.{own}" for n, own in family.stacks.items()}
        missing = [name for name in names.values() if name not in stored]
        if missing:
            raise AnalysisError(f"ancestor.safetensors lacks {missing[0]}: it is of another model than the run's")
        found[layer] = {name: stored[own].to(subject.device) for name, own in names.items()}
    return found


def drawn_numbers(batch: Batch, *, seed: int, layer: int) -> Float[Tensor, " tokens"]:
    """One number in 0..1 a token, keyed by (seed, layer, document, position)."""
    width = batch.ids.shape[1]
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, int(document)], counter=[0, 0, 0, layer])).random(width)
        for document in batch.index
    ]
    return torch.from_numpy(np.concatenate(rows)).to(batch.ids.device)
