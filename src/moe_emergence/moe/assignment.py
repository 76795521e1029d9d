"""Null routers: experts from a token's id or its position, whatever the hidden state says."""

import torch
from jaxtyping import Int
from torch import Tensor

from moe_emergence.errors import ModelError
from moe_emergence.routing import RoutingContext


def assigned_experts(
    kind: str, context: RoutingContext | None, tokens: int, num_experts: int, top_k: int
) -> Int[Tensor, "tokens slots"]:
    """The experts that a `hash` or `round_robin` router sends the context's tokens to."""
    name = "token_ids" if kind == "hash" else "positions"
    given: Tensor | None = getattr(context, name, None)
    if given is None:
        raise ModelError(
            f"a {kind} router goes by {name}, and has none: call the registered model with input_ids, or set them by "
            f"routing_context(routers_of(model), RoutingContext(…, {name}=…))"
        )
    if given.numel() != tokens:
        raise ModelError(f"the routing context has {given.numel()} {name} for {tokens} tokens: give one a token")
    experts_of = hash_experts if kind == "hash" else round_robin_experts
    return experts_of(given.reshape(-1), num_experts, top_k)


def hash_experts(token_ids: Int[Tensor, " tokens"], num_experts: int, top_k: int) -> Int[Tensor, "tokens slots"]:
    """Slot j of a token takes expert (h(id) + j) mod E [2106.04426], with h the lower 63 bits of `splitmix64`: the same
    for a token wherever it stands, on every device and in every run. The k experts of a token differ."""
    return _in_turn(splitmix64(token_ids) & (2**63 - 1), num_experts, top_k)


def round_robin_experts(positions: Int[Tensor, " tokens"], num_experts: int, top_k: int) -> Int[Tensor, "tokens slots"]:
    """Slot j of the token at position p takes expert (p + j) mod E: loads are equal over any multiple of E tokens in a
    row, and say nothing of the text. The k experts of a token differ."""
    return _in_turn(positions.long(), num_experts, top_k)


def splitmix64(seed: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """The first number of the generator splitmix64 [Steele 2014] started at each seed: a bijection of 64-bit words.

    In two's complement, where products wrap around as unsigned ones do.
    """
    word = seed.long() + _signed(0x9E3779B97F4A7C15)
    word = (word ^ _shifted(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _shifted(word, 27)) * _signed(0x94D049BB133111EB)
    return word ^ _shifted(word, 31)


def _in_turn(first: Int[Tensor, " tokens"], num_experts: int, top_k: int) -> Int[Tensor, "tokens slots"]:
    slots = torch.arange(top_k, device=first.device)
    return (first.unsqueeze(1) % num_experts + slots) % num_experts


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros coming in, where torch would repeat the sign."""
    return (word >> bits) & (2 ** (64 - bits) - 1)
