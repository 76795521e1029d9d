"""Trackers get names and numbers, and never stop training."""

import builtins
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from moe_emergence.errors import ConfigError
from moe_emergence.tracking import sinks as module
from moe_emergence.tracking.sinks import Tracker, memory_mib, open_sinks


class _Recording:
    """A tracker that remembers, and raises when told to."""

    def __init__(self, fails_from: int | None = None) -> None:
        self.fails_from = fails_from
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def open(self, folder: Path, run_name: str, config: dict[str, Any]) -> Tracker:
        return Tracker(self.log, self.finish)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.fails_from is not None and step >= self.fails_from:
            raise ConnectionError("the server\nhas gone")
        self.logged.append((step, dict(values)))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> dict[str, _Recording]:
    made = {"good": _Recording(), "bad": _Recording(fails_from=2)}
    monkeypatch.setattr(module, "OPENERS", {name: tracker.open for name, tracker in made.items()})
    return made


def test_no_tracker_is_the_default_and_costs_nothing(tmp_path: Path) -> None:
    sinks = open_sinks([], tmp_path, "moe", {})
    sinks.log_step(1, {"lm_loss": 1.0})
    sinks.log_gpu_memory(1)
    sinks.finish_run()
    assert list(tmp_path.iterdir()) == []


def test_a_raising_tracker_is_reported_once_and_left_out(trackers: dict[str, _Recording], tmp_path: Path) -> None:
    said: list[str] = []
    sinks = open_sinks(["bad", "good"], tmp_path, "moe", {}, report=said.append)
    for step in range(1, 5):
        sinks.log_step(step, {"lm_loss": float(step)})
    sinks.finish_run()
    assert said == [
        "the tracker bad failed and is left out from here on; metrics.jsonl has everything "
        "(ConnectionError: the server has gone)"
    ]
    assert [step for step, _ in trackers["bad"].logged] == [1]
    assert [step for step, _ in trackers["good"].logged] == [1, 2, 3, 4]
    assert (trackers["bad"].finished, trackers["good"].finished) == (0, 1)


def test_without_a_listener_it_is_said_on_stderr(
    trackers: dict[str, _Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_sinks(["bad"], tmp_path, "moe", {}).log_step(2, {"lm_loss": 1.0})
    assert capsys.readouterr().err.count("the tracker bad failed") == 1


def test_one_that_cannot_be_opened_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(folder: Path, run_name: str, config: dict[str, Any]) -> Tracker:
        raise RuntimeError("locked")

    said: list[str] = []
    monkeypatch.setattr(module, "OPENERS", {"bad": refuse})
    open_sinks(["bad"], tmp_path, "moe", {}, report=said.append).log_step(1, {})
    assert len(said) == 1


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_one_that_is_not_installed_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(module_name: str, *rest: Any) -> Any:
        if module_name.startswith((name, f"torch.utils.{name}")):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(module_name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"pip install 'moe-emergence\[{name}\]'"):
        open_sinks([name], tmp_path, "moe", {})


def test_an_unknown_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose from tensorboard, trackio, wandb"):
        open_sinks(["mlflow"], tmp_path, "moe", {})


def test_memory_is_logged_by_its_names(trackers: dict[str, _Recording], tmp_path: Path) -> None:
    open_sinks(["good"], tmp_path, "moe", {}).log_gpu_memory(7)
    ((step, values),) = trackers["good"].logged
    assert step == 7
    assert all(name.startswith("memory/") for name in values)
    assert values["memory/host_peak_mib"] > 10


def test_memory_is_in_mib() -> None:
    peak_kib = int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1]
    )
    assert memory_mib()["memory/host_peak_mib"] == pytest.approx(peak_kib / 1024, rel=0.05)


def test_tensorboard_holds_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sinks = open_sinks(["tensorboard"], tmp_path, "moe", {"seed": 42})
    sinks.log_step(1, {"lm_loss": 2.5, "router/layer_2_expert_0_load": 0.125})
    sinks.log_step(2, {"lm_loss": 2.25, "router/layer_2_expert_0_load": 0.25})
    sinks.finish_run()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("lm_loss")] == [(1, 2.5), (2, 2.25)]
    assert [event.value for event in events.Scalars("router/layer_2_expert_0_load")] == [0.125, 0.25]
    (text,) = events.Tensors("config/text_summary")[0].tensor_proto.string_val
    assert json.loads(text.decode().removeprefix("```json").removesuffix("```")) == {"seed": 42}
