"""Over which tokens the balance loss counts its loads, whatever way the optimiser step is cut into micro-batches.

The window's loads f carry no gradient but must be those of the whole step before its first backward, so a step with
several micro-batches takes a count-only pass: `sequence_counts` on each, concatenated in the step's order, then
`window_loads`, whose rows go back to the micro-batches in their `RoutingContext`.
"""

import re

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.routing import RouterOutput, expert_counts, load_of_counts


def parse_window(window: str) -> int | None:
    """Sequences in a balance window: 1 for `sequence`, n for `blocks:n`, None (all of the step) for `global_batch`."""
    if window == "global_batch":
        return None
    if window == "sequence":
        return 1
    match = re.fullmatch(r"blocks:([1-9]\d*)", window)
    if match is None:
        raise ConfigError(f"a balance window must be sequence, blocks:n or global_batch; got {window!r}")
    return int(match[1])


def sequence_counts(
    route: RouterOutput, batch: int, num_experts: int, mask: Bool[Tensor, "batch sequence"] | None = None
) -> Int[Tensor, "batch experts"]:
    """Assignments of each sequence to each expert; tokens where `mask` is False count for nothing."""
    tokens = len(route.topk_indices)
    if batch < 1 or tokens % batch:
        raise ModelError(f"{tokens} routed tokens do not divide into {batch} sequences")
    return expert_counts(route.topk_indices, num_experts, None if mask is None else mask.reshape(-1), groups=batch)


def window_loads(
    counts: Int[Tensor, "sequences experts"], window: str, dtype: torch.dtype | None = None
) -> Float[Tensor, "sequences experts"]:
    """For each of a step's sequences the load of its window: counts summed over the window, over their own sum.

    `blocks:n` groups n sequences in the step's order, the last group being what remains.
    """
    size = parse_window(window) or max(len(counts), 1)
    group = torch.arange(len(counts), device=counts.device) // size
    groups = -(-len(counts) // size)
    summed = counts.new_zeros(groups, counts.shape[1]).index_add_(0, group, counts)
    return load_of_counts(summed, dtype)[group]
