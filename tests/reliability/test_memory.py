"""Out of memory, wherever it strikes: a clean stop with advice, and the same run once there is enough."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import TrainingError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import checkpoint, look, tensors
from moe_emergence.training.loop import train
from moe_emergence.training.step import Stepper

CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4194304 bytes. Error code 12")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")
Train = Callable[[Path], None]

CASES = {
    "forward": (Stepper, "_forward", CPU, 9, "in the update"),
    "update": (torch.optim.AdamW, "step", CUDA, 3, "in the update"),
    "evaluation": (look, "evaluate", CPU, 3, "in the evaluation"),
    "trace": (look, "write_trace", MemoryError(), 2, "in the evaluation"),
    "gathering a checkpoint": (tensors, "optimizer_tensors", CUDA, 2, "while saving"),
    "writing a checkpoint": (checkpoint, "save_file", CPU, 3, "while saving"),
}
"""What is called, the error, in which of its calls (from 1), and how the message says where."""


@pytest.fixture(scope="module")
def run(toy_config: Callable[..., RunConfig], toy_data: PreparedData) -> Train:
    config = toy_config(training={"micro_batch_size": 2})

    def call(folder: Path) -> None:
        train(config, folder, data=toy_data, resume=True, console=RunConsole(quiet=True))

    return call


@pytest.fixture(scope="module")
def whole(run: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_out_of_memory_is_a_clean_stop(
    case: str, run: Train, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case_of: Callable[[str], None]
) -> None:
    case_of("out of memory, stopped with advice and bit-equal once there is enough")
    owner, name, error, number, where = CASES[case]
    _fail(monkeypatch, owner, name, error, number)
    advice = (
        r"A forward holds 2 of the step's 4 sequences: continue with --training\.micro_batch_size 1 --allow-inexact"
    )
    with pytest.raises(
        TrainingError, match=rf"step \d, {where}: out of memory.*{advice}.*last checkpoint is as it was"
    ):
        run(tmp_path / "run")
    monkeypatch.undo()
    run(tmp_path / "run")
    last = Path("checkpoints") / "step-000006"
    for file in (
        "metrics.jsonl",
        *(last / name for name in ("model.safetensors", "optimizer.safetensors", "state.json")),
    ):
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def _fail(patch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, number: int) -> None:
    real, calls = getattr(owner, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            raise error
        return real(*arguments, **options)

    patch.setattr(owner, name, call)
