"""The two losses that act on routing, Switch load balancing and z-loss: each a layer's own, averaged over layers."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moe_emergence.errors import ModelError
from moe_emergence.routing import RouterOutput, expert_counts, load_of_counts


def compute_load_balance_loss(
    routes: Sequence[RouterOutput],
    window_loads: Sequence[Float[Tensor, "batch experts"]] | None = None,
    mask: Bool[Tensor, "*batch sequence"] | None = None,
) -> Float[Tensor, ""]:
    """Switch balance loss [Fedus 2021, eq. 4] with the load f counted over a window: a layer's value is

        E · mean over sequences s of Σ_i f_{g(s),i} P_{s,i},

    g(s) the window of s, f_i = c_i / Σ c without gradient, P_i the mean of `router_probs` over the sequence's unmasked
    tokens; sequences weigh as they have tokens, which makes it E Σ f_i P_i of the whole batch where the window is the
    batch. 1 at uniform, E/k when k experts take all with certainty; below 1 where f and P are anti-correlated.
    `window_loads` has one entry a layer; None counts over all tokens of `routes`.
    """
    _require_layers(routes, window_loads)
    flat = None if mask is None else mask.reshape(-1)
    loads = window_loads or [_own_load(route, flat) for route in routes]
    return torch.stack([_layer_balance(route, f, flat) for route, f in zip(routes, loads, strict=True)]).mean()


def compute_z_loss(
    routes: Sequence[RouterOutput], mask: Bool[Tensor, "*batch sequence"] | None = None
) -> Float[Tensor, ""]:
    """z-loss [Zoph 2022, eq. 5]: mean over tokens of logsumexp(raw logits)², averaged over layers; (ln E)² at zero."""
    _require_layers(routes)
    flat = None if mask is None else mask.reshape(-1)
    return torch.stack([_token_mean(r.router_logits.logsumexp(-1).square(), flat) for r in routes]).mean()


def _layer_balance(
    route: RouterOutput, loads: Float[Tensor, "windows experts"], mask: Bool[Tensor, " tokens"] | None
) -> Float[Tensor, ""]:
    probs, windows = route.router_probs, len(loads)
    tokens, experts = probs.shape
    if windows < 1 or tokens % windows:
        raise ModelError(f"{tokens} routed tokens do not divide into the {windows} sequences that have loads")
    f = loads.detach().to(probs).repeat_interleave(tokens // windows, dim=0)
    return experts * _token_mean((f * probs).sum(-1), mask)


def _own_load(route: RouterOutput, mask: Bool[Tensor, " tokens"] | None) -> Float[Tensor, "1 experts"]:
    counts = expert_counts(route.topk_indices, route.router_probs.shape[1], mask)
    return load_of_counts(counts, route.router_probs.dtype)


def _token_mean(values: Float[Tensor, " tokens"], mask: Bool[Tensor, " tokens"] | None) -> Float[Tensor, ""]:
    return values.mean() if mask is None else (values * mask).sum() / mask.sum().clamp(min=1)


def _require_layers(routes: Sequence[RouterOutput], loads: Sequence[Tensor] | None = None) -> None:
    if not routes:
        raise ModelError("there are no routing records: the model has no MoE layer, or did not return its routes")
    if loads is not None and len(loads) != len(routes):
        raise ModelError(f"window loads for {len(loads)} layers do not fit {len(routes)} routing records")
