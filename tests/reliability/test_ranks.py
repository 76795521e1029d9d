"""One run on two processes: a death hangs nobody and costs nothing, and a fault of one process is everyone's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.data.blocks import PreparedData
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.loop import train

WORKER = Path(__file__).with_name("rank_worker.py")
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone")
HANG = 60
"""Seconds in which every process must have ended after one of them died."""
TOLERANCE = 1e-5
"""Largest relative difference of any number in metrics.jsonl between two processes and one, in fp32."""
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
Config = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def config(toy_config: Config) -> Callable[[str], RunConfig]:
    """Eight steps of a global batch of 4 in micro-batches of 1; dropout is off: several processes draw their own."""

    def make(parallel: str) -> RunConfig:
        base = toy_config(
            training={"steps": 8, "micro_batch_size": 1, "checkpoint_every": 3, "evaluations": 3},
            execution={"parallel": parallel},
        )
        return base

    return make


@pytest.fixture(scope="module")
def without_dropout(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    folder = Path(shutil.copytree(toy_base, tmp_path_factory.mktemp("base") / "base"))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}))
    return folder


def launch(config: RunConfig, folder: Path, fault: dict[str, Any], processes: int = 2) -> tuple[int, str, float]:
    """Exit code, what was said, seconds."""
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        *LAUNCH,
        f"--nproc_per_node={processes}",
        str(WORKER),
        json.dumps(to_dict(config)),
        str(folder),
        json.dumps(fault),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    return ended.returncode, ended.stdout + ended.stderr, time.monotonic() - began


@pytest.fixture(scope="module")
def whole(
    config: Callable[[str], RunConfig], without_dropout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[RunConfig, Path, float]]:
    """An uninterrupted run on two processes, each way once: its configuration, folder and seconds."""
    done: dict[tuple[str, int], tuple[RunConfig, Path, float]] = {}

    def call(parallel: str, processes: int = 2) -> tuple[RunConfig, Path, float]:
        if (parallel, processes) not in done:
            mine = replace(config(parallel), base=str(without_dropout))
            mine = replace(mine, training=replace(mine.training, batch_size=2 * processes))
            folder = tmp_path_factory.mktemp(parallel) / "run"
            code, said, seconds = launch(mine, folder, {}, processes)
            assert code == 0, said
            done[parallel, processes] = mine, folder, seconds
        return done[parallel, processes]

    return call


def same(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    last = max((one / "checkpoints").glob("step-*")).name
    for name in FILES:
        assert (one / "checkpoints" / last / name).read_bytes() == (other / "checkpoints" / last / name).read_bytes()
    for trace in (one / "traces").iterdir():
        assert trace.read_bytes() == (other / "traces" / trace.name).read_bytes()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_are_one_but_for_rounding(
    whole: Callable[..., tuple[RunConfig, Path, float]],
    parallel: str,
    toy_data: PreparedData,
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    """Every loss, load, entropy and evaluation of the run; the same micro-batches, summed in another order."""
    config, folder, _ = whole(parallel)
    train(config, tmp_path / "one", data=toy_data, console=RunConsole(quiet=True))
    records = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (folder, tmp_path / "one")
    ]
    largest = 0.0
    for two, one in zip(*records, strict=True):
        assert (two["event"], two["step"]) == (one["event"], one["step"])
        for name, value in one.items():
            if isinstance(value, float):
                largest = max(largest, abs(two[name] - value) / max(abs(value), 1e-6))
    assert largest <= TOLERANCE
    figure(
        f"2 processes, {parallel}: metrics of one process within {largest:.1e} (relative, fp32, at most {TOLERANCE})"
    )


@pytest.mark.parametrize(
    ("parallel", "processes", "dying", "step"),
    [
        ("ddp", 3, [1], 5),
        pytest.param("fsdp2", 2, [0], 5, marks=pytest.mark.long),
        pytest.param("ddp", 2, [0], 2, marks=pytest.mark.long),
        pytest.param("ddp", 2, [1], 5, marks=pytest.mark.long),
        pytest.param("ddp", 2, [0, 1], 7, marks=pytest.mark.long),
        pytest.param("fsdp2", 2, [1], 8, marks=pytest.mark.long),
        pytest.param("fsdp2", 2, [0, 1], 4, marks=pytest.mark.long),
        pytest.param("fsdp2", 3, [2], 4, marks=pytest.mark.long),
    ],
)
def test_a_death_hangs_nobody_and_costs_nothing(
    whole: Callable[..., tuple[RunConfig, Path, float]],
    parallel: str,
    processes: int,
    dying: list[int],
    step: int,
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    """Three processes too: sums of two are the same in any order, and would hide that they were made in another."""
    config, folder, seconds = whole(parallel, processes)
    code, said, until_dead = launch(config, tmp_path / "run", {"kill": dying, "step": step}, processes)
    assert code != 0, said
    assert until_dead < seconds + HANG, "a process waited for the dead"
    code, said, _ = launch(config, tmp_path / "run", {}, processes)
    assert code == 0, said
    same(folder, tmp_path / "run")
    who = "both" if len(dying) == 2 else f"rank {dying[0]}"
    figure(f"{processes} processes, {parallel}: {who} killed in step {step}, no hang, bit-equal after resume")


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp2", marks=pytest.mark.long)])
def test_nan_in_one_process_is_skipped_in_all(
    whole: Callable[..., tuple[RunConfig, Path, float]],
    parallel: str,
    tmp_path: Path,
    case_of: Callable[[str], None],
) -> None:
    """On rank 1 only: the first process must not take the step that the second one cannot."""
    case_of("losses and gradients not finite, never in the weights")
    config, _, _ = whole(parallel)
    code, said, _ = launch(config, tmp_path / "run", {"poison": 1, "steps": [2, 5]})
    assert code == 0, said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "skipped"] == [2, 5]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 3, 4, 6, 7, 8]
    files = (tmp_path / "run" / "checkpoints").glob("step-*/*.safetensors")
    assert all(bool(tensor.isfinite().all()) for file in files for tensor in load_file(file).values())
