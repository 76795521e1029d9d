"""Informed gates on the toy corpus: training tokens alone, the dense model's own inputs, runs of the three arms."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from moe_emergence.config import MoEConfig, RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import ConfigError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import upcycle
from moe_emergence.moe.centroids import centroid_gate
from moe_emergence.moe.router import routers_of
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import informed
from moe_emergence.training.informed import INFORMED_GATES, centroid_gates, informed_gates, training_rows
from moe_emergence.training.loop import train
from moe_emergence.training.tensors import MODEL

CPU = torch.device("cpu")
MOE = MoEConfig(layers=(0, 1), num_experts=4, gate_init="centroids")
GATE = "transformer.h.1.mlp.moe.router.gate.weight"


def test_rows_are_training_blocks_as_many_of_each_domain(toy_data: PreparedData, monkeypatch: Any) -> None:
    available = np.bincount(toy_data.train.domain)
    for wanted in (3, 10_000):
        monkeypatch.setattr(informed, "BLOCKS", wanted)
        rows = training_rows(toy_data)
        each = min(wanted, *available)
        assert len(set(rows.tolist())) == len(rows) == 3 * each
        assert np.bincount(toy_data.train.domain[rows]).tolist() == [each] * 3


def test_neither_dev_nor_test_documents_nor_the_probe_are_read(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    """Other held-out tokens change nothing; other training tokens do."""
    gates = centroid_gates(dense, MOE, toy_data, seed=7)
    blank = {
        name: replace(part, tokens=0 * part.tokens)
        for name, part in vars(toy_data).items()
        if name in ("dev", "test", "probe", "wide")
    }
    again = centroid_gates(dense, MOE, replace(toy_data, **blank), seed=7)
    assert all(torch.equal(gates[layer], again[layer]) for layer in (0, 1))
    shifted = replace(toy_data.train, tokens=toy_data.train.tokens[:, ::-1].copy())
    assert not torch.equal(centroid_gates(dense, MOE, replace(toy_data, train=shifted), seed=7)[1], gates[1])


def test_they_are_of_what_the_dense_model_gives_its_mlps(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    rows = training_rows(toy_data)
    tokens = torch.from_numpy(toy_data.train.tokens[rows].astype(np.int64))
    given: dict[int, torch.Tensor] = {}
    for layer in (0, 1):
        norm = dense.transformer.h[layer].ln_2
        norm.register_forward_hook(lambda m, a, out, layer=layer: _keep(given, layer, out))
    with torch.no_grad():
        dense(input_ids=tokens)
    dense.train()
    gates = centroid_gates(dense, MOE, toy_data, seed=7)
    assert dense.training, "as it was"
    for layer in (0, 1):
        hidden = given[layer].reshape(-1, 32)
        expected = centroid_gate(hidden, 4, seed=(7, 1, layer))
        assert torch.allclose(gates[layer], expected, atol=1e-4)
        assert float((hidden @ gates[layer].T).std(correction=0)) == pytest.approx(1, rel=1e-3)


def _keep(given: dict[int, torch.Tensor], layer: int, out: torch.Tensor) -> None:
    given.setdefault(layer, out.detach())


def test_the_seed_is_the_run_s(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    one, same, other = (centroid_gates(dense, MOE, toy_data, seed=seed)[1] for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_informed_gates_are_other_starts_of_the_same(
    dense: GPT2LMHeadModel, toy_data: PreparedData, monkeypatch: Any
) -> None:
    monkeypatch.setattr(informed, "INFORMED_GATES", 3)
    gates = centroid_gates(dense, MOE, toy_data, seed=0)
    model = upcycle(dense, replace(MOE, perturbation=0.0), seed=0, gates=gates, experts_implementation="eager")
    null = informed_gates(model, toy_data, device=CPU)
    assert set(null) == {0, 1}
    assert null[1].shape == (3, 4, 32)
    assert not any(torch.allclose(gate, gates[1]) for gate in null[1])
    assert informed_gates(model, toy_data, device=CPU, fit=False) == {}


# Runs


@pytest.fixture
def run(toy_data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr(informed, "INFORMED_GATES", 3)

    def call(config: RunConfig, folder: Path, **options: Any) -> Path:
        return train(config, folder, data=toy_data, console=RunConsole(quiet=True), **options).folder

    return call


STEPS = {"steps": 4, "evaluations": 3, "checkpoint_every": 2}


@pytest.mark.parametrize("change", [{}, {"gate_init": "centroids"}, {"reinit_share": 0.5}])
def test_four_steps_of_each_arm(toy_config: Any, run: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    """The informed gates are recorded of the informed arm, at both ends alone."""
    folder = run(toy_config(moe=change, training=STEPS), tmp_path / "run")
    beside = {s: load_file(folder / "traces" / f"step-{s:06d}.safetensors") for s in (0, 1, 4)}
    recorded = [s for s in beside if "informed_gates.1" in beside[s]]
    assert recorded == ([0, 4] if "gate_init" in change else [])
    for step in recorded:
        counts = beside[step]["informed_gates.1"]
        assert counts.shape[0] == 3
        assert torch.equal(counts.sum(-1), beside[step]["fresh_gates.1"][:3].sum(-1)), "every token of every document"
    origin = load_file(folder / "ancestor.safetensors")
    assert "transformer.h.1.mlp.c_fc.weight" in origin
    again = run(toy_config(moe=change, training=STEPS), tmp_path / "again")
    assert (again / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_going_on_computes_no_gates_and_is_exact(
    toy_config: Any, run: Any, tmp_path: Path, monkeypatch: Any, interrupt_in_step: Any
) -> None:
    from moe_emergence.errors import Interrupted
    from moe_emergence.training import start

    config = toy_config(moe={"gate_init": "centroids", "reinit_share": 0.5}, training=STEPS)
    whole = run(config, tmp_path / "whole")
    interrupt_in_step(3)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run")

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the checkpoint holds the gates")

    monkeypatch.setattr(start, "centroid_gates", never)
    run(config, tmp_path / "run", resume=True)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    fork = run(replace(config, training=replace(config.training, steps=1)), tmp_path / "fork", fork=whole)
    assert (fork / "traces" / "step-000000.parquet").exists()
    with pytest.raises(ConfigError, match=r"moe.gate_init 'centroids', this run 'small_random': a fork goes on"):
        run(toy_config(training=STEPS), tmp_path / "other", fork=whole)


def test_the_start_is_the_centroids(toy_config: Any, run: Any, toy_data: PreparedData, tmp_path: Path) -> None:
    from moe_emergence.models.base import load_base

    config = toy_config(moe={"gate_init": "centroids"}, training=STEPS)
    folder = run(config, tmp_path / "run")
    start = load_file(folder / "traces" / "step-000000.safetensors")["gate.1"]
    assert config.moe is not None
    gates = centroid_gates(load_base(config.base).model, config.moe, toy_data, seed=config.seed)
    assert torch.allclose(start, gates[1])


def test_a_checkpoint_loads_as_any_other(toy_config: Any, run: Any, tmp_path: Path) -> None:
    folder = run(toy_config(moe={"gate_init": "centroids", "reinit_share": 0.5}, training=STEPS), tmp_path / "run")
    newest = max((folder / "checkpoints").iterdir())
    model = GPT2MoEForCausalLM.from_pretrained(newest)
    assert torch.equal(routers_of(model)[0].gate.weight.detach(), load_file(newest / MODEL)[GATE])


def test_there_are_enough_gates_for_an_arm_among_four() -> None:
    assert 4 / (INFORMED_GATES + 1) < 0.05
