"""A loss or gradient that is not finite never enters the weights; it is counted, said, and ends the run if it stays."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from poison import INF, NAN, poison
from safetensors.torch import load_file

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import Interrupted, TrainingError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.loop import train
from moe_emergence.training.step import Stepper

GATE = "transformer.h.1.mlp.moe.router.gate.weight"
EXPERTS = "transformer.h.1.mlp.moe.experts.up_proj"
EMBEDDING = "transformer.wte.weight"
Train = Callable[..., None]

CASES = {
    "loss nan, once": ("loss", NAN, [3]),
    "loss inf, twice": ("loss", INF, [3, 4]),
    "loss -inf, first step": ("loss", -INF, [1]),
    "loss nan, last step": ("loss", NAN, [8]),
    "router's logits nan": ("router", NAN, [3]),
    "router's logits inf, apart": ("router", INF, [2, 3, 5, 6]),
    "gate's gradient nan": (GATE, NAN, [3]),
    "experts' gradient inf": (EXPERTS, INF, [3]),
    "embedding's gradient nan, twice": (EMBEDDING, NAN, [6, 7]),
}
FOR_EVER = {
    "loss nan": ("loss", NAN),
    "router's logits inf": ("router", INF),
    "experts' gradient nan": (EXPERTS, NAN),
}


@pytest.fixture
def config(toy_config: Callable[..., RunConfig]) -> RunConfig:
    return toy_config(training={"steps": 8, "checkpoint_every": 2, "keep_checkpoints": 9})


@pytest.fixture
def run(config: RunConfig, toy_data: PreparedData) -> Train:
    def call(folder: Path, **options: Any) -> None:
        train(config, folder, data=toy_data, console=RunConsole(quiet=True), **options)

    return call


def lines(folder: Path, event: str) -> list[dict[str, Any]]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in records if line["event"] == event]


def all_finite(folder: Path) -> bool:
    files = (folder / "checkpoints").glob("step-*/*.safetensors")
    return all(bool(tensor.isfinite().all()) for file in files for tensor in load_file(file).values())


@pytest.mark.parametrize("case", CASES)
def test_a_step_that_is_not_finite_is_skipped(
    case: str, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case_of: Callable[[str], None]
) -> None:
    case_of("losses and gradients not finite, never in the weights")
    where, value, steps = CASES[case]
    poison(monkeypatch, where, value, steps)
    run(tmp_path / "run")
    skipped = lines(tmp_path / "run", "skipped")
    assert [line["step"] for line in skipped] == steps
    assert all("not finite" in line["cause"] for line in skipped)
    if where in (GATE, EXPERTS):
        assert {line["layer"] for line in skipped} == {1}
        assert where in skipped[0]["cause"]
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == sorted(set(range(1, 9)) - set(steps))
    assert all(math.isfinite(line["lm_loss"]) for line in lines(tmp_path / "run", "step"))
    assert all_finite(tmp_path / "run")


@pytest.mark.parametrize("case", FOR_EVER)
def test_three_in_a_row_end_the_run_with_a_diagnosis(
    case: str,
    config: RunConfig,
    run: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case_of: Callable[[str], None],
) -> None:
    case_of("losses and gradients not finite, never in the weights")
    where, value = FOR_EVER[case]
    poison(monkeypatch, where, value, range(4, 99))
    with pytest.raises(TrainingError, match=r"3 steps in a row, up to step 6, were not finite .*weights are.* step 3"):
        run(tmp_path / "run")
    assert [line["in_a_row"] for line in lines(tmp_path / "run", "skipped")] == [1, 2, 3]
    assert all_finite(tmp_path / "run")
    diagnosis = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert (diagnosis["step"], diagnosis["last_metrics"]["step"]) == (6, 3)
    assert diagnosis["config"]["seed"] == config.seed
    assert diagnosis["layer"] == (1 if where == EXPERTS else diagnosis["layer"])


def test_a_skipped_step_leaves_the_weights_and_moments_of_the_step_before(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 3 and 4 skipped: checkpoints of steps 2 and 4 hold the same tensors, and the state says so."""
    poison(monkeypatch, "loss", NAN, [3, 4])
    run(tmp_path / "run")
    folders = [tmp_path / "run" / "checkpoints" / f"step-00000{step}" for step in (2, 4)]
    for name in ("model.safetensors", "optimizer.safetensors"):
        before, after = (load_file(folder / name) for folder in folders)
        assert all(torch.equal(before[key], after[key]) for key in before | after)
    state = json.loads((folders[1] / "state.json").read_text())
    assert (state["step"], state["updates"], state["skipped_in_a_row"]) == (4, 2, 2)


@pytest.mark.parametrize("stop", [3, 4])
def test_stopping_among_skipped_steps_and_going_on_changes_nothing(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt_in_step: Callable[[int], None], stop: int
) -> None:
    """Also the count of those in a row goes on: two before the stop and one after it end the run."""
    poison(monkeypatch, "loss", NAN, [3, 5])
    run(tmp_path / "whole")
    _interrupt_around(monkeypatch, stop)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    last = Path("checkpoints") / "step-000008"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        assert (tmp_path / "cut" / last / name).read_bytes() == (tmp_path / "whole" / last / name).read_bytes()


def test_the_count_in_a_row_survives_a_stop(run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "loss", NAN, [3, 4, 5])
    _interrupt_around(monkeypatch, 4)
    with pytest.raises(Interrupted):
        run(tmp_path / "run")
    with pytest.raises(TrainingError, match="3 steps in a row, up to step 5"):
        run(tmp_path / "run", resume=True)


def _interrupt_around(patch: pytest.MonkeyPatch, step: int) -> None:
    """Ask to stop, once, while the step of that number is taken, skipped or not."""
    import os
    import signal

    take, asked = Stepper.take, []

    def interrupted(stepper: Stepper, batch: Any) -> Any:
        try:
            return take(stepper, batch)
        finally:
            if batch.step + 1 == step and not asked:
                asked.append(step)
                os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Stepper, "take", interrupted)
