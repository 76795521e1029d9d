"""A run whose router is told the domain: who goes where, that no router loss acts, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import Interrupted, ModelError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.loop import train
from moe_emergence.training.tensors import MODEL

Config = Callable[..., RunConfig]
ORACLE = {"router": "domain", "num_experts": 7, "layers": (1,)}
OWN = {0: {0, 1}, 1: {2, 3}, 2: {4, 5, 6}}


def run(config: RunConfig, folder: Path, data: PreparedData, **options: Any) -> Path:
    return train(config, folder, data=data, console=RunConsole(quiet=True), **options).folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_config: Config, toy_data: PreparedData) -> Path:
    return run(toy_config(moe=ORACLE), tmp_path_factory.mktemp("oracle") / "run", toy_data)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max((folder / "checkpoints").iterdir()) / MODEL)


def test_every_probe_token_goes_to_an_expert_of_its_domain(finished: Path) -> None:
    for path in sorted((finished / "traces").glob("*.parquet")):
        table = pq.read_table(path)
        expert, domain = table["e1_0"].to_numpy(), table["domain"].to_numpy()
        assert {number: set(expert[domain == number].tolist()) for number in OWN} == OWN, path.name


def test_evaluations_count_experts_by_domain(finished: Path) -> None:
    looks = [line for line in lines(finished) if line["event"] == "evaluation"]
    for line in looks:
        counts = np.array(line["routing"][0]["assignments"])
        assert all(set(np.flatnonzero(counts[number]).tolist()) <= OWN[number] for number in OWN)
    assert len(looks) > 2


def test_no_router_loss_acts(finished: Path) -> None:
    steps = [line for line in lines(finished) if line["event"] == "step"]
    assert all(line["objective"] == line["lm_loss"] for line in steps)
    gate = "transformer.h.1.mlp.moe.router.gate.weight"
    snapshots = sorted((finished / "snapshots").iterdir())
    assert torch.equal(load_file(snapshots[0] / MODEL)[gate], last_weights(finished)[gate]), "the gate is not used"


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_take_the_same_step(
    finished: Path, toy_config: Config, toy_data: PreparedData, tmp_path: Path, size: int
) -> None:
    """Each micro-batch is told its own sequences' domains. (The toy base has dropout, which goes by the cut.)"""
    cut = run(toy_config(moe=ORACLE, training={"micro_batch_size": size, "steps": 1}), tmp_path / "cut", toy_data)
    for path in (cut / "traces").glob("step-*.parquet"):
        table = pq.read_table(path)
        assert set(table["e1_0"].to_numpy()[table["domain"].to_numpy() == 2].tolist()) == OWN[2]
    first = next(line for line in lines(cut) if line["event"] == "step")
    whole = next(line for line in lines(finished) if line["event"] == "step")
    loads = [name for name in whole if name.endswith("_load")]
    assert loads
    assert {name: first[name] for name in loads} == pytest.approx({name: whole[name] for name in loads})


def test_stopping_and_going_on_changes_nothing(
    finished: Path, toy_config: Config, toy_data: PreparedData, tmp_path: Path, interrupt_in_step: Callable[[int], None]
) -> None:
    interrupt_in_step(3)
    with pytest.raises(Interrupted):
        run(toy_config(moe=ORACLE), tmp_path / "run", toy_data)
    again = run(toy_config(moe=ORACLE), tmp_path / "run", toy_data, resume=True)
    one, other = last_weights(finished), last_weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert lines(finished) == lines(again)


def test_fewer_experts_than_domains_are_refused_and_leave_nothing(
    toy_config: Config, toy_data: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"2 experts divided among 3 domains leave 0 .* moe\.num_experts at least 3"):
        run(toy_config(moe=ORACLE | {"num_experts": 2}), tmp_path / "run", toy_data)
    assert not any((tmp_path / "run").iterdir())
