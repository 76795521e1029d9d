"""All causal tests of a toy run: kept, read again, and refused where something does not fit."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from moe_emergence.analysis.causal import measured, tables
from moe_emergence.analysis.causal.tables import CausalTables, causal_tables
from moe_emergence.config import to_dict
from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import StopAsked, stop_requests
from moe_emergence.models.base import load_base, weights_digest
from moe_emergence.models.upcycle import ancestor_state, upcycle
from moe_emergence.training.checkpoint import save_checkpoint
from moe_emergence.training.start import save_ancestor
from moe_emergence.training.tensors import model_tensors, optimizer_tensors
from moe_emergence.training.trace import METADATA
from moe_emergence.training.trained import load_trained


def write_facts(trace: Path, facts: dict[str, Any]) -> None:
    """A trace that says what it is of, and no more."""
    pq.write_table(pa.table({"doc": [0]}).replace_schema_metadata({METADATA: json.dumps(facts)}), trace)


@pytest.fixture
def make_run(toy_config, toy_data, tmp_path) -> Callable[..., Any]:
    """A run of 5 steps that ended in a randomly changed model."""

    def make(**moe: Any) -> Any:
        config = toy_config(moe=moe)
        base = load_base(config.base)
        model = upcycle(base.model, config.moe, seed=1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.transformer.h[1].mlp.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        folder = tmp_path / "run"
        (folder / "traces").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        save_ancestor(folder, ancestor_state(base.model, (1,)))
        optimizer = torch.optim.SGD(
            [{"params": [*model.parameters()], "names": [n for n, _ in model.named_parameters()]}]
        )
        save_checkpoint(
            folder / "checkpoints", model.config, model_tensors(model), optimizer_tensors(optimizer), {"step": 5}
        )
        gate = np.random.default_rng(0).normal(size=(config.moe.num_experts, 32)).astype(np.float32)
        save_file({"gate.1": gate}, folder / "traces" / "step-000000.safetensors")
        save_file({"gate.1": gate}, folder / "traces" / "step-000005.safetensors")
        save_file({"mean_probabilities.1": gate}, folder / "traces" / "step-000002.safetensors")
        for step in (0, 2, 5):
            write_facts(folder / "traces" / f"step-{step:06d}.parquet", {"step": step})
        manifest = SimpleNamespace(data=SimpleNamespace(digest=toy_data.digest), moe_layers=(1,))
        return SimpleNamespace(arm="moe", seed=1, folder=folder, last_step=5, manifest=manifest)

    return make


def test_a_run_is_measured_once(make_run, toy_data, monkeypatch) -> None:
    run, told = make_run(), []
    found = causal_tables(run, toy_data, progress=lambda done, total: told.append((done, total)))
    domains = 3
    assert len(found.knockouts) == 5 * 4 * (domains + 1)
    assert len(found.specificity) == 5
    assert len(found.doses) == 6 * (domains + 1)
    assert len(found.regret) == domains + 1
    assert len(found.retention) == domains * 3 * 3
    assert [(row.gates_of_step, row.domain) for row in found.transplants] == [
        (0, domain) for domain in (*toy_data.domains, None)
    ]
    assert {(r.arm, r.seed, r.step) for rows in vars(found).values() for r in rows} == {("moe", 1, 5)}
    assert {r.layer for r in (*found.knockouts, *found.specificity, *found.doses, *found.regret)} == {1}
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    tokens = int((toy_data.probe.length - 1).clip(min=0).sum())
    macro = [r for r in found.knockouts if r.domain is None and r.intervention == "zero"]
    assert sum(r.affected for r in macro) == tokens == found.regret[-1].tokens
    before = (run.folder / "analysis" / "causal.safetensors").read_bytes()
    monkeypatch.setattr(measured, "knockout_matrix", None)  # nothing is computed again
    monkeypatch.setattr(measured, "regret_sums", None)
    told.clear()
    assert causal_tables(run, toy_data, progress=lambda *done: told.append(done)) == found
    assert told[-1][0] == told[-1][1]
    assert (run.folder / "analysis" / "causal.safetensors").read_bytes() == before


def test_what_it_was_made_from_decides_what_is_read(make_run, toy_data) -> None:
    run = make_run()
    path, parts = run.folder / "analysis" / "causal.safetensors", ("knockout",)
    first = causal_tables(run, toy_data, parts=parts, interventions=("swap",))
    kept = load_file(path)
    other = causal_tables(run, toy_data, parts=parts, interventions=("swap",), seed=9)
    assert other != first
    assert (load_file(path)["knockout-swap.change"] != kept["knockout-swap.change"]).any()
    path.write_bytes(path.read_bytes()[:-40])  # torn
    assert causal_tables(run, toy_data, parts=parts, interventions=("swap",)) == first
    weights = run.folder / "checkpoints" / "step-000005" / "model.safetensors"
    changed = load_file(weights)
    name = "transformer.h.1.mlp.moe.experts.down_proj"
    save_file(changed | {name: 2 * changed[name]}, weights)
    snapshot = causal_tables(run, toy_data, weights=weights.parent, step=3, parts=parts, interventions=("next",))
    assert {row.step for row in snapshot.knockouts} == {3}
    assert (run.folder / "analysis" / "causal-step-000003.safetensors").exists()
    assert not (run.folder / "analysis" / ".causal.safetensors").exists()


def test_fewer_interventions_leave_the_others_kept_and_more_are_added_to_them(make_run, toy_data, monkeypatch) -> None:
    run, made = make_run(), []
    matrix = measured.knockout_matrix

    def counted(subject, documents, surveyed, interventions, *more):
        made.append(tuple(interventions))
        return matrix(subject, documents, surveyed, interventions, *more)

    monkeypatch.setattr(measured, "knockout_matrix", counted)
    few = causal_tables(run, toy_data, parts=("knockout",), interventions=("next", "ancestor"))
    every = causal_tables(run, toy_data, parts=("knockout",))
    before = (run.folder / "analysis" / "causal.safetensors").read_bytes()
    assert causal_tables(run, toy_data, parts=("knockout",), interventions=("next", "ancestor")) == few
    assert (run.folder / "analysis" / "causal.safetensors").read_bytes() == before
    assert made == [("next", "ancestor"), ("zero", "swap", "mean")]
    assert [row for row in every.knockouts if row.intervention in ("next", "ancestor")] == list(few.knockouts)
    (run.folder / "analysis" / "causal.safetensors").unlink()
    assert causal_tables(run, toy_data, parts=("knockout",)) == every  # all at once says the same


def test_a_part_is_added_to_those_kept(make_run, toy_data) -> None:
    run = make_run()
    causal_tables(run, toy_data, parts=("regret",))
    found = causal_tables(run, toy_data, parts=("dose", "regret"))
    names = set(load_file(run.folder / "analysis" / "causal.safetensors"))
    assert names == {"regret.regret", "dose.dose"}
    assert found.regret
    assert not found.knockouts
    at_1 = [row for row in found.doses if row.dose == 1]
    assert all((row.effect, row.low, row.high) == (0, 0, 0) for row in at_1)


@pytest.mark.parametrize(
    ("moe", "empty"),
    [
        ({"top_k": 4}, {"regret", "specificity_draws", "specialists"}),
        ({"router": "hash"}, {"transplants"}),
        ({"top_k": 2, "bias_rate": 1e-3}, set()),
    ],
)
def test_what_is_impossible_is_empty(moe, empty, make_run, toy_data) -> None:
    found = causal_tables(make_run(**moe), toy_data)
    assert {field.name for field in dataclasses.fields(found) if not getattr(found, field.name)} == empty
    interventions = {row.intervention for row in found.knockouts}
    assert interventions == ({"zero", "mean", "ancestor"} if "regret" in empty else set(tables.INTERVENTIONS))


def test_what_does_not_fit_is_refused(make_run, toy_data) -> None:
    run = make_run()
    with pytest.raises(AnalysisError, match=r"zero, next, swap, mean, ancestor; got knock"):
        causal_tables(run, toy_data, interventions=("zero", "knock"))
    with pytest.raises(AnalysisError, match=r"parts must be some of .*; got none"):
        causal_tables(run, toy_data, parts=())
    with pytest.raises(AnalysisError, match="go together"):
        causal_tables(run, toy_data, step=3)
    with pytest.raises(AnalysisError, match="was made on data"):
        causal_tables(run, dataclasses.replace(toy_data, digest="0" * 64))
    (run.folder / "ancestor.safetensors").unlink()
    with pytest.raises(AnalysisError, match=r"ancestor\.safetensors is missing"):
        causal_tables(run, toy_data)
    assert causal_tables(run, toy_data, parts=("knockout",), interventions=("zero",)).knockouts


def test_weights_of_another_model_than_the_traces_are_refused(make_run, toy_data) -> None:
    """As where another seed's checkpoint was copied into the run."""
    run, parts = make_run(), ("regret",)
    checkpoint = run.folder / "checkpoints" / "step-000005"

    def record(digest: str, step: int) -> None:
        write_facts(run.folder / "traces" / f"step-{step:06d}.parquet", {"model_digest": digest})

    own = weights_digest(model_tensors(load_trained(checkpoint)[0]).items())
    record(own, 5)
    assert causal_tables(run, toy_data, parts=parts).regret
    before = (run.folder / "analysis" / "causal.safetensors").read_bytes()
    record("0" * 64, 5)
    with pytest.raises(AnalysisError, match=rf"digest {own[:16]}, but the trace of step 5 was made with 0000"):
        causal_tables(run, toy_data, parts=parts)
    assert (run.folder / "analysis" / "causal.safetensors").read_bytes() == before
    record("1" * 64, 3)
    with pytest.raises(AnalysisError, match=rf"{checkpoint} holds .*the trace of step 3 was made with 1111"):
        causal_tables(run, toy_data, weights=checkpoint, step=3, parts=parts)


def test_gates_of_another_run_are_not_transplanted(make_run, toy_data) -> None:
    run = make_run()
    neighbour = run.folder / "traces" / "step-000000.safetensors"
    save_file(load_file(neighbour), neighbour, {METADATA.decode(): json.dumps({"step": 7})})
    with pytest.raises(AnalysisError, match=r"step-000000\.safetensors: 'step' is 7, but step-000000\.parquet has 0"):
        causal_tables(run, toy_data, parts=("transplant",))


def test_without_experts_or_documents_there_is_nothing(make_run, toy_data) -> None:
    run = make_run()
    run.manifest.moe_layers = ()
    assert causal_tables(run, toy_data) == CausalTables()
    run.manifest.moe_layers = (1,)
    probe = toy_data.probe
    places = np.flatnonzero((probe.domain != 1) | (np.cumsum(probe.domain == 1) <= 1))
    one = dataclasses.replace(
        probe,
        **{name: getattr(probe, name)[places] for name in ("tokens", "length", "document", "domain")},
        texts=tuple(probe.texts[place] for place in places),
    )
    assert causal_tables(run, dataclasses.replace(toy_data, probe=one)) == CausalTables()


def test_a_signal_stops_it_and_keeps_what_is_finished(make_run, toy_data) -> None:
    run = make_run()

    def interrupt(done: int, total: int) -> None:
        if done > told[0]:
            os.kill(os.getpid(), signal.SIGINT)

    told = [0]
    causal_tables(run, toy_data, parts=("regret",), progress=lambda done, total: told.__setitem__(0, done))
    path: Path = run.folder / "analysis" / "causal.safetensors"
    before = path.read_bytes()
    told[0] = 3
    with stop_requests(), pytest.raises(StopAsked):
        causal_tables(run, toy_data, parts=("knockout",), progress=interrupt)
    assert path.read_bytes() == before
