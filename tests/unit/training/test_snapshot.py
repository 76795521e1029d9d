"""Snapshots: whole or not there, the weights of their step, and in step with a run that is continued."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import Interrupted, RunDirectoryError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import durable, snapshot
from moe_emergence.training.look import Looks
from moe_emergence.training.loop import train
from moe_emergence.training.snapshot import remove_snapshots, save_snapshot
from moe_emergence.training.step import Stepper
from moe_emergence.training.tensors import MODEL, model_tensors

Config = Callable[..., RunConfig]


@pytest.fixture
def run(toy_data: PreparedData) -> Callable[..., Any]:
    def call(config: RunConfig, folder: Path, **options: Any) -> Path:
        return train(config, folder, data=toy_data, console=RunConsole(quiet=True), **options).folder

    return call


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "snapshots").glob("*"))


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [6]), (2, [0, 6]), (3, [0, 2, 6]), (9, [0, 1, 2, 3, 6])])
def test_a_run_leaves_as_many_as_asked(
    toy_config: Config, run: Callable[..., Any], tmp_path: Path, count: int, expected: list[int]
) -> None:
    config = toy_config(training={"snapshots": count, "evaluations": 5, "keep_checkpoints": 1})
    assert steps(run(config, tmp_path / "run")) == expected
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1, "they are no checkpoints"


@pytest.mark.parametrize("moe", [True, False])
def test_they_are_models_of_their_step(toy_config: Config, run: Callable[..., Any], tmp_path: Path, moe: bool) -> None:
    """The last is the last checkpoint's; each loads as a model, and by the command that takes one."""
    from moe_emergence.training.trained import load_trained

    changes: dict[str, Any] = {} if moe else {"moe": None}
    config = toy_config(**changes, training={"checkpoint_every": 2, "keep_checkpoints": 9, "snapshots": 3})
    folder = run(config, tmp_path / "run")
    for step in (2, 6):
        kept = load_file(folder / f"snapshots/step-00000{step}" / MODEL)
        checkpoint = load_file(folder / f"checkpoints/step-00000{step}" / MODEL)
        assert kept.keys() == checkpoint.keys()
        assert all(torch.equal(kept[name], checkpoint[name]) for name in kept)
    model, tokenizer = load_trained(folder / "snapshots/step-000002")
    assert type(model) is type(AutoModelForCausalLM.from_pretrained(folder / "snapshots/step-000006"))
    assert tokenizer.get_vocab_size() == model.config.vocab_size
    assert all(
        torch.equal(model.state_dict()[n], v) for n, v in load_file(folder / "snapshots/step-000002" / MODEL).items()
    )


def test_those_of_what_is_trained_again_are_taken_again(
    toy_config: Config, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the look at 4; the checkpoint at 3 is gone back to."""
    config = toy_config(training={"steps": 8, "evaluations": 5, "snapshots": 5, "checkpoint_every": 3})
    whole = run(config, tmp_path / "whole")
    take = Looks.take

    def killed(looks: Looks, step: int, **options: Any) -> float:
        loss = take(looks, step, **options)
        if step == 4:
            raise RuntimeError("killed")
        return loss

    monkeypatch.setattr(Looks, "take", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(config, tmp_path / "run")
    monkeypatch.undo()
    folder = tmp_path / "run" / "snapshots"
    assert steps(tmp_path / "run") == [0, 1, 2, 4]
    (folder / ".step-000004.123").mkdir()
    (folder / "step-000004" / MODEL).write_bytes(b"of another time")
    run(config, tmp_path / "run", resume=True)
    assert steps(tmp_path / "run") == steps(whole) == [0, 1, 2, 4, 8]
    for step in steps(whole):
        one, other = (f / f"snapshots/step-{step:06d}" / MODEL for f in (whole, tmp_path / "run"))
        assert one.read_bytes() == other.read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_run_that_starts_again_from_nothing_keeps_none(
    toy_config: Config, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(training={"snapshots": 3, "checkpoint_every": 6})
    real = Stepper.take

    def killed(stepper: Stepper, batch: Any) -> Any:
        if batch.step == 3:
            raise RuntimeError("killed")
        return real(stepper, batch)

    monkeypatch.setattr(Stepper, "take", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(config, tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run/snapshots/step-000002" / MODEL).write_bytes(b"of another time")
    run(config, tmp_path / "run", resume=True)
    load_file(tmp_path / "run/snapshots/step-000002" / MODEL)


def test_the_wide_trace_of_the_start_is_needed_to_go_on(
    toy_config: Config, run: Callable[..., Any], interrupt_in_step: Callable[[int], None], tmp_path: Path
) -> None:
    interrupt_in_step(3)
    with pytest.raises(Interrupted):
        run(toy_config(), tmp_path / "run")
    assert (tmp_path / "run/traces/wide-000000.parquet").exists()
    (tmp_path / "run/traces/wide-000000.parquet").unlink()
    with pytest.raises(RunDirectoryError, match=r"wide-000000\.parquet is missing"):
        run(toy_config(), tmp_path / "run", resume=True)


def test_a_wide_trace_of_what_is_trained_again_goes(
    toy_config: Config, run: Callable[..., Any], interrupt_in_step: Callable[[int], None], tmp_path: Path
) -> None:
    """As one of a last step that a damaged checkpoint leads back from."""
    interrupt_in_step(3)
    with pytest.raises(Interrupted):
        run(toy_config(), tmp_path / "run")
    traces = tmp_path / "run/traces"
    (traces / "wide-000005.parquet").write_bytes((traces / "wide-000000.parquet").read_bytes())
    run(toy_config(), tmp_path / "run", resume=True)
    assert sorted(path.name for path in traces.glob("wide-*")) == ["wide-000000.parquet", "wide-000006.parquet"]


def test_one_that_is_there_stays(dense: GPT2LMHeadModel, tmp_path: Path) -> None:
    weights = model_tensors(dense)
    first = save_snapshot(tmp_path, dense.config, weights, 3)
    written = (first / MODEL).stat().st_mtime_ns
    assert save_snapshot(tmp_path, dense.config, weights, 3) == first
    assert (first / MODEL).stat().st_mtime_ns == written
    assert {path.name for path in first.iterdir()} >= {MODEL, "config.json"}
    save_snapshot(tmp_path, dense.config, weights, 12)
    remove_snapshots(tmp_path, 12)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    remove_snapshots(tmp_path / "nowhere", 0)


def test_nothing_has_its_final_name_before_it_is_whole(
    dense: GPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    synced: list[str] = []
    for module, name in ((snapshot, "save_file"), (durable, "sync"), (durable, "rename")):
        real = getattr(module, name)

        def around(*a: Any, _real: Any = real, _name: str = name, **o: Any) -> Any:
            seen.append({path.name for path in tmp_path.iterdir()})
            synced.extend([Path(a[0]).name] if _name == "sync" else [])
            return _real(*a, **o)

        monkeypatch.setattr(module, name, around)
    save_snapshot(tmp_path, dense.config, model_tensors(dense), 2)
    *before, after = seen
    assert before == [{f".step-000002.{os.getpid()}"}] * len(before)
    assert after == {"step-000002"}
    assert {MODEL, "config.json", f".step-000002.{os.getpid()}", tmp_path.name} <= set(synced)


def test_a_full_disk_is_said_before_and_while_writing(
    dense: GPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = model_tensors(dense)
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 1000)
    with pytest.raises(RunDirectoryError, match=r"a snapshot in .* needs [\d,]+ bytes, and 1,000 are free there"):
        save_snapshot(tmp_path, dense.config, weights, 2)
    monkeypatch.undo()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot, "save_file", fail)
    with pytest.raises(RunDirectoryError, match=r"cannot write [\d,]+ bytes to .*step-000002: No space left on device"):
        save_snapshot(tmp_path, dense.config, weights, 2)
    assert list(tmp_path.iterdir()) == []
