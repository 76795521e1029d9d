"""What a router decided, and every pure quantity on it: each defined here once, with its scale.

E experts, k slots a token, T tokens, c_i assignments to expert i, load f_i = c_i / Σ c. A load may be a tensor or a
NumPy array; every function returns torch tensors. "Collapse" below means that the same k experts take every token.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moe_emergence.errors import ModelError

DEAD_SHARE = 0.1
"""An expert is dead below this multiple of the balanced load 1/E."""
HOT_EXCESS = 3 / 7
"""An expert is hot above this excess: a load of 0.50 at E = 8, k = 1."""

LoadsOf = Callable[[Sequence[Tensor], torch.dtype], tuple[Tensor, ...]]
"""[sequences, experts] counts, one entry a layer, to loads of the same shape."""
Load = Float[Tensor, " experts"] | Float[np.ndarray, " experts"]


@dataclass(frozen=True, eq=False)
class RouterOutput:
    """One routing decision a token; T runs over the tokens of all sequences, sequence by sequence."""

    topk_weights: Float[Tensor, "tokens slots"]
    """What each chosen expert's output is multiplied by."""
    topk_indices: Int[Tensor, "tokens slots"]
    """The chosen experts, most probable first (highest sum of probability and bias, where a router has one)."""
    router_probs: Float[Tensor, "tokens experts"]
    """Softmax after noise: what chose the experts (with the loss-free bias, where there is one), and what the balance
    loss acts on."""
    router_probs_clean: Float[Tensor, "tokens experts"]
    """Softmax before noise: what analyses use."""
    router_logits: Float[Tensor, "tokens experts"]
    """Raw, before noise: what the z-loss acts on."""
    entropy: Float[Tensor, " tokens"]
    """Entropy of `router_probs_clean`, in nats."""
    layer_idx: int | None = None
    """The block this layer sits in, where it sits in one."""

    def detach(self) -> "RouterOutput":
        """The same record without a graph."""
        tensors: dict[str, Any] = {name: v.detach() for name, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **tensors)


@dataclass(frozen=True, eq=False, kw_only=True)
class RoutingContext:
    """What a router must know of the batch beyond its hidden states; a function of (seed, step) and the sequences."""

    seed: int
    step: int
    """The optimiser step, counted from 0."""
    sequence_index: Int[Tensor, " batch"]
    """Each sequence's place in the run's data order, in CPU memory: with seed, step and layer it keys the noise."""
    window_loads: tuple[Float[Tensor, "batch experts"], ...] | None = None
    """For each MoE layer, in order, the load of each sequence's balance window, counted over the whole optimiser step
    beforehand; None takes this forward's own sequences for the whole step."""
    earlier_counts: tuple[Int[Tensor, " experts"], ...] | None = None
    """Running counts, in place of `window_loads`: for each MoE layer the assignments in the step's earlier
    micro-batches, to which this forward adds its own; window `global_batch` alone."""
    loads_of: LoadsOf | None = None
    """How this forward's own counts become loads, in place of `window_loads`, where it is the whole step: what
    `BalanceStatistics.loads` does."""
    token_ids: Int[Tensor, "batch sequence"] | None = None
    """What a hash router goes by; the registered model fills it in from its `input_ids`."""
    domains: Int[Tensor, " batch"] | None = None
    """Each sequence's domain, by number from 0: what an oracle router goes by."""
    num_domains: int = 0
    """How many domains there are, among which an oracle router divides its experts; goes with `domains`."""
    positions: Int[Tensor, "batch sequence"] | None = None
    """Each token's place in its sequence, what is in a cache counted: what a round-robin router goes by; the registered
    model fills it in."""

    def __post_init__(self) -> None:
        names = ("window_loads", "earlier_counts", "loads_of")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ModelError(f"a routing context takes one of {', '.join(names)}; got {' and '.join(given)}")


def expert_counts(
    topk_indices: Int[Tensor, "tokens slots"],
    num_experts: int,
    mask: Bool[Tensor, " tokens"] | None = None,
    groups: int = 1,
) -> Int[Tensor, "groups experts"]:
    """Assignments to each expert, Σ = k × unmasked tokens: the one place that counts them.

    With `groups`, tokens are cut into that many equal consecutive runs (the sequences of a batch), one row each.
    """
    run = len(topk_indices) // groups
    group = torch.arange(groups, device=topk_indices.device).repeat_interleave(run)
    cell = topk_indices + num_experts * group.unsqueeze(1)
    cell = cell if mask is None else cell[mask]
    return torch.bincount(cell.reshape(-1), minlength=groups * num_experts).view(groups, num_experts)


def expert_load(
    topk_indices: Int[Tensor, "tokens slots"], num_experts: int, mask: Bool[Tensor, " tokens"] | None = None
) -> Float[Tensor, " experts"]:
    """f_i = c_i / Σ c, the share of assignments: sums to 1 (to 0 without tokens); 1/E at balance, 1/k at collapse."""
    return load_of_counts(expert_counts(topk_indices, num_experts, mask)).squeeze(0)


def load_of_counts(
    counts: Int[Tensor, "*groups experts"], dtype: torch.dtype | None = None
) -> Float[Tensor, "*groups experts"]:
    """Each row's shares: counts over their sum, which is taken of the same counts; an empty row stays 0."""
    counted = counts.to(dtype or torch.get_default_dtype())
    total: Tensor = counted.sum(-1, keepdim=True)
    return counted / total.clamp(min=1)


def entropy_of(probs: Float[Tensor, "*rows experts"]) -> Float[Tensor, "*rows"]:
    """Σ −p ln p of each row, in nats, with 0 ln 0 = 0: ln E when uniform, 0 when certain."""
    return torch.special.entr(probs).sum(-1)


def margin_of(probs: Float[Tensor, "*rows experts"]) -> Float[Tensor, "*rows"]:
    """The largest probability of each row minus the second largest: 0 when two share the first place, 1 when certain
    (also of a single expert)."""
    first = probs.topk(min(2, probs.shape[-1]), dim=-1).values
    return first[..., 0] - first[..., 1] if first.shape[-1] > 1 else torch.ones_like(first[..., 0])


def routing_entropy_per_token(
    probs: Float[Tensor, "tokens experts"], mask: Bool[Tensor, " tokens"] | None = None
) -> Float[Tensor, ""]:
    """Mean over tokens of each token's entropy, in nats: confidence. ln E for an undecided router, 0 for a certain one,
    whatever the load: use `router_probs_clean`."""
    entropy = entropy_of(probs)
    return (entropy if mask is None else entropy[mask]).mean()


def routing_entropy_of_mean(
    probs: Float[Tensor, "tokens experts"], mask: Bool[Tensor, " tokens"] | None = None
) -> Float[Tensor, ""]:
    """Entropy of the mean distribution over tokens, in nats: balance of probability. At most ln E (balance), at least
    the entropy per token; 0 when every token is certain of the same expert."""
    return entropy_of((probs if mask is None else probs[mask]).mean(0))


def routing_entropy_of_load(load: Load) -> Float[Tensor, ""]:
    """Entropy of the load, in nats: balance of assignments. ln E at balance, ln k at collapse."""
    return entropy_of(torch.as_tensor(load))


def effective_experts(load: Load) -> Float[Tensor, ""]:
    """exp of the load's entropy, the number of equally loaded experts it amounts to: E at balance, k at collapse."""
    return routing_entropy_of_load(load).exp()


def max_violation(load: Load) -> Float[Tensor, ""]:
    """MaxVio [2408.15664]: (max load − mean load) / mean load = E·max − 1: 0 at balance, E/k − 1 at collapse."""
    shares = torch.as_tensor(load)
    return shares.max() * len(shares) - 1


def load_variation(load: Load) -> Float[Tensor, ""]:
    """Coefficient of variation, standard deviation over mean: 0 at balance, √(E/k − 1) at collapse."""
    shares = torch.as_tensor(load)
    return shares.std(correction=0) * len(shares)


def load_excess(load: Load, top_k: int = 1) -> Float[Tensor, ""]:
    """(max load − 1/E) / (1/k − 1/E), since no share can exceed 1/k: 0 at balance, 1 at collapse (0 if k = E)."""
    return _excess(torch.as_tensor(load), top_k).max()


def dead_experts(load: Load) -> Bool[Tensor, " experts"]:
    """Which experts get less than 0.1/E: none at balance, E − k at collapse."""
    shares = torch.as_tensor(load)
    return shares < DEAD_SHARE / len(shares)


def hot_experts(load: Load, top_k: int = 1) -> Bool[Tensor, " experts"]:
    """Which experts' excess is above 3/7, a load above 1/E + 3/7 (1/k − 1/E): none at balance, k at collapse."""
    return _excess(torch.as_tensor(load), top_k) > HOT_EXCESS


def overflow_share(load: Load, capacity_factor: float) -> Float[Tensor, ""]:
    """Σ max(0, f_i − C/E): the share of assignments that a capacity of C times the mean would have dropped; 0 at
    balance for C ≥ 1, 1 − kC/E at collapse."""
    shares = torch.as_tensor(load)
    return (shares - capacity_factor / len(shares)).clamp(min=0).sum()


def _excess(shares: Float[Tensor, " experts"], top_k: int) -> Float[Tensor, " experts"]:
    room = 1 / top_k - 1 / len(shares)
    return (shares - 1 / len(shares)) / room if not math.isclose(room, 0) else torch.zeros_like(shares)
