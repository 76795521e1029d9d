"""One optimiser step: micro-batches forward and backward, one clipped update, and what it says of itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe_emergence.data.blocks import batch_rows
from moe_emergence.data.packing import Blocks
from moe_emergence.errors import TrainingError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM, MoECausalLMOutput, collect_aux_outputs
from moe_emergence.moe.balancing import parse_window, sequence_counts, window_loads
from moe_emergence.moe.losses import compute_load_balance_loss
from moe_emergence.routing import RouterOutput, RoutingContext
from moe_emergence.tracking.metrics import compute_router_metrics
from moe_emergence.training.runtime import random_key


@dataclass(frozen=True)
class Batch:
    """The sequences of one optimiser step (from 0), or some of them.

    Attributes:
        tokens: [batch, block_size].
        sequence_index: [batch] each sequence's place in the run's whole order; keys its routing noise.
    """

    seed: int
    step: int
    tokens: Tensor
    sequence_index: Tensor

    def micro_batches(self, size: int | None) -> "Iterator[Batch]":
        for start in range(0, len(self.tokens), size or len(self.tokens)):
            rows = slice(start, start + (size or len(self.tokens)))
            yield replace(self, tokens=self.tokens[rows], sequence_index=self.sequence_index[rows])

    def context(self, loads: tuple[Tensor, ...] | None) -> RoutingContext:
        return RoutingContext(seed=self.seed, step=self.step, sequence_index=self.sequence_index, window_loads=loads)


def make_batch(blocks: Blocks, *, seed: int, step: int, batch_size: int, device: torch.device) -> Batch:
    """The batch of `step`: a function of its arguments alone."""
    rows = batch_rows(seed=seed, step=step, batch_size=batch_size, blocks=len(blocks))
    return Batch(
        seed=seed,
        step=step,
        tokens=torch.from_numpy(blocks.tokens[rows].astype(np.int64)).to(device),
        sequence_index=torch.arange(step * batch_size, (step + 1) * batch_size),
    )


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *, micro_batch_size: int | None, clip_norm: float
) -> dict[str, Any]:
    """Update `model` once and return the step's metrics (means over the step's tokens).

    Raises:
        TrainingError: the loss or the gradient is not finite; the weights are left as they were.
    """
    model.train()
    micro_batches = list(batch.micro_batches(micro_batch_size))
    loads = _window_loads_of_step(model, micro_batches)
    outputs = []
    for number, micro_batch in enumerate(micro_batches):
        output = _forward(model, micro_batch, loads[number], number)
        (output.loss / len(micro_batches)).backward()
        outputs.append(_Record.of(output))
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
    metrics = _step_metrics(model, outputs, len(batch.tokens)) | {"gradient_norm": norm}
    if not (math.isfinite(norm) and math.isfinite(metrics["objective"])):
        optimizer.zero_grad(set_to_none=True)
        raise TrainingError(
            f"step {batch.step + 1}: objective {metrics['objective']}, gradient norm {norm}: not finite; the "
            f"weights are "
            "those of the step before. Lower optimizer.learning_rate"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return metrics


def _forward(
    model: nn.Module, batch: Batch, loads: tuple[Tensor, ...] | None, number: int, *, logits: bool = True
) -> Any:
    torch.manual_seed(random_key(batch.seed, batch.step, number))  # dropout, the one thing left that draws
    extra = {"routing_context": batch.context(loads)} if isinstance(model, GPT2MoEForCausalLM) else {}
    if not logits:
        return model(input_ids=batch.tokens, logits_to_keep=1, use_cache=False, **extra)
    return model(input_ids=batch.tokens, labels=batch.tokens, use_cache=False, **extra)


@torch.no_grad()
def _window_loads_of_step(model: nn.Module, batches: list[Batch]) -> list[tuple[Tensor, ...] | None]:
    """For each micro-batch the loads of its sequences' balance windows, counted over the whole step.

    Counting takes a pass of its own (a third of the step's time) with the same noise and dropout, and only where a
    window can reach over more than one micro-batch; else the forward counts for itself.
    """
    if (
        len(batches) == 1
        or not isinstance(model, GPT2MoEForCausalLM)
        or model.config.router_aux_loss_coef == 0
        or parse_window(model.config.balance_window) == 1
    ):
        return [None] * len(batches)
    routes = _joined(
        [_forward(model, batch, None, number, logits=False).routes for number, batch in enumerate(batches)]
    )
    size = len(batches[0].tokens)
    layers = _window_loads(model, routes, size * len(batches))
    return [tuple(load[n * size : (n + 1) * size] for load in layers) for n in range(len(batches))]


def _window_loads(model: nn.Module, routes: tuple[RouterOutput, ...], sequences: int) -> tuple[Tensor, ...]:
    config: Any = model.config
    counts = [sequence_counts(route, sequences, config.num_experts) for route in routes]
    return tuple(window_loads(count, config.balance_window, routes[0].router_probs.dtype) for count in counts)


@dataclass(frozen=True)
class _Record:
    """What is kept of a micro-batch's forward."""

    losses: dict[str, Tensor]
    routes: tuple[RouterOutput, ...] = ()

    @staticmethod
    def of(output: Any) -> "_Record":
        if not isinstance(output, MoECausalLMOutput):
            return _Record({"lm_loss": output.loss.detach(), "objective": output.loss.detach()})
        losses = {
            "lm_loss": output.lm_loss,
            "load_balancing_loss": output.load_balancing_loss,
            "router_z_loss": output.router_z_loss,
            "objective": output.loss,
        }
        routes = tuple(route.detach() for route in output.routes or ())
        return _Record({name: value.detach() for name, value in losses.items() if value is not None}, routes)


def _step_metrics(model: nn.Module, records: list[_Record], sequences: int) -> dict[str, Any]:
    """The balance loss is that of the step's own windows, also where its coefficient is 0 and none were counted."""
    means = {name: float(torch.stack([r.losses[name] for r in records]).mean()) for name in records[0].losses}
    routes = _joined([record.routes for record in records])
    if not routes:
        return means
    balance = compute_load_balance_loss(routes, _window_loads(model, routes, sequences))
    routing = compute_router_metrics(collect_aux_outputs(MoECausalLMOutput(routes=routes)))
    return means | {"load_balancing_loss": float(balance)} | routing


def _joined(micro_steps: list[tuple[RouterOutput, ...]]) -> tuple[RouterOutput, ...]:
    """One record a layer over all tokens of the step."""
    return tuple(
        replace(
            layer[0],
            **{
                name: torch.cat([getattr(route, name) for route in layer])
                for name, value in vars(layer[0]).items()
                if isinstance(value, Tensor)
            },
        )
        for layer in zip(*micro_steps, strict=True)
    )
