"""A signal is answered wherever it comes: a checkpoint at most one step later, exit code 75, an exact continuation."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import FINISHED, RESUMABLE, Runs, Zygote, checkpoints, recorded_steps, tree

from moe_emergence.config import RunConfig

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
WHERE = {
    "a micro-step": {"phase": "step", "call": 5, "at": 2},
    "an evaluation": {"phase": "evaluation", "call": 3, "at": 1},
    "a trace": {"phase": "trace", "call": 3, "at": 1},
    "a save": {"phase": "save", "call": 3},
    "data preparation": {"phase": "data", "call": 1},
}
"""An evaluation and a trace have several forward passes each: the harness makes their batches small. The first look
takes two traces, of the probe set and of the wide one."""
AFTERWARDS = 0
"""Forward passes that may still begin after a signal in a look; two more would be all that is left of an evaluation."""
SUMMARY = "analysis/summary.json"
PAGE = "moe_emergence.report.page"
"""Loaded beforehand, so that there is something to plant a signal in."""


@pytest.fixture(scope="module")
def config(toy_config: Callable[..., RunConfig]) -> RunConfig:
    training = {"steps": 12, "checkpoint_every": 3, "evaluations": 4, "micro_batch_size": 1}
    return toy_config(training=training)


def planted(number: signal.Signals, **where: Any) -> dict[str, Any]:
    return {"kind": "signal", "number": int(number)} | where


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("where", WHERE)
def test_a_signal_in_a_run(
    runs: Runs,
    config: RunConfig,
    folders: Iterator[Path],
    case_of: Callable[[str], None],
    where: str,
    number: signal.Signals,
) -> None:
    case_of("signals")
    folder = next(folders)
    outcome = runs.zygote.command(config, folder, fault=planted(number, **WHERE[where]), data="own")
    outcome.check(RESUMABLE)
    if where == "data preparation":
        assert outcome.forwards == 0
    else:
        saved = int(checkpoints(folder)[-1].name.removeprefix("step-"))
        assert max(recorded_steps(folder)) == saved, "what was done is kept"
    if where == "a micro-step":
        assert saved in (4, 5)
        assert outcome.forwards <= config.training.batch_size
    elif where in ("an evaluation", "a trace"):
        assert outcome.forwards <= AFTERWARDS, f"{outcome.forwards} forward passes after the signal"
    runs.check_finishes(config, folder)


def test_a_second_ctrl_c_stops_at_once(runs: Runs, config: RunConfig, folders: Iterator[Path]) -> None:
    """With nothing saved, and nothing lost: the run goes on from what it had."""
    folder = next(folders)
    twice = planted(signal.SIGINT, phase="step", call=5, at=2) | {"again": True}
    outcome = runs.zygote.command(config, folder, fault=twice)
    outcome.check(130)
    assert outcome.forwards <= 1
    assert checkpoints(folder)[-1].name == "step-000003"
    runs.check_finishes(config, folder)


# Analysis and report


@pytest.fixture(scope="module")
def reported(zygote: Zygote, toy_base: Path, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, trained, analysed and reported."""
    folder = tmp_path_factory.mktemp("reported") / "toy"
    zygote.call(train_command(folder, toy_base, toy_folder), folder, data="own").check(FINISHED)
    zygote.call(["report", str(folder)], folder).check(FINISHED)
    return folder


def train_command(folder: Path, base: Path, corpus: Path) -> list[str]:
    fields = {
        "base": base,
        "data.corpus": corpus,
        "data.block_size": 32,
        "data.dev_blocks": 4,
        "data.test_blocks": 6,
        "data.probe_tokens": 600,
        "data.wide_probe_tokens": 300,
        "training.steps": 6,
        "training.batch_size": 4,
        "training.evaluations": 3,
        "execution.device": "cpu",
        "execution.threads": 1,
    }
    options = [f"--{name}={value}" for name, value in fields.items()]
    return ["train", "--preset", "moe", "--out", str(folder), *options]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "phase"), list(zip(SIGNALS, ["analysis", "report", "analysis"], strict=True)))
def test_a_signal_in_analysis_and_report(
    zygote: Zygote, reported: Path, full: bool, case_of: Callable[[str], None], number: signal.Signals, phase: str
) -> None:
    """The page is the old one until the new one is whole, and the same command then writes the same."""
    case_of("signals")
    before = tree(reported)
    for where in ("analysis", "report") if full else (phase,):
        if where == "analysis":  # tables that are current are not made again
            (reported / SUMMARY).unlink()
        stop = planted(number, phase=where, call=1)
        zygote.call(["report", str(reported)], reported, fault=stop, imports=[PAGE]).check(RESUMABLE)
        assert {SUMMARY: before[SUMMARY]} | tree(reported) == before
        (reported / SUMMARY).write_bytes(before[SUMMARY])
    if full or number == SIGNALS[0]:
        (reported / SUMMARY).unlink()
        zygote.call(["report", str(reported)], reported).check(FINISHED)
        assert tree(reported) == before
