"""Routers that assign experts by a token's id, position or domain, whatever the hidden state says: nulls, and the
oracle."""

import torch
from jaxtyping import Int
from torch import Tensor

from moe_emergence.errors import ModelError
from moe_emergence.routing import RoutingContext


def assigned_experts(
    kind: str, context: RoutingContext | None, tokens: int, num_experts: int, top_k: int
) -> Int[Tensor, "tokens slots"]:
    """The experts that a `hash`, `round_robin` or `domain` router sends the context's tokens to."""
    given = _told(kind, context, "positions" if kind == "round_robin" else "token_ids")
    if given.numel() != tokens:
        raise ModelError(f"the routing context has {given.numel()} token ids or positions for {tokens} tokens")
    flat = given.reshape(-1)
    if kind == "round_robin":
        return round_robin_experts(flat, num_experts, top_k)
    if kind == "hash":
        return hash_experts(flat, num_experts, top_k)
    assert context is not None
    domains = _told(kind, context, "domains")
    if len(domains) == 0 or tokens % len(domains):
        raise ModelError(f"the routing context has {len(domains)} domains, one per sequence, for {tokens} tokens")
    of_token = domains.to(flat.device).repeat_interleave(tokens // len(domains))
    return domain_experts(flat, of_token, context.num_domains, num_experts, top_k)


def _told(kind: str, context: RoutingContext | None, name: str) -> Tensor:
    given: Tensor | None = getattr(context, name, None)
    if given is not None:
        return given
    if name == "domains":
        raise ModelError(
            "this model is routed by domain (an oracle): it can only read text whose domain is stated, by "
            "routing_context(routers_of(model), RoutingContext(…, domains=…, num_domains=…)); choose another arm for "
            "text of unknown domain"
        )
    raise ModelError(
        f"a {kind} router goes by {name}, and has none: call the registered model with input_ids, or set them by "
        f"routing_context(routers_of(model), RoutingContext(…, {name}=…))"
    )


def hash_experts(token_ids: Int[Tensor, " tokens"], num_experts: int, top_k: int) -> Int[Tensor, "tokens slots"]:
    """Slot j of a token takes expert (h(id) + j) mod E [2106.04426], with h the lower 63 bits of `splitmix64`: the same
    for a token wherever it stands, on every device and in every run. The k experts of a token differ."""
    return _in_turn(splitmix64(token_ids) & (2**63 - 1), num_experts, top_k)


def domain_experts(
    token_ids: Int[Tensor, " tokens"],
    domains: Int[Tensor, " tokens"],
    num_domains: int,
    num_experts: int,
    top_k: int,
) -> Int[Tensor, "tokens slots"]:
    """The oracle: domain d has the experts from ⌊dE/D⌋ to ⌊(d + 1)E/D⌋ − 1, as even a division as there is, and slot j
    of a token takes expert (h(id) + j) mod n of its domain's n, h as in `hash_experts`. So I(E;D) = H(D), and given the
    domain nothing but the token's id decides.

    Raises:
        ModelError: a domain number outside 0..D − 1, or fewer than k experts for some domain.
    """
    check_oracle(num_domains, num_experts, top_k)
    if len(domains) and not 0 <= int(domains.min()) <= int(domains.max()) < num_domains:
        raise ModelError(f"domains must lie between 0 and {num_domains - 1}; got {sorted(set(domains.tolist()))}")
    bounds = torch.arange(num_domains + 1, device=domains.device) * num_experts // max(num_domains, 1)
    first, own = bounds[domains], bounds[domains + 1] - bounds[domains]
    place = (splitmix64(token_ids) & (2**63 - 1)) % own
    slots = torch.arange(top_k, device=domains.device)
    return first.unsqueeze(1) + (place.unsqueeze(1) + slots) % own.unsqueeze(1)


def check_oracle(num_domains: int, num_experts: int, top_k: int) -> None:
    """Raise ModelError where experts cannot be divided among the domains so that each has k of its own."""
    least = num_experts // num_domains if num_domains > 0 else 0
    if least < top_k:
        raise ModelError(
            f"{num_experts} experts divided among {num_domains} domains leave {least} for some domain, fewer than the "
            f"{top_k} a token is sent to: give moe.num_experts at least {max(num_domains, 1) * top_k}"
        )


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
