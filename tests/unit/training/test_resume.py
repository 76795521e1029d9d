"""Going on with a run in awkward moments: what it was made from has moved, changed, or was half written down."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    RunDirectoryError,
    TrainingError,
)
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import loop
from moe_emergence.training.loop import train
from moe_emergence.training.run_directory import RunDirectory
from moe_emergence.training.step import Stepper

Config = Callable[..., RunConfig]
Run = Callable[..., Any]


@pytest.fixture
def run(toy_data: PreparedData) -> Run:
    def call(config: RunConfig, folder: Path, **options: Any) -> Any:
        return train(config, folder, data=toy_data, console=RunConsole(quiet=True), **options)

    return call


@pytest.fixture
def stopped(run: Run, interrupt_in_step: Callable[[int], None]) -> Run:
    """A run that was asked to stop in a step."""

    def call(config: RunConfig, folder: Path, step: int, **options: Any) -> Path:
        interrupt_in_step(step)
        with pytest.raises(Interrupted):
            run(config, folder, **options)
        return folder

    return call


def crash_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """As if the process were killed in a step: nothing is saved."""
    take = Stepper.take

    def crash(stepper: Stepper, batch: Any) -> Any:
        if batch.step + 1 == step:
            raise RuntimeError("killed")
        return take(stepper, batch)

    monkeypatch.setattr(Stepper, "take", crash)


def changed(config: RunConfig, group: str, **fields: Any) -> RunConfig:
    return replace(config, **{group: replace(getattr(config, group), **fields)})


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


# Forks


def test_a_fork_that_was_killed_early_does_not_start_from_other_weights(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent went on meanwhile, and keeps the checkpoint no longer that was forked from."""
    config = toy_config(training={"keep_checkpoints": 1})
    parent = stopped(config, tmp_path / "parent", 3)
    crash_in(monkeypatch, 1)
    with pytest.raises(RuntimeError, match="killed"):
        run(config, tmp_path / "fork", fork=parent)
    monkeypatch.undo()
    run(config, parent, resume=True)
    with pytest.raises(RunDirectoryError, match=r"forked from step 3 of .*, whose weights have changed since"):
        run(config, tmp_path / "fork", resume=True)


def test_it_starts_from_the_same_checkpoint_where_the_parent_still_has_it(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(training={"keep_checkpoints": 9})
    parent = stopped(config, tmp_path / "parent", 3)
    run(config, tmp_path / "whole", fork=parent)
    crash_in(monkeypatch, 1)
    with pytest.raises(RuntimeError, match="killed"):
        run(config, tmp_path / "fork", fork=parent)
    monkeypatch.undo()
    run(config, parent, resume=True)
    run(config, tmp_path / "fork", resume=True)
    assert (tmp_path / "fork/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_a_fork_with_a_checkpoint_of_its_own_needs_its_parent_no_longer(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path
) -> None:
    config = toy_config()
    run(config, tmp_path / "parent")
    fork = stopped(config, tmp_path / "fork", 3, fork=tmp_path / "parent")
    shutil.rmtree(tmp_path / "parent")
    assert run(config, fork, resume=True).reason == "finished"


def test_a_parent_is_the_same_by_whatever_path(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config()
    run(config, tmp_path / "parent")
    monkeypatch.chdir(tmp_path)
    fork = stopped(config, tmp_path / "fork", 3, fork=Path("parent"))
    monkeypatch.chdir("/")
    run(config, fork, resume=True, fork=tmp_path / "parent")


def test_a_fork_into_a_loss_free_bias_begins_it_at_zero_and_out_of_one_is_refused(
    toy_config: Config, run: Run, tmp_path: Path
) -> None:
    biased = toy_config(moe={"bias_rate": 1e-3})
    run(toy_config(), tmp_path / "plain")
    run(biased, tmp_path / "biased", fork=tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"has a loss-free bias, and this run's moe\.bias_rate is 0.*give moe"):
        run(toy_config(), tmp_path / "back", fork=tmp_path / "biased")


# Inexactly


def test_fewer_steps_than_were_taken_are_refused(toy_config: Config, run: Run, stopped: Run, tmp_path: Path) -> None:
    folder = stopped(toy_config(), tmp_path / "run", 5)
    shorter = toy_config(training={"steps": 4})
    with pytest.raises(ConfigError, match=r"training\.steps must be at least 5, the step of .*step-000005; got 4"):
        run(shorter, folder, resume=True, allow_inexact=True)


@pytest.mark.parametrize("change", [{"steps": 9}, {"evaluations": 6}])
def test_a_run_may_be_made_longer_or_be_looked_at_more_often(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, change: dict[str, int]
) -> None:
    """The looks it took before are those of the grid it had; again after another stop."""
    folder = stopped(toy_config(), tmp_path / "run", 4)
    config = toy_config(training=change)
    stopped(config, folder, 5, resume=True, allow_inexact=True)
    assert run(config, folder, resume=True).steps == config.training.steps


def test_traces_of_what_is_trained_again_go(
    toy_config: Config, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at 4 came after the checkpoint at 4; the run goes on with another grid, which has no look there."""
    config = toy_config(training={"steps": 8, "evaluations": 5})
    crash_in(monkeypatch, 5)
    with pytest.raises(RuntimeError, match="killed"):
        run(config, tmp_path / "run")
    monkeypatch.undo()
    traces = tmp_path / "run" / "traces"
    assert (traces / "step-000004.parquet").exists()
    run(changed(config, "training", evaluations=2), tmp_path / "run", resume=True, allow_inexact=True)
    assert {path.stem for path in traces.glob("step-*")} == {f"step-00000{step}" for step in (0, 1, 2, 8)}
    assert {path.stem for path in traces.glob("wide-*")} == {"wide-000000", "wide-000008"}


def test_a_kill_between_manifest_and_configuration_is_made_good(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the manifest says has changed, has: the old configuration is refused, and nothing is listed twice."""
    old, new = toy_config(), toy_config(optimizer={"learning_rate": 1e-4})
    folder = stopped(old, tmp_path / "run", 3)
    monkeypatch.setattr(RunDirectory, "write_config", _killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(new, folder, resume=True, allow_inexact=True)
    monkeypatch.undo()
    with pytest.raises(RunDirectoryError, match=r"learning_rate = 0\.0001, not 0\.002"):
        run(old, folder, resume=True)
    run(new, folder, resume=True)
    assert len(manifest(folder)["inexact"]) == 1


def _killed(*_: Any) -> None:
    raise RuntimeError("killed")


def test_a_change_holds_from_the_checkpoint_that_is_gone_back_to(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = toy_config(optimizer={"learning_rate": 1e-4})
    folder = stopped(toy_config(), tmp_path / "run", 3)
    stopped(new, folder, 5, resume=True, allow_inexact=True)
    assert manifest(folder)["inexact"][0]["step"] == 3
    for step in (3, 4, 5):
        shutil.rmtree(folder / "checkpoints" / f"step-00000{step}", ignore_errors=True)
    run(new, folder, resume=True)
    assert manifest(folder)["inexact"][0]["step"] == 0
    assert "no checkpoint yet: starting again from step 0" in capsys.readouterr().err


def test_a_finished_run_is_not_told_to_go_on_inexactly(toy_config: Config, run: Run, tmp_path: Path) -> None:
    run(toy_config(), tmp_path / "run")
    with pytest.raises(
        RunDirectoryError, match=r"training\.steps = 6, not 9, and is finished: .* train --from"
    ) as said:
        run(toy_config(training={"steps": 9}), tmp_path / "run", resume=True, allow_inexact=True)
    assert "--allow-inexact" not in str(said.value)


def test_a_run_of_another_version_is_refused_by_what_its_manifest_lacks(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path
) -> None:
    folder = stopped(toy_config(), tmp_path / "run", 3)
    values = {key: value for key, value in manifest(folder).items() if key != "inexact"}
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(RunDirectoryError, match=r"manifest\.json lacks inexact: another version wrote it"):
        run(toy_config(), folder, resume=True)


# Before the first step


def test_a_self_check_that_fails_leaves_the_folder_free(
    toy_config: Config, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TrainingError("self-check: choose another implementation")

    monkeypatch.setattr(loop, "check_model", fail)
    with pytest.raises(TrainingError, match="self-check"):
        run(toy_config(), tmp_path / "run")
    monkeypatch.undo()
    run(toy_config(execution={"experts_implementation": "eager"}), tmp_path / "run")


def test_a_stop_before_the_first_step_says_how_to_go_on(
    toy_config: Config, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.load_base

    def interrupted(name: str) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(name)

    monkeypatch.setattr(loop, "load_base", interrupted)
    with pytest.raises(Interrupted, match=r"stopped before its first step in .*for train: with --resume"):
        run(toy_config(), tmp_path / "run")
    monkeypatch.undo()
    run(toy_config(), tmp_path / "run", resume=True)


def test_running_out_of_memory_at_the_start_is_advice_too(
    toy_config: Config, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")

    monkeypatch.setattr(loop, "check_model", fail)
    with pytest.raises(TrainingError, match=r"step 0, at the start: out of memory \(it asked for 4\.00 GiB\)"):
        run(toy_config(), tmp_path / "run")


def test_a_run_that_never_was_finite_leaves_weights_to_start_from(
    toy_config: Config, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also continued it stops again, and says the same."""
    real = Stepper._require_finite
    monkeypatch.setattr(
        Stepper,
        "_require_finite",
        lambda stepper, batch, values: real(stepper, batch, dict(values) | {"lm_loss": torch.nan}),
    )
    for resume in (False, True):
        with pytest.raises(TrainingError, match=r"3 steps in a row, up to step 3,.*train --from .*below 0\.002"):
            run(toy_config(), tmp_path / "run", resume=resume)
    monkeypatch.undo()
    run(toy_config(), tmp_path / "again", fork=tmp_path / "run")


def test_a_checkpoint_that_continues_at_another_rate_is_refused(
    toy_config: Config, run: Run, stopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another version of the schedule."""
    folder = stopped(toy_config(), tmp_path / "run", 3)
    monkeypatch.setattr(loop, "learning_rate_factor", lambda *_: 0.5)
    with pytest.raises(CheckpointError, match=r"step 3 goes on at learning rate 0\.00\d+, this version at 0\.001"):
        run(toy_config(), folder, resume=True)
