"""Attempts at a run in children of a zygote, and what two runs must have in common."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.config import RunConfig, to_dict

HERE = Path(__file__).parent
FINISHED, FAILED, RESUMABLE, KILLED = 0, 2, 75, -9


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        status: the exit code, or minus the signal; -1000 where it had to be ended for taking too long.
        phase: what it was doing (`board.PHASES`); `starting` stands for everything else.
        operations: how many operations on files a planted fault counted.
        forwards: forward passes of the model after a planted signal.
    """

    status: int
    seconds: float
    phase: str
    operations: int
    forwards: int
    output: str
    error: str

    def check(self, *expected: int) -> "Outcome":
        """Raises AssertionError with what the child said, unless it ended as expected and without a traceback."""
        assert self.status in expected, f"ended with {self.status}, not {expected}, in {self.phase}:\n{self.error}"
        assert "Traceback" not in self.error, self.error
        return self


class Zygote:
    """Starts `zygote.py`; one attempt at a time."""

    def __init__(self, configs: list[RunConfig]) -> None:
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("ZYGOTE_STDERR") else None,
            text=True,
            env=environment,
        )
        self._ask({"configs": [to_dict(config) for config in configs]})

    def train(self, config: RunConfig, folder: Path, **options: Any) -> Outcome:
        """Call `train(config, folder, resume=True)` in a child; options as in `zygote.Attempts.answer`."""
        return self._attempt({"config": to_dict(config), "folder": str(folder)} | options)

    def command(self, config: RunConfig, folder: Path, **options: Any) -> Outcome:
        """Call `moe-emergence train --config … --out …`, with `--resume` once there is a run."""
        written = folder.with_name(f"{folder.name}.yaml")
        written.write_text(json.dumps(to_dict(config)))
        resume = ["--resume"] if (folder / "config.json").exists() else []
        return self.call(["train", "--config", str(written), "--out", str(folder), *resume], folder, **options)

    def call(self, command: list[str], folder: Path, **options: Any) -> Outcome:
        """Call `moe-emergence` with any command."""
        return self._attempt({"command": command, "folder": str(folder)} | options)

    def _attempt(self, request: dict[str, Any]) -> Outcome:
        return Outcome(**self._ask(request))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the zygote has died"
        return dict(json.loads(line))

    def close(self) -> None:
        self.process.communicate()


# Sameness


def digest(run: Path) -> dict[str, str]:
    """sha256 of all that a run must end with: its last checkpoint, its metrics, its traces, its snapshots."""
    last = checkpoints(run)[-1]
    files = [last / name for name in ("model.safetensors", "optimizer.safetensors", "state.json")]
    files += [run / "metrics.jsonl", *sorted(path for path in (run / "traces").iterdir() if path.name[0] != ".")]
    files += sorted(path for path in run.glob("snapshots/step-*/*"))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def checkpoints(run: Path) -> list[Path]:
    """The folders that claim to be checkpoints, by step."""
    return sorted((run / "checkpoints").glob("step-*"))


def recorded_steps(run: Path) -> list[int]:
    """The optimiser steps in `metrics.jsonl`; a torn last line is left out."""
    with suppress(FileNotFoundError):
        lines = (run / "metrics.jsonl").read_text("utf-8", "replace").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line["step"] for line in records if line["event"] == "step"]
    return []


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Runs:
    """Uninterrupted runs to compare with, and runs stopped at a step to start from; each made once, then copied."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.zygote, self.folder = zygote, folder
        self._made: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}

    def whole(self, config: RunConfig) -> dict[str, str]:
        """The digest of the run that nothing disturbed."""
        return digest(self._once(f"whole {config}", lambda folder: self._finish(config, folder)))

    def duration(self, config: RunConfig) -> float:
        """How long that run took."""
        self.whole(config)
        return self.seconds[repr(config)]

    def stopped(self, config: RunConfig, step: int, into: Path) -> Path:
        """A copy, as `into`, of the run stopped at `step` with a checkpoint there."""
        made = self._once(f"stopped {step} {config}", lambda folder: self._stop(config, step, folder))
        shutil.copytree(made, into)
        return into

    def check_finishes(self, config: RunConfig, folder: Path) -> Outcome:
        """Continue the run to its end with the command, and compare it with the undisturbed one."""
        outcome = self.zygote.command(config, folder).check(FINISHED)
        assert digest(folder) == self.whole(config)
        return outcome

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        if name not in self._made:
            folder = self.folder / f"made-{len(self._made)}" / "run"
            folder.parent.mkdir(parents=True)
            make(folder)
            self._made[name] = folder
        return self._made[name]

    def _finish(self, config: RunConfig, folder: Path) -> None:
        self.seconds[repr(config)] = self.zygote.train(config, folder).check(FINISHED).seconds

    def _stop(self, config: RunConfig, step: int, folder: Path) -> None:
        stop = {"kind": "signal", "phase": "step", "call": step, "number": 15, "at": -1}
        self.zygote.train(config, folder, fault=stop)
        assert checkpoints(folder)[-1].name == f"step-{step:06d}"


def numbered(folder: Path) -> Iterator[Path]:
    """Fresh paths for runs under `folder`; a run's own parent, so that nothing else lies beside it."""
    number = 0
    while True:
        number += 1
        path = folder / str(number)
        path.mkdir()
        yield path / "run"
