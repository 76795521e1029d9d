"""Sameness: equal seeds give equal runs, and a run that was stopped and continued is one that was not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import Interrupted
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import collapse
from moe_emergence.training.loop import train
from moe_emergence.training.step import Stepper
from moe_emergence.training.tensors import MODEL, OPTIMIZER

KINDS: dict[str, dict[str, Any]] = {
    "dense": {"moe": None},
    "top-1": {},
    "top-2, both blocks, in micro-batches": {"moe": {"top_k": 2, "layers": None}, "training": {"micro_batch_size": 2}},
    "blocks:2, frozen": {"moe": {"balance_window": "blocks:2", "router": "frozen"}},
    "hash, in micro-batches": {"moe": {"router": "hash"}, "training": {"micro_batch_size": 2}},
}


@pytest.fixture(scope="module")
def run(toy_data: PreparedData, toy_config: Callable[..., RunConfig]) -> Callable[..., None]:
    """Train a toy run, six steps, with a checkpoint every two; dropout and noise are on."""

    def call(folder: Path, *, resume: bool = False, **changes: Any) -> None:
        train(toy_config(**changes), folder, data=toy_data, resume=resume, console=RunConsole(quiet=True))

    return call


@pytest.fixture(scope="module")
def whole(run: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The uninterrupted run of each kind."""
    folder = tmp_path_factory.mktemp("whole")

    def of(kind: str) -> Path:
        if not (folder / kind).exists():
            run(folder / kind, **KINDS[kind])
        return folder / kind

    return of


def same_runs(one: Path, other: Path) -> None:
    """Bit-equal metrics, weights, optimiser states and traces of the last step."""
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    newest = [max((run / "checkpoints").iterdir()) for run in (one, other)]
    assert newest[0].name == newest[1].name
    for name in (MODEL, OPTIMIZER):
        a, b = (load_file(checkpoint / name) for checkpoint in newest)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert json.loads((newest[0] / "state.json").read_text()) == json.loads((newest[1] / "state.json").read_text())
    traces = sorted(path.name for path in (one / "traces").iterdir())
    assert traces == sorted(path.name for path in (other / "traces").iterdir())
    for name in traces:
        if name.endswith(".parquet"):
            a, b = (pq.read_table(run / "traces" / name) for run in (one, other))
            assert a.equals(b, check_metadata=True)
        else:
            a, b = (load_file(run / "traces" / name) for run in (one, other))
            assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_runs(
    kind: str, run: Callable[..., None], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever random numbers were drawn before."""
    first = whole(kind)
    torch.randn(17)
    run(tmp_path / "again", **KINDS[kind])
    same_runs(first, tmp_path / "again")


def test_another_seed_gives_another_run(run: Callable[..., None], whole: Callable[[str], Path], tmp_path: Path) -> None:
    run(tmp_path / "other", seed=8)
    one, other = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole("top-1"), tmp_path / "other")
    )
    assert [line["step"] for line in one] == [line["step"] for line in other]
    steps = [(a, b) for a, b in zip(one, other, strict=True) if a["event"] == "step"]
    assert all(a["lm_loss"] != b["lm_loss"] for a, b in steps)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_stopping_and_continuing_is_not_stopping(
    step: int, run: Callable[..., None], whole: Callable[[str], Path], tmp_path: Path, interrupt_in_step: Any
) -> None:
    """At the first step, where an evaluation and a checkpoint fall due, and between them."""
    interrupt_in_step(step)
    with pytest.raises(Interrupted):
        run(tmp_path / "run")
    run(tmp_path / "run", resume=True)
    same_runs(whole("top-1"), tmp_path / "run")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "top-1"])
def test_stopping_and_continuing_any_kind(
    kind: str, run: Callable[..., None], whole: Callable[[str], Path], tmp_path: Path, interrupt_in_step: Any
) -> None:
    interrupt_in_step(3)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", **KINDS[kind])
    run(tmp_path / "run", resume=True, **KINDS[kind])
    same_runs(whole(kind), tmp_path / "run")


def test_stopping_at_every_step(
    run: Callable[..., None], whole: Callable[[str], Path], tmp_path: Path, interrupt_in_step: Any
) -> None:
    for step in range(1, 6):
        interrupt_in_step(step)
        with pytest.raises(Interrupted):
            run(tmp_path / "run", resume=True)
    run(tmp_path / "run", resume=True)
    same_runs(whole("top-1"), tmp_path / "run")


def test_stopping_and_continuing_in_a_later_epoch(
    toy_data: PreparedData, toy_config: Callable[..., RunConfig], tmp_path: Path, interrupt_in_step: Any
) -> None:
    """Nine blocks, four a step: stopped in the second epoch, whose order is not the first one's."""
    few = replace(toy_data, train=toy_data.train.take(np.arange(9)))
    for folder, stops in ((tmp_path / "whole", False), (tmp_path / "run", True)):
        if stops:
            interrupt_in_step(4)
            with pytest.raises(Interrupted):
                train(toy_config(), folder, data=few, console=RunConsole(quiet=True))
        train(toy_config(), folder, data=few, resume=True, console=RunConsole(quiet=True))
    same_runs(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_crash_and_continuing_is_not_crashing(
    step: int,
    run: Callable[..., None],
    whole: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps after the last checkpoint are recorded again, and the line that the crash tore is gone."""
    real = Stepper.take

    def crash(stepper: Stepper, batch: Any) -> Any:
        if batch.step + 1 == step:
            raise RuntimeError("power cut")
        return real(stepper, batch)

    monkeypatch.setattr(Stepper, "take", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    monkeypatch.undo()
    run(tmp_path / "run", resume=True)
    same_runs(whole("top-1"), tmp_path / "run")


def test_a_crash_after_the_last_step_still_ends_the_run(
    run: Callable[..., None], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Between the last checkpoint and the line that says so."""
    run(tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.read_text().splitlines(keepends=True) if '"end"' not in line))
    run(tmp_path / "run", resume=True)
    same_runs(whole("top-1"), tmp_path / "run")


def test_the_collapse_watch_goes_on_where_it_was(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt_in_step: Any
) -> None:
    """Windows of a step and a half, so that one is open at every stop; every window counts as bad."""
    monkeypatch.setattr(collapse.CollapseDetector, "_is_bad", lambda *_: True)
    real = collapse.CollapseDetector.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **(options | {"window": 192}))

    monkeypatch.setattr(collapse.CollapseDetector, "__init__", init)
    run(tmp_path / "whole")
    interrupt_in_step(3)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    same_runs(tmp_path / "whole", tmp_path / "cut")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["state"]) for line in lines if line["event"] == "collapse"] == [
        (2, "warning"),
        (4, "collapsed"),
    ]
