"""The same quantities over training: LM loss on dev at each evaluation, routing on the training tokens of each step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from moe_emergence import routing
from moe_emergence.analysis.records import Evaluation, Floats, Run, Suite

CURVE_POINTS = 200
"""A curve over steps has at most this many points; a longer one is averaged over as many steps as that takes."""


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """LM loss on dev after `step` updates, nats a token.

    Attributes:
        domain: None is the macro mean, in which each domain weighs the same.
        difference_to_dense: minus the dense run's with the same seed at the same step (None where there is none).
    """

    arm: str
    seed: int
    step: int
    domain: str | None
    lm_loss: float
    difference_to_dense: float | None


@dataclass(frozen=True, kw_only=True)
class RoutingPoint:
    """One layer's entropies on training tokens, nats, 0..ln E, averaged over `steps` steps that end with `step`.

    Attributes:
        entropy_per_token: of a token's clean probabilities.
        entropy_of_mean: of the mean clean probabilities.
        entropy_of_load: of a step's shares of assignments.
        maximum: ln E.
    """

    arm: str
    seed: int
    layer: int
    step: int
    steps: int
    entropy_per_token: float
    entropy_of_mean: float
    entropy_of_load: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """One expert's share of a step's assignments, 0..1/k, averaged over `steps` steps that end with `step`."""

    arm: str
    seed: int
    layer: int
    step: int
    steps: int
    expert: int
    load: float
    uniform: float


def loss_points(suite: Suite) -> tuple[LossPoint, ...]:
    """Every dev evaluation of every run: the macro mean, then each domain."""
    dense = {(run.seed, look.step): look for run in suite.runs if run.arm == suite.dense for look in _looks(run)}
    return tuple(
        point
        for run in suite.runs
        for look in _looks(run)
        for point in _loss_points(run, look, dense.get((run.seed, look.step)))
    )


def _looks(run: Run) -> list[Evaluation]:
    return [look for look in run.evaluations if look.split == "dev"]


def _loss_points(run: Run, look: Evaluation, dense: Evaluation | None) -> Iterator[LossPoint]:
    ours: dict[str | None, float] = {None: look.lm_loss_macro} | dict(look.lm_loss.items())
    theirs: dict[str | None, float] = {} if dense is None else {None: dense.lm_loss_macro} | dict(dense.lm_loss.items())
    for domain, loss in ours.items():
        difference = loss - theirs[domain] if domain in theirs else None
        yield LossPoint(
            arm=run.arm, seed=run.seed, step=look.step, domain=domain, lm_loss=loss, difference_to_dense=difference
        )


def routing_points(suite: Suite) -> tuple[RoutingPoint, ...]:
    """Entropies over training of every run and layer."""
    return tuple(point for run in suite.runs for layer in run.manifest.moe_layers for point in _entropies(run, layer))


def load_points(suite: Suite) -> tuple[LoadPoint, ...]:
    """Loads over training of every run, layer and expert."""
    return tuple(point for run in suite.runs for layer in run.manifest.moe_layers for point in _loads(run, layer))


def step_loads(run: Run, layer: int) -> Floats:
    """[steps, experts] share of each training step's assignments."""
    experts = 0 if run.config.moe is None else run.config.moe.num_experts
    return np.stack([run.scalar(f"router/layer_{layer}_expert_{expert}_load") for expert in range(experts)], axis=1)


def _entropies(run: Run, layer: int) -> Iterator[RoutingPoint]:
    loads = step_loads(run, layer)
    columns = np.stack(
        [
            run.scalar(f"router/layer_{layer}_entropy_per_token"),
            run.scalar(f"router/layer_{layer}_entropy_distribution"),
            routing.entropy_of(torch.from_numpy(loads)).numpy(),
        ],
        axis=1,
    )
    for step, steps, (per_token, of_mean, of_load) in _thinned(run, columns):
        yield RoutingPoint(
            arm=run.arm,
            seed=run.seed,
            layer=layer,
            step=step,
            steps=steps,
            entropy_per_token=float(per_token),
            entropy_of_mean=float(of_mean),
            entropy_of_load=float(of_load),
            maximum=math.log(loads.shape[1]),
        )


def _loads(run: Run, layer: int) -> Iterator[LoadPoint]:
    for step, steps, loads in _thinned(run, step_loads(run, layer)):
        for expert, load in enumerate(loads):
            yield LoadPoint(
                arm=run.arm,
                seed=run.seed,
                layer=layer,
                step=step,
                steps=steps,
                expert=expert,
                load=float(load),
                uniform=1 / len(loads),
            )


def _thinned(run: Run, columns: Floats) -> Iterator[tuple[int, int, Floats]]:
    """(last step, steps averaged over, mean row) of consecutive groups of rows, at most `CURVE_POINTS` of them."""
    group = math.ceil(len(columns) / CURVE_POINTS)
    for start in range(0, len(columns), max(group, 1)):
        rows = columns[start : start + group]
        yield int(run.steps[start + len(rows) - 1]), len(rows), rows.mean(axis=0)
