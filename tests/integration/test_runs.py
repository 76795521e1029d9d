"""Runs in processes of their own: side by side as one after another, and stopped by real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.errors import MoEEmergenceError, TrainingError
from moe_emergence.experiments.suites import Arm, Suite
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import suite as suites
from moe_emergence.training.loop import train
from moe_emergence.training.suite import run_suite

TRAIN = """
import json, sys
from pathlib import Path
from moe_emergence.config import from_dict
from moe_emergence.errors import Interrupted
from moe_emergence.training.loop import train
try:
    train(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), resume=True)
except Interrupted as stop:
    sys.exit(f"stopped: {stop}")
"""
SUITE = """
import json, sys
from pathlib import Path
from moe_emergence.config import from_dict
from moe_emergence.errors import Interrupted
from moe_emergence.experiments.suites import Arm, Suite
from moe_emergence.training.suite import run_suite
if __name__ == "__main__":
    one, two = (from_dict(values) for values in json.loads(sys.argv[1]))
    arms = Arm(config=one), Arm(config=two, baseline=one.name, may_change=("moe",))
    try:
        run_suite(Suite(name="pair", question="?", arms=arms), Path(sys.argv[2]), seeds=(7,), workers=2)
    except Interrupted as stop:
        sys.exit(f"stopped: {stop}")
"""


@pytest.fixture
def configs(toy_config: Callable[..., RunConfig]) -> tuple[RunConfig, RunConfig]:
    one = toy_config(name="one")
    assert one.moe is not None
    return one, replace(one, name="two", moe=replace(one.moe, top_k=2))


@pytest.fixture
def pair(configs: tuple[RunConfig, RunConfig]) -> Suite:
    one, two = configs
    arms = (Arm(config=one), Arm(config=two, baseline="one", may_change=("moe.top_k",)))
    return Suite(name="pair", question="?", arms=arms)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, object, Path], "subprocess.Popen[str]"]]:
    """A script in a process group of its own, as a terminal's foreground job is; what is left of it goes at the end."""
    started: list[subprocess.Popen[str]] = []

    def call(code: str, values: object, folder: Path) -> "subprocess.Popen[str]":
        script = tmp_path / "script.py"
        script.write_text(code)
        command = [sys.executable, str(script), json.dumps(values), str(folder)]
        job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(job)
        return job

    yield call
    for job in started:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def steps(folder: Path) -> list[int]:
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["step"] for line in records if line["event"] == "step"]


def wait_for(condition: Callable[[], bool], job: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, f"it ended by itself: {job.communicate()[1]}"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def ended(job: "subprocess.Popen[str]", seconds: float = 200) -> str:
    """What a stopped job said, with exit code 1 and without a traceback."""
    said = job.communicate(timeout=seconds)[1]
    assert "Traceback" not in said, said
    assert job.returncode == 1
    return said


def long(config: RunConfig, steps: int = 400) -> RunConfig:
    """Long enough to be stopped on the way."""
    return replace(config, training=replace(config.training, steps=steps, checkpoint_every=steps, evaluations=2))


def test_side_by_side_is_one_after_another(pair: Suite, tmp_path: Path) -> None:
    """Equal threads, equal records; finished runs are not trained again."""
    console = RunConsole(quiet=True)
    apart = run_suite(pair, tmp_path / "apart", seeds=(7,), workers=1, console=console)
    beside = run_suite(pair, tmp_path / "beside", seeds=(7,), workers=2, console=console)
    assert [replace(s, folder=s.folder.relative_to(tmp_path / "apart")) for s in apart] == [
        replace(s, folder=s.folder.relative_to(tmp_path / "beside")) for s in beside
    ]
    for arm in ("one", "two"):
        records = [tmp_path / where / arm / "seed-7" / "metrics.jsonl" for where in ("apart", "beside")]
        assert records[0].read_bytes() == records[1].read_bytes()
    before = [record.stat().st_mtime_ns for record in (tmp_path / "beside").glob("*/seed-7/metrics.jsonl")]
    assert run_suite(pair, tmp_path / "beside", seeds=(7,), workers=1, console=console) == beside
    assert [r.stat().st_mtime_ns for r in (tmp_path / "beside").glob("*/seed-7/metrics.jsonl")] == before


def test_a_scheduler_s_signal_stops_a_run_that_then_continues(
    configs: tuple[RunConfig, RunConfig], tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    folder, config = tmp_path / "run", long(configs[0], 80)
    job = start(TRAIN, to_dict(config), folder)
    wait_for(lambda: len(steps(folder)) >= 2, job)
    job.send_signal(signal.SIGTERM)
    said = ended(job)
    last = steps(folder)[-1]
    assert f"stopped at step {last} of 80" in said
    assert (folder / "checkpoints" / f"step-{last:06d}" / "manifest.json").exists()
    assert train(config, folder, resume=True, console=RunConsole(quiet=True)).steps == 80
    assert steps(folder) == list(range(1, 81)), "each step once, none left out"


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGINT, "the group"), (signal.SIGTERM, "the parent")], ids=["terminal", "scheduler"]
)
def test_a_signal_stops_runs_side_by_side(
    configs: tuple[RunConfig, RunConfig],
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
    number: int,
    whom: str,
) -> None:
    """A terminal signals the whole group, a scheduler perhaps the parent alone: every run stops with a checkpoint."""
    folder, values = tmp_path / "pair", [to_dict(long(config)) for config in configs]
    runs = [folder / arm / "seed-7" for arm in ("one", "two")]
    job = start(SUITE, values, folder)
    wait_for(lambda: all(len(steps(run)) >= 2 for run in runs), job)
    if whom == "the group":
        os.killpg(job.pid, number)
    else:
        os.kill(job.pid, number)
    said = ended(job)
    assert f"all that was done is kept in {folder}: the same command continues it" in said
    for run in runs:
        last = steps(run)[-1]
        assert last < 400
        assert (run / "checkpoints" / f"step-{last:06d}" / "manifest.json").exists()


def test_a_signal_while_processes_still_start(
    configs: tuple[RunConfig, RunConfig], tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    folder = tmp_path / "pair"
    job = start(SUITE, [to_dict(long(config)) for config in configs], folder)
    wait_for(lambda: any(folder.glob("data/*/manifest.json")), job)
    time.sleep(0.3)
    os.killpg(job.pid, signal.SIGINT)
    assert "the same command continues it" in ended(job)


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refused(*_: object) -> None:
    raise TrainingError("step 1: not finite")


@pytest.mark.parametrize(
    ("arm", "message"),
    [(_killed, "a run's process was killed, perhaps for lack of memory"), (_refused, "step 1: not fin")],
)
def test_a_run_that_fails_ends_the_suite_in_one_line(
    pair: Suite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arm: Callable[..., None],
    message: str,
) -> None:
    from multiprocessing import get_context

    # forked here, so that the processes see the patch; nothing in them computes
    monkeypatch.setattr(suites, "get_context", lambda _: get_context("fork"))
    monkeypatch.setattr(suites, "_run_arm", arm)
    with pytest.raises(MoEEmergenceError, match=message):
        run_suite(pair, tmp_path / "pair", seeds=(7,), workers=2, console=RunConsole(quiet=True))
    assert "Traceback" not in capfd.readouterr().err
