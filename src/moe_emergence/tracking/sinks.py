"""Trackers: producers yield names and numbers, and one sink writes them. A tracker never stops training.

A run's record is its metrics.jsonl; what goes to TensorBoard, trackio or W&B is a copy for looking at.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.errors import ConfigError

PROJECT = "moe-emergence"


@dataclass(frozen=True)
class Tracker:
    """One backend: what takes the numbers of a step, and what ends the run."""

    log: Callable[[int, Mapping[str, float]], None]
    finish: Callable[[], None]


class Sinks:
    """The open trackers of a run; one that raises is reported once and left out from then on."""

    def __init__(self, trackers: Mapping[str, Tracker], report: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._report = report

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Named numbers of a step."""
        self._each(lambda tracker: tracker.log(step, values))

    def log_gpu_memory(self, step: int) -> None:
        """The `memory_mib` of now; at evaluation cadence."""
        if self._trackers:
            self.log_step(step, memory_mib())

    def finish_run(self) -> None:
        """The run ended: flush and close every tracker."""
        self._each(lambda tracker: tracker.finish())
        self._trackers.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:
                del self._trackers[name]
                self._report(_left_out(name, error))


def open_sinks(
    names: Sequence[str],
    folder: Path,
    run_name: str,
    config: dict[str, Any],
    report: Callable[[str], None] | None = None,
) -> Sinks:
    """Open the named trackers for a run in `folder`; `report` says what failed (on stderr if not given).

    Raises:
        ConfigError: a tracker that is unknown or not installed.
    """
    say = report or _to_stderr
    trackers: dict[str, Tracker] = {}
    for name in names:
        if name not in OPENERS:
            raise ConfigError(f"there is no tracker {name!r}: choose from {', '.join(OPENERS)}")
        try:
            trackers[name] = OPENERS[name](folder, run_name, config)
        except ImportError as error:
            raise ConfigError(
                f"the tracker {name} is not installed ({error}): pip install 'moe-emergence[{name}]', or leave it out "
                "of execution.trackers"
            ) from error
        except Exception as error:
            say(_left_out(name, error))
    return Sinks(trackers, say)


def memory_mib() -> dict[str, float]:
    """`memory/host_peak_mib` of this process, and on a GPU `memory/gpu_allocated_mib` and `memory/gpu_peak_mib`."""
    import torch

    unit = 1024 if sys.platform == "darwin" else 1
    memory = {"memory/host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["memory/gpu_allocated_mib"] = torch.cuda.memory_allocated() / 2**20
        memory["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    elif torch.backends.mps.is_available():
        memory["memory/gpu_allocated_mib"] = torch.mps.current_allocated_memory() / 2**20
    return memory


def _tensorboard(folder: Path, run_name: str, config: dict[str, Any]) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.close)


def _trackio(folder: Path, run_name: str, config: dict[str, Any]) -> Tracker:
    import trackio

    trackio.init(project=PROJECT, name=run_name, config=config)
    return Tracker(lambda step, values: trackio.log(dict(values), step=step), trackio.finish)


def _wandb(folder: Path, run_name: str, config: dict[str, Any]) -> Tracker:
    """Offline unless WANDB_MODE says otherwise: `wandb sync` uploads later."""
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=run_name,
        dir=folder,
        config=config,
        mode=os.environ.get("WANDB_MODE", "offline"),
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True),
    )
    return Tracker(lambda step, values: run.log(dict(values), step=step), run.finish)


OPENERS: dict[str, Callable[[Path, str, dict[str, Any]], Tracker]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
"""Every backend by name; each is imported when it is opened."""


def _left_out(name: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"the tracker {name} failed and is left out from here on; metrics.jsonl has everything ({reason})"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
