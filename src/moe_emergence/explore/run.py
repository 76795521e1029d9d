"""A run with experts, and its weights at the steps that it kept; the last models used are in memory."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from moe_emergence.errors import MoEEmergenceError, RunDirectoryError
from moe_emergence.training.checkpoint import MANIFEST, checkpoints_in, step_of, verified_manifest
from moe_emergence.training.run_directory import CONFIG, RunDirectory
from moe_emergence.training.trained import load_trained

SUITE = "suite.json"
SMALL = 30_000_000
"""Parameters. Threads of a model below that wait for each other longer than they work, tenfold on a busy machine."""
KEPT_BYTES = 2 << 30
"""Of weights in memory; the model in use is kept whatever its size."""


@dataclass(frozen=True, kw_only=True)
class ExploredRun:
    """What can be looked at.

    Attributes:
        name: of the folders, as `quickstart/moe/seed-42`.
        weights: step to the folder its weights are in, rising; found once, at the start.
        finished: whether the run has reached its end.
    """

    name: str
    weights: Mapping[int, Path]
    finished: bool

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(self.weights)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a run's models have alike: the blocks with experts, experts a layer, experts a token, tokens at most."""

    layers: tuple[int, ...]
    experts: int
    top_k: int
    context: int


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The weights of one step, in eval mode."""

    model: Any
    tokenizer: Tokenizer

    @property
    def shape(self) -> Shape:
        config = self.model.config
        return Shape(
            layers=tuple(config.moe_layers),
            experts=config.num_experts,
            top_k=config.num_experts_per_tok,
            context=config.n_positions,
        )


def choose_threads(loaded: Loaded) -> None:
    """Let this process compute with one thread where more would not help."""
    if sum(parameter.numel() for parameter in loaded.model.parameters()) < SMALL:
        torch.set_num_threads(1)


class Models:
    """The run's models, loaded when they are asked for; the last ones used stay. For one thread at a time."""

    def __init__(self, run: ExploredRun) -> None:
        self.run = run
        self._kept: OrderedDict[int, Loaded] = OrderedDict()

    def at(self, step: int) -> Loaded:
        """The model of a step of the run's list.

        Raises:
            MoEEmergenceError: its weights are damaged, or no longer there.
        """
        if step not in self._kept:
            self._kept[step] = _load(self.run.weights[step], step)
        self._kept.move_to_end(step)
        while len(self._kept) > 1 and sum(_bytes(loaded) for loaded in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[step]


def open_run(folder: Path) -> ExploredRun:
    """The run in `folder`.

    Raises:
        RunDirectoryError: there is none, it is dense, or it has no weights yet.
    """
    if (folder / SUITE).exists() and not (folder / CONFIG).exists():
        raise RunDirectoryError(f"{folder} is a suite: give one of its runs{_example(folder)}")
    run = RunDirectory.open_existing(folder)
    if run.config.moe is None:
        raise RunDirectoryError(f"the run in {folder} is dense, without experts to explore: give a run with experts")
    # snapshots stay where checkpoints come and go
    weights = {step_of(path): path for kept in (run.checkpoints, run.snapshots) for path in checkpoints_in(kept)}
    if not weights:
        going = "it keeps none" if run.finished else "let it run to its first one"
        raise RunDirectoryError(f"the run in {folder} has neither checkpoint nor snapshot: {going}")
    where = folder.resolve()
    return ExploredRun(
        name="/".join(part for part in where.parts[-3:] if part != where.anchor),
        weights={step: weights[step] for step in sorted(weights)},
        finished=run.finished,
    )


def _load(folder: Path, step: int) -> Loaded:
    if not folder.is_dir():
        raise RunDirectoryError(f"the weights of step {step} are no longer there: start explore again")
    if (folder / MANIFEST).exists():
        verified_manifest(folder)
    model, tokenizer = load_trained(folder)
    return Loaded(model=model, tokenizer=tokenizer)


def _bytes(loaded: Loaded) -> int:
    return sum(parameter.nbytes for parameter in loaded.model.parameters())


def _example(suite: Path) -> str:
    """A run of it that has experts, where one is found."""
    for config in sorted(suite.glob(f"*/seed-*/{CONFIG}")):
        try:
            if json.loads(config.read_text("utf-8"))["moe"] is not None:
                return f", as in {config.parent}"
        except (OSError, ValueError, LookupError, TypeError, MoEEmergenceError):
            continue
    return ""
