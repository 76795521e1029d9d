"""Over which tokens the balance loss counts its loads, whatever way the optimiser step is cut into micro-batches.

The window's loads f carry no gradient but must be those of the whole step before its first backward, so a step with
several micro-batches takes a count-only pass: `sequence_counts` on each, concatenated in the step's order, then
`BalanceStatistics.loads`, whose rows go back to the micro-batches in their `RoutingContext`. A step of one micro-batch
gives the context `loads_of=statistics.loads` instead. Running counts, the approximation without a count-only pass, give
each micro-batch the `earlier_counts` of those before it.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.moe.router import Router
from moe_emergence.routing import RouterOutput, expert_counts, load_of_counts


def parse_window(window: str) -> int | None:
    """Sequences in a balance window: 1 for `sequence`, n for `blocks:n`, None (all of the step) for `global_batch` and
    `ema`."""
    if window in ("global_batch", "ema"):
        return None
    if window == "sequence":
        return 1
    match = re.fullmatch(r"blocks:([1-9]\d*)", window)
    if match is None:
        raise ConfigError(f"a balance window must be sequence, blocks:n, global_batch or ema; got {window!r}")
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
    counts: Int[Tensor, "sequences experts"],
    window: str,
    dtype: torch.dtype | None = None,
    earlier: Int[Tensor, " experts"] | None = None,
) -> Float[Tensor, "sequences experts"]:
    """For each of a step's sequences the load of its window: counts summed over the window, over their own sum.

    `blocks:n` groups n sequences in the step's order, the last group being what remains; `ema` is the load of this
    step alone, without a past. `earlier` are counts of a `global_batch` that came before these sequences.
    """
    if earlier is not None and window != "global_batch":
        raise ModelError(f"earlier counts go with the balance window global_batch; got {window!r}")
    size = parse_window(window) or max(len(counts), 1)
    group = torch.arange(len(counts), device=counts.device) // size
    groups = -(-len(counts) // size)
    summed = counts.new_zeros(groups, counts.shape[1]).index_add_(0, group, counts)
    summed = summed if earlier is None else summed + earlier.to(summed)
    return load_of_counts(summed, dtype)[group]


class BalanceStatistics:
    """What the balance of a run depends on beyond the step.

    `loads` before a step's first backward, `advance` once the step was taken. Both take the counts of the whole step,
    one entry a layer, of sequences in the step's order and of all its micro-batches and processes.
    """

    def __init__(self, window: str, decay: float, bias_rate: float) -> None:
        parse_window(window)
        if not 0 <= decay < 1:
            raise ConfigError(f"the decay of a load average must be at least 0 and below 1; got {decay}")
        self.window, self.decay, self.bias_rate = window, decay, bias_rate
        self._average: tuple[Float64[Tensor, " experts"], ...] | None = None

    def loads(
        self, counts: Sequence[Int[Tensor, "sequences experts"]], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "sequences experts"], ...]:
        """For each layer the load of each sequence's window, as `window_loads`, and in the window `ema`

            f_t = d · f_{t−1} + (1 − d) · load_t,  f_1 = load_1,

        load_t of the global batch: each row sums to 1. Asking moves nothing.
        """
        if self.window != "ema":
            return tuple(window_loads(layer, self.window, dtype) for layer in counts)
        averages = zip(self._averaged(counts), counts, strict=True)
        return tuple(average.to(layer.device, dtype).expand(layer.shape) for average, layer in averages)

    @torch.no_grad()
    def advance(self, counts: Sequence[Int[Tensor, "sequences experts"]], routers: Sequence[Router]) -> None:
        """Go on after an optimiser step that was taken: the load average and each router's loss-free bias."""
        if self.window == "ema":
            self._average = self._averaged(counts)
        if self.bias_rate > 0:
            _require_as_many(counts, routers, "routers")
            for layer, router in zip(counts, routers, strict=True):
                router.update_bias(layer.sum(0), self.bias_rate)

    def to_state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON values, which keep every bit; the biases are the model's own."""
        return {"load_average": None if self._average is None else [layer.tolist() for layer in self._average]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `to_state` gave."""
        average = state["load_average"]
        self._average = None if average is None else tuple(torch.tensor(f, dtype=torch.float64) for f in average)

    def _averaged(self, counts: Sequence[Tensor]) -> tuple[Float64[Tensor, " experts"], ...]:
        # in float64 on the CPU, which has it
        now = tuple(load_of_counts(layer.sum(0).cpu(), torch.float64) for layer in counts)
        if self._average is None:
            return now
        _require_as_many(counts, self._average, "load averages")
        return tuple(self.decay * f + (1 - self.decay) * load for f, load in zip(self._average, now, strict=True))


def _require_as_many(counts: Sequence[Tensor], others: Sequence[Any], name: str) -> None:
    if len(counts) != len(others):
        raise ModelError(f"counts of {len(counts)} layers do not fit {len(others)} {name}")
