"""A run goes on only as what it was: whatever has changed is named with both values, and nothing is touched.

With `allow_inexact` it goes on, and everything made from then on says so.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from moe_emergence.config import RunConfig
from moe_emergence.errors import CheckpointError, Interrupted, RunDirectoryError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.loop import train
from moe_emergence.training.trace import METADATA

STOP = 3
CHANGES = "changes on resume refused with both values"
Config = Callable[..., RunConfig]


@dataclass(frozen=True)
class Stopped:
    """A run stopped on the way, with a corpus and a base of its own that may be changed."""

    folder: Path
    config: RunConfig


@pytest.fixture(scope="module")
def stopped(toy_folder: Path, toy_base: Path, toy_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    home = tmp_path_factory.mktemp("stopped")
    shutil.copytree(toy_folder, home / "corpus")
    shutil.copytree(toy_base, home / "base")
    config = toy_config(base=str(home / "base"), data={"corpus": str(home / "corpus")})
    patch = pytest.MonkeyPatch()
    try:
        _stop_after(patch, STOP)
        with pytest.raises(Interrupted):
            train(config, home / "run", console=RunConsole(quiet=True))
    finally:
        patch.undo()
    return Stopped(home / "run", config)


def _stop_after(patch: pytest.MonkeyPatch, step: int) -> None:
    import os
    import signal

    from moe_emergence.training.step import Stepper

    real = Stepper.take

    def take(stepper: Stepper, batch: Any) -> Any:
        metrics = real(stepper, batch)
        if batch.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    patch.setattr(Stepper, "take", take)


def in_config(group: str, **fields: Any) -> Callable[[Stopped], RunConfig]:
    """The run's configuration with other values."""

    def change(run: Stopped) -> RunConfig:
        return replace(run.config, **({group: replace(getattr(run.config, group), **fields)} if group else fields))

    return change


@contextmanager
def edited(path: Path, edit: Callable[[bytes], bytes]) -> Iterator[None]:
    """Another content for the length of the block."""
    before = path.read_bytes()
    path.write_bytes(edit(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def in_environment(name: str, value: Any) -> Callable[[Path], None]:
    """As if the run had been started on another machine."""

    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["environment"][name] = value
        path.write_text(json.dumps(manifest))

    return change


def with_prefix_space(tokenizer: bytes) -> bytes:
    return tokenizer.replace(b'"add_prefix_space": false', b'"add_prefix_space": true')


CONFIGURATION = {
    "seed": (in_config("", seed=8), "seed = 7, not 8"),
    "steps": (in_config("training", steps=9), r"training\.steps = 6, not 9"),
    "micro-batches": (in_config("training", micro_batch_size=2), r"training\.micro_batch_size = None, not 2"),
    "rate": (in_config("optimizer", learning_rate=0.1), r"optimizer\.learning_rate = 0\.002, not 0\.1"),
    "window": (in_config("moe", balance_window="sequence"), r"moe\.balance_window = 'global_batch', not 'sequence'"),
    "top-k": (in_config("moe", top_k=2), r"moe\.top_k = 1, not 2"),
    "threads": (in_config("execution", threads=2), r"execution\.threads = 1, not 2"),
    "precision": (in_config("execution", precision="bf16"), r"execution\.precision = 'fp32', not 'bf16'"),
    "experts": (
        in_config("execution", experts_implementation="eager"),
        r"experts_implementation = 'grouped_mm', not 'eager'",
    ),
}
FILES = {
    "corpus": ("data.corpus", "prose.jsonl", lambda raw: raw.replace(b"whale", b"shark"), "a corpus"),
    "tokenizer": (
        "base",
        "tokenizer.json",
        with_prefix_space,
        "a tokenizer",
    ),
    "base": ("base", "model.safetensors", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "a base"),
}
ENVIRONMENT = {"torch": "2.0.0", "cpu": "another processor", "processes": 2, "device": "NVIDIA H100"}


@pytest.fixture
def copy(stopped: Stopped, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped.folder, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the run, but for the lock and the data prepared beside it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock" and "data" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(config: RunConfig, folder: Path, message: str) -> None:
    before = contents(folder)
    with pytest.raises(RunDirectoryError, match=rf"was started with .*{message}.*--allow-inexact"):
        train(config, folder, resume=True, console=RunConsole(quiet=True))
    assert contents(folder) == before


@pytest.mark.parametrize("case", CONFIGURATION)
def test_another_configuration_is_refused(
    stopped: Stopped, copy: Path, case: str, case_of: Callable[[str], None]
) -> None:
    case_of(CHANGES)
    change, message = CONFIGURATION[case]
    refused(change(stopped), copy, message)


@pytest.mark.parametrize("case", FILES)
def test_another_corpus_tokenizer_or_base_is_refused(
    stopped: Stopped, copy: Path, case: str, case_of: Callable[[str], None]
) -> None:
    case_of(CHANGES)
    field, name, edit, what = FILES[case]
    home = Path(stopped.config.base if field == "base" else stopped.config.data.corpus)
    with edited(home / name, edit):
        refused(stopped.config, copy, rf"{what} of sha256 = \w{{16}}…, not \w{{16}}…")


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_another_environment_is_refused(
    stopped: Stopped, copy: Path, name: str, case_of: Callable[[str], None]
) -> None:
    case_of(CHANGES)
    in_environment(name, ENVIRONMENT[name])(copy)
    refused(stopped.config, copy, rf"{name} = {ENVIRONMENT[name]!r}, not ")


@pytest.mark.parametrize("case", ["threads", "precision", "experts", "micro-batches", "rate"])
def test_allow_inexact_goes_on_and_all_that_follows_says_so(stopped: Stopped, copy: Path, case: str) -> None:
    change, _ = CONFIGURATION[case]
    config = change(stopped)
    train(config, copy, resume=True, allow_inexact=True, console=RunConsole(quiet=True))
    (entry,) = json.loads((copy / "manifest.json").read_text())["inexact"]
    assert entry["step"] == STOP
    assert entry["changes"][0]["then"] != entry["changes"][0]["now"]
    newest = max((copy / "checkpoints").glob("step-*"))
    assert json.loads((newest / "manifest.json").read_text())["inexact"] == [entry]
    metadata = {
        step: json.loads(pq.read_schema(copy / "traces" / f"step-{step:06d}.parquet").metadata[METADATA])
        for step in (0, 6)
    }
    assert "inexact" not in metadata[0]
    assert metadata[6]["inexact"] is True


def test_what_was_allowed_once_is_what_the_run_is_from_then_on(
    stopped: Stopped, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on without the flag, from checkpoints before and after the change, and not back to what it was."""
    config = CONFIGURATION["experts"][0](stopped)
    _stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(config, copy, resume=True, allow_inexact=True, console=RunConsole(quiet=True))
    monkeypatch.undo()
    refused(stopped.config, copy, "experts_implementation = 'eager', not 'grouped_mm'")
    for path in (copy / "checkpoints").glob("step-00000[45]"):
        shutil.rmtree(path)
    train(config, copy, resume=True, console=RunConsole(quiet=True))
    assert len(json.loads((copy / "manifest.json").read_text())["inexact"]) == 1


def test_a_changed_corpus_may_be_allowed_too(stopped: Stopped, copy: Path) -> None:
    _, name, edit, what = FILES["corpus"]
    with edited(Path(stopped.config.data.corpus) / name, edit):
        train(stopped.config, copy, resume=True, allow_inexact=True, console=RunConsole(quiet=True))
    manifest = json.loads((copy / "manifest.json").read_text())
    assert manifest["inexact"][0]["changes"][0]["name"] == f"{what} of sha256"
    assert manifest["data"]["corpus_digest"] == manifest["inexact"][0]["changes"][0]["now"]


def test_experts_of_another_number_cannot_be_allowed(stopped: Stopped, copy: Path) -> None:
    config = in_config("moe", num_experts=6)(stopped)
    with pytest.raises(CheckpointError, match=r"has shape \(4, .*, the model's \(6, "):
        train(config, copy, resume=True, allow_inexact=True, console=RunConsole(quiet=True))


def test_a_finished_run_is_not_changed_even_so(stopped: Stopped, copy: Path) -> None:
    train(stopped.config, copy, resume=True, console=RunConsole(quiet=True))
    before = contents(copy)
    with pytest.raises(RunDirectoryError, match=r"training\.steps = 6, not 9"):
        train(CONFIGURATION["steps"][0](stopped), copy, resume=True, allow_inexact=True)
    assert contents(copy) == before


def test_a_checkpoint_of_another_run_is_refused(stopped: Stopped, copy: Path, tmp_path: Path) -> None:
    """Whole, of the right name, and of the same shapes."""
    other = replace(stopped.config, seed=8)
    train(other, tmp_path / "other", console=RunConsole(quiet=True))
    theirs = tmp_path / "other" / "checkpoints" / "step-000004"
    shutil.copytree(theirs, copy / "checkpoints" / theirs.name)
    with pytest.raises(CheckpointError, match=r"is of another run: its configuration has sha256 \w{16}…, this run's"):
        train(stopped.config, copy, resume=True, console=RunConsole(quiet=True))
