"""One optimiser step: micro-batches forward and backward, one clipped update, and what it says of itself."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import batch_rows
from moe_emergence.data.packing import Blocks
from moe_emergence.errors import ConfigError, TrainingError
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM, MoECausalLMOutput, collect_aux_outputs
from moe_emergence.moe.balancing import BalanceStatistics, parse_window, sequence_counts
from moe_emergence.moe.losses import compute_load_balance_loss
from moe_emergence.moe.router import routers_of
from moe_emergence.routing import RouterOutput, RoutingContext, expert_counts
from moe_emergence.tracking.metrics import compute_router_metrics
from moe_emergence.training.engine import Engine
from moe_emergence.training.fault import source_of_fault
from moe_emergence.training.runtime import random_key


@dataclass(frozen=True)
class Batch:
    """The sequences of one optimiser step (from 0), or some of them.

    Attributes:
        tokens: [batch, block_size].
        domains: [batch] the domain each sequence is of, a number below num_domains.
        sequence_index: [batch] each sequence's place in the run's whole order; keys its routing noise.
    """

    seed: int
    step: int
    tokens: Tensor
    domains: Tensor
    num_domains: int
    sequence_index: Tensor

    def micro_batches(self, size: int | None) -> "Iterator[Batch]":
        for start in range(0, len(self.tokens), size or len(self.tokens)):
            rows = slice(start, start + (size or len(self.tokens)))
            yield replace(
                self, tokens=self.tokens[rows], domains=self.domains[rows], sequence_index=self.sequence_index[rows]
            )

    def context(self) -> RoutingContext:
        return RoutingContext(
            seed=self.seed,
            step=self.step,
            sequence_index=self.sequence_index,
            domains=self.domains,
            num_domains=self.num_domains,
        )


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


def make_batch(
    blocks: Blocks, *, seed: int, step: int, batch_size: int, device: torch.device, share: slice = slice(None)
) -> Batch:
    """The batch of `step`, or one process' `share` of it: a function of the arguments alone."""
    rows = batch_rows(seed=seed, step=step, batch_size=batch_size, blocks=len(blocks))
    return batch_of(blocks, rows, seed=seed, step=step, device=device, share=share)


def batch_of(
    blocks: Blocks,
    rows: NDArray[np.int64],
    *,
    seed: int,
    step: int,
    device: torch.device,
    share: slice = slice(None),
) -> Batch:
    """The given rows of the blocks as the batch of `step`, or one process' `share` of it."""
    mine = rows[share]
    return Batch(
        seed=seed,
        step=step,
        tokens=torch.from_numpy(blocks.tokens[mine].astype(np.int64)).to(device),
        domains=torch.from_numpy(blocks.domain[mine].astype(np.int64)).to(device),
        num_domains=int(blocks.domain.max()) + 1,  # every domain has training blocks
        sequence_index=torch.arange(step * len(rows), (step + 1) * len(rows))[share],
    )


def share_of_batch(engine: Engine, config: RunConfig) -> slice:
    """Which of a step's sequences this process takes.

    Raises:
        ConfigError: the processes, or the micro-batches of one, would not be alike, and means of them no means.
    """
    training = config.training
    share = engine.slice_of(training.batch_size)
    size, micro = share.stop - share.start, training.micro_batch_size
    if micro is not None and micro < size and size % micro:
        raise ConfigError(
            f"training.micro_batch_size must divide the {size} sequences of each of {engine.world_size} processes "
            f"(training.batch_size is {training.batch_size}); got {micro}"
        )
    return share


class NotFinite(TrainingError):
    """The loss or the gradient of a step is not finite; the weights are those of the step before.

    Attributes:
        cause: what was not finite, and where it was seen first.
        layer: the block it was seen in, if it was in one.
    """

    def __init__(self, step: int, cause: str, layer: int | None) -> None:
        super().__init__(f"step {step}: {cause}; the weights are those of the step before")
        self.cause, self.layer = cause, layer


class Stepper:
    """Takes a model's optimiser steps, one after another.

    Args:
        forward: what to call for an output, where several processes share the model; its parameters are `model`'s.
        balance: what the balance of the run depends on beyond a step; None where it depends on nothing.
        running_counts: count the balance window from the micro-batches so far instead of the whole step.
        poll: called before each micro-batch; may raise `StopAsked`, and then the weights are those of the step before.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch_size: int | None,
        clip_norm: float,
        engine: Engine,
        forward: nn.Module | None = None,
        balance: BalanceStatistics | None = None,
        running_counts: bool = False,
        poll: Callable[[], None] = stop_if_asked,
    ) -> None:
        self.model, self.optimizer, self.engine = model, optimizer, engine
        self.micro_batch_size, self.clip_norm = micro_batch_size, clip_norm
        self.wrapped = model if forward is None else forward
        self.balance = balance or BalanceStatistics("global_batch", 0.0, 0.0)
        self.running_counts, self.poll = running_counts, poll

    def take(self, batch: Batch) -> dict[str, Any]:
        """Update the model once and return the step's metrics, means over its tokens in all processes.

        Raises:
            NotFinite: in every process if in one; nothing was updated.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            metrics, counts = self._forward_backward(list(batch.micro_batches(self.micro_batch_size)))
            norm = self.engine.clip_gradients(self.model, self.clip_norm)
            self._require_finite(batch, metrics | {"gradient norm": norm})
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.balance.advance(counts, routers_of(self.model))
        return metrics | {"gradient_norm": norm}

    def _forward_backward(self, micro_batches: list[Batch]) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        """Gradients of the whole step; its metrics, and a layer's assignments [sequences of all processes, experts]."""
        loads = self._loads_beforehand(micro_batches)
        records: list[_Record] = []
        for number, micro_batch in enumerate(micro_batches):
            self.poll()
            last = number == len(micro_batches) - 1
            with nullcontext() if last else self.engine.no_sync(self.wrapped):
                output = self._forward(micro_batch, number, self._context(micro_batch, loads[number], records))
                (output.loss / len(micro_batches)).backward()
            records.append(_Record.of(output))
        return self._metrics(records, sum(len(batch.tokens) for batch in micro_batches))

    def _forward(self, batch: Batch, number: int, context: RoutingContext, *, labels: bool = True) -> Any:
        # Dropout, the one thing left that draws.
        torch.manual_seed(random_key(batch.seed, batch.step, number, self.engine.rank))
        extra: dict[str, Any] = {"routing_context": context} if _is_moe(self.model) else {}
        wanted = {"labels": batch.tokens} if labels else {"logits_to_keep": 1}
        with self.engine.autocast():
            return self.wrapped(input_ids=batch.tokens, use_cache=False, **wanted, **extra)

    # Balance windows

    def _context(self, batch: Batch, loads: tuple[Tensor, ...] | None, earlier: list["_Record"]) -> RoutingContext:
        """Where its loads come from: counted beforehand, from the micro-batches so far, or from the forward itself."""
        if loads is not None:
            return replace(batch.context(), window_loads=loads)
        if self.running_counts:
            return replace(batch.context(), earlier_counts=self._so_far(earlier))
        return replace(batch.context(), loads_of=self.balance.loads if self.balance.window == "ema" else None)

    def _loads_beforehand(self, batches: list[Batch]) -> list[tuple[Tensor, ...] | None]:
        """For each micro-batch the loads of its sequences' balance windows, counted over the whole step.

        Counting takes a pass of its own (a third of the step's time) with the same noise and dropout, and only where
        the window can reach beyond one forward; else the forward counts for itself.
        """
        if not self._needs_counting(batches):
            return [None] * len(batches)
        records = []
        for number, batch in enumerate(batches):
            self.poll()
            with torch.no_grad():
                records.append(_Record.of(self._forward(batch, number, batch.context(), labels=False)))
        routes = _joined([record.routes for record in records])
        own, size = sum(len(batch.tokens) for batch in batches), len(batches[0].tokens)
        layers = self.balance.loads(self._counts(routes, own), routes[0].router_probs.dtype)
        mine = [load[self.engine.slice_of(len(load))] for load in layers]
        return [tuple(load[n * size : (n + 1) * size] for load in mine) for n in range(len(batches))]

    def _needs_counting(self, batches: list[Batch]) -> bool:
        model: Any = self.model
        if not _is_moe(model) or model.config.router_aux_loss_coef == 0 or self.running_counts:
            return False
        is_whole_step = len(batches) == 1 and self.engine.world_size == 1
        return not (is_whole_step or parse_window(self.balance.window) == 1)

    def _so_far(self, records: list[_Record]) -> tuple[Tensor, ...] | None:
        """What the step's micro-batches before this one were assigned in this process."""
        if not records:
            return None
        routes = _joined([record.routes for record in records])
        experts = routes[0].router_probs.shape[1]
        return tuple(expert_counts(route.topk_indices, experts).squeeze(0) for route in routes)

    def _counts(self, routes: tuple[RouterOutput, ...], sequences: int) -> tuple[Tensor, ...]:
        """A layer's assignments [sequences of all processes, experts], in the order of the step's batch."""
        experts = routes[0].router_probs.shape[1]
        return tuple(self.engine.gather(sequence_counts(route, sequences, experts)) for route in routes)

    # What a step says of itself

    def _metrics(self, records: list[_Record], sequences: int) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        """The balance loss is that of the step's own windows, also where its coefficient is 0 and none were counted;
        under running counts it is the mean of what the micro-batches saw."""
        names = list(records[0].losses)
        means = self.engine.mean(torch.stack([torch.stack([r.losses[n] for r in records]).mean() for n in names]))
        metrics: dict[str, Any] = dict(zip(names, means.tolist(), strict=True))
        own = _joined([record.routes for record in records])
        if not own:
            return metrics, ()
        counts = self._counts(own, sequences)
        routes = tuple(_everywhere(route, self.engine) for route in own)
        balance = compute_load_balance_loss(routes, self.balance.loads(counts, routes[0].router_probs.dtype))
        routing = compute_router_metrics(collect_aux_outputs(MoECausalLMOutput(routes=routes)))
        own_windows = {} if self.running_counts else {"load_balancing_loss": float(balance)}
        return metrics | own_windows | routing, counts

    def _require_finite(self, batch: Batch, values: Mapping[str, float]) -> None:
        """Every process decides alike, whatever its own share held."""
        wrong = [name for name in ("lm_loss", "objective", "gradient norm") if not math.isfinite(values[name])]
        if self.engine.any(bool(wrong)):
            where, layer = source_of_fault(self.model, self.engine)
            raise NotFinite(batch.step + 1, f"{' and '.join(wrong) or 'a value'} not finite: {where}", layer)


def _is_moe(model: nn.Module) -> bool:
    return isinstance(model, GPT2MoEForCausalLM)


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


def _everywhere(route: RouterOutput, engine: Engine) -> RouterOutput:
    """The record over the tokens of all processes, as far as metrics need it."""
    if engine.world_size == 1:
        return route
    kept = ("topk_indices", "router_probs", "router_probs_clean")
    everywhere: dict[str, Any] = {name: engine.gather(getattr(route, name)) for name in kept}
    return replace(route, **everywhere)
