"""Stopped after any step, a run ends as if it had not been."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FINISHED, RESUMABLE, Runs, checkpoints

from moe_emergence.config import RunConfig

STEPS = 40
SHORT = {1, 2, 3, 4, 5, 7, 10, 17, 24, 31, 39, 40}
"""With the end of the warm-up (4), the first checkpoints (3) and the last step; all are in the first epoch."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [0, 1])
def test_a_run_goes_on_exactly_from_every_step(
    runs: Runs,
    forty: dict[str, RunConfig],
    folders: Iterator[Path],
    full: bool,
    figure: Callable[[str], None],
    part: int,
) -> None:
    """Steps 1 to 40 with dropout on; the ways to compute a step take turns."""
    points = [step for step in range(1, STEPS + 1) if full or step in SHORT][part::2]
    configs = list(forty.items())
    for number, step in enumerate(points):
        name, config = configs[(number + 3 * part) % len(configs)]
        folder = next(folders)
        stop(runs, config, folder, step)
        assert checkpoints(folder)[-1].name == f"step-{step:06d}", name
        runs.check_finishes(config, folder)
    figure(f"resume points: {len(points)} of {len(points)} bit-equal, part {part + 1} of 2")


def stop(runs: Runs, config: RunConfig, folder: Path, step: int) -> None:
    """By SIGTERM as the step ends; where it was the last, the run may as well finish."""
    fault = {"kind": "signal", "phase": "step", "call": step, "number": int(signal.SIGTERM), "at": -1}
    outcome = runs.zygote.command(config, folder, fault=fault)
    outcome.check(*((FINISHED, RESUMABLE) if step == STEPS else (RESUMABLE,)))


def test_a_finished_run_is_left_as_it_is(runs: Runs, forty: dict[str, RunConfig], folders: Iterator[Path]) -> None:
    folder, config = next(folders), forty["dense"]
    runs.zygote.command(config, folder).check(FINISHED)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    runs.check_finishes(config, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
