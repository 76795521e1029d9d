"""When is a router called collapsed: a stated rule over stated windows of training tokens, per layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from moe_emergence.routing import dead_experts, hot_experts, load_excess

State = Literal["healthy", "warning", "collapsed"]
WINDOW = 65_536
"""Assignments a layer in one window, at least."""
REFERENCE_SHARE, REFERENCE_CHECKS = 0.60, 3


@dataclass
class LayerWatch:
    """One layer's open window and state."""

    counts: list[int]
    state: State = "healthy"
    bad: int = 0
    """Bad windows in a row, up to the last one closed."""
    good: int = 0
    """Good ones."""


@dataclass
class CollapseDetector:
    """Feed it each step's loads; it speaks when a layer changes its state.

    `excess`: a window is bad when it has a hot expert (excess above 3/7) or a dead one (load below 0.1/E). One bad
    window is a warning, two in a row a collapse; two good ones in a row end either. `reference`: each window is a
    check, and three in a row with one expert above 60 % are a collapse.
    """

    num_experts: int
    top_k: int
    rule: Literal["excess", "reference"] = "excess"
    window: int = WINDOW
    layers: dict[int, LayerWatch] = field(default_factory=dict)

    def add(self, layer: int, counts: Sequence[int]) -> dict[str, Any] | None:
        """Add a step's assignments to each expert; returns the change of state, if this closes a window with one."""
        watch = self.layers.setdefault(layer, LayerWatch([0] * self.num_experts))
        watch.counts = [old + new for old, new in zip(watch.counts, counts, strict=True)]
        if sum(watch.counts) < self.window:
            return None
        load = torch.tensor(watch.counts, dtype=torch.float64) / sum(watch.counts)
        watch.counts = [0] * self.num_experts
        before = watch.state
        bad = self._is_bad(load)
        self._advance(watch, bad)
        return None if watch.state == before else self._event(layer, watch.state, load)

    def _is_bad(self, load: torch.Tensor) -> bool:
        if self.rule == "reference":
            return float(load.max()) > REFERENCE_SHARE
        return bool(hot_experts(load, self.top_k).any() or dead_experts(load).any())

    def _advance(self, watch: LayerWatch, bad: bool) -> None:
        watch.bad, watch.good = (watch.bad + 1, 0) if bad else (0, watch.good + 1)
        if watch.bad >= (REFERENCE_CHECKS if self.rule == "reference" else 2):
            watch.state = "collapsed"
        elif watch.good >= 2:
            watch.state = "healthy"
        elif bad and watch.state == "healthy":
            watch.state = "warning"

    def _event(self, layer: int, state: State, load: torch.Tensor) -> dict[str, Any]:
        dead = dead_experts(load).nonzero().flatten().tolist()
        expert = int(load.argmax())
        excess = float(load_excess(load, self.top_k))
        busiest = f"expert {expert} takes {float(load.max()):.0%} of the assignments (excess {excess:.2f})"
        return {
            "layer": layer,
            "state": state,
            "expert": expert,
            "excess": excess,
            "dead": dead,
            "reason": f"{busiest}; dead: {', '.join(map(str, dead)) or 'none'}",
        }

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {str(layer): vars(watch) | {"counts": list(watch.counts)} for layer, watch in self.layers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.layers = {int(layer): LayerWatch(**watch) for layer, watch in state.items()}
