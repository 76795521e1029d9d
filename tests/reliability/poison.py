"""Values that are not finite, put into chosen steps of a run."""

from collections.abc import Collection
from typing import Any

import pytest
import torch

from moe_emergence.moe.router import routers_of
from moe_emergence.training.step import Stepper

NAN, INF = float("nan"), float("inf")


def poison(patch: pytest.MonkeyPatch, where: str, value: float, steps: Collection[int]) -> None:
    """Let `where` hold `value` in each of `steps` (from 1): the loss, a router's logits, or a parameter's gradient."""
    take = Stepper.take

    def poisoned(stepper: Stepper, batch: Any) -> Any:
        if batch.step + 1 not in steps:
            return take(stepper, batch)
        handle = _hook(stepper, where, value)
        try:
            return take(stepper, batch)
        finally:
            handle.remove()

    patch.setattr(Stepper, "take", poisoned)


def _hook(stepper: Stepper, where: str, value: float) -> Any:
    if where == "loss":
        return stepper.wrapped.register_forward_hook(_spoilt_loss(value))
    if where == "router":
        return routers_of(stepper.model)[0].gate.register_forward_hook(lambda gate, inputs, logits: logits * value)
    parameter = dict(stepper.model.named_parameters())[where]
    return parameter.register_hook(lambda gradient: torch.full_like(gradient, value))


def _spoilt_loss(value: float) -> Any:
    def spoil(module: Any, inputs: Any, output: Any) -> Any:
        if output.loss is not None:  # else a pass that counts only
            output.loss = output.loss * value
        return output

    return spoil
