"""A run as a whole on the toy corpus: what it records, how it ends, what it may start from."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import CheckpointError, ConfigError, DataError, Interrupted, RunDirectoryError, TrainingError
from moe_emergence.models.base import load_base, weights_digest
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import collapse
from moe_emergence.training import resume as resuming
from moe_emergence.training.loop import RunSummary, train
from moe_emergence.training.step import Batch, Stepper
from moe_emergence.training.tensors import MODEL
from moe_emergence.training.trace import METADATA

Config = Callable[..., RunConfig]
Train = Callable[..., RunSummary]
GATE = "transformer.h.1.mlp.moe.router.gate.weight"


@pytest.fixture(scope="module")
def run(toy_data: PreparedData) -> Train:
    """`train` on the prepared toy data, quietly."""

    def call(config: RunConfig, folder: Path, **options: Any) -> RunSummary:
        options = {"data": toy_data, "console": RunConsole(quiet=True)} | options
        return train(config, folder, **options)

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_config: Config, run: Train) -> Path:
    """The default toy run, finished; tests read it only."""
    return run(toy_config(), tmp_path_factory.mktemp("finished") / "run").folder


def lines(folder: Path, name: str = "metrics.jsonl", **wanted: Any) -> list[dict[str, Any]]:
    """Records whose values are `wanted`."""
    records = map(json.loads, (folder / name).read_text().splitlines())
    return [line for line in records if all(line.get(key) == value for key, value in wanted.items())]


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").iterdir())
    return load_file(newest / MODEL)


def start_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in load_base(config.base).model.named_parameters()}


# What a run records


def test_every_step_is_recorded_once_in_order(finished: Path) -> None:
    assert [line["step"] for line in lines(finished, event="step")] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(line["lm_loss"]) for line in lines(finished, event="step"))
    assert lines(finished)[-1] == {"event": "end", "step": 6, "reason": "finished"}
    assert [line["step"] for line in lines(finished, "timings.jsonl", event="step")] == [1, 2, 3, 4, 5, 6]


def test_the_rate_is_the_schedule_s(finished: Path, toy_config: Config) -> None:
    rates = [line["learning_rate"] for line in lines(finished, event="step")]
    assert rates[0] == 2e-3, "a warm-up of 0.1 × 6 steps is one step, which is the peak"
    assert rates[1] == 2e-3
    assert rates[-1] == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 4 / 5)))


def test_it_looks_at_both_ends_and_on_the_grid(finished: Path) -> None:
    """Dev at every point of the grid; test, fresh gates and the wide probe at the first and the last step alone."""
    assert [line["step"] for line in lines(finished, event="evaluation", split="dev")] == [0, 2, 6]
    assert [line["step"] for line in lines(finished, event="evaluation", split="test")] == [0, 6]
    assert sorted(path.name for path in (finished / "traces").glob("*.parquet")) == [
        *(f"step-{step:06d}.parquet" for step in (0, 2, 6)),
        *(f"wide-{step:06d}.parquet" for step in (0, 6)),
    ]
    fresh = {s: f"fresh_gates.{1}" in load_file(finished / "traces" / f"step-{s:06d}.safetensors") for s in (0, 2, 6)}
    assert fresh == {0: True, 2: False, 6: True}


def test_it_evaluates_as_many_blocks_as_asked(finished: Path) -> None:
    dev, test = lines(finished, split="dev")[-1], lines(finished, split="test")[-1]
    assert set(dev["predicted_tokens"].values()) == {4 * 31}
    assert set(test["predicted_tokens"].values()) == {6 * 31}


def test_traces_are_of_the_weights_of_their_step(finished: Path, toy_data: PreparedData) -> None:
    metadata = {
        step: json.loads(pq.read_schema(finished / "traces" / f"step-{step:06d}.parquet").metadata[METADATA])
        for step in (0, 2, 6)
    }
    assert {m["data_digest"] for m in metadata.values()} == {toy_data.digest}
    assert metadata[6]["model_digest"] == weights_digest(last_weights(finished).items())
    assert len({m["model_digest"] for m in metadata.values()}) == 3


def test_the_newest_checkpoints_stay(finished: Path, toy_config: Config, run: Train, tmp_path: Path) -> None:
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"step-000004", "step-000006"}
    config = toy_config(training={"checkpoint_every": 4, "keep_checkpoints": 1}, moe=None)
    run(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-000006"}, "the last one too"


def test_timings_stay_apart(finished: Path) -> None:
    assert not any("second" in key or "memory" in key for line in lines(finished) for key in line)
    events = {line["event"] for line in lines(finished, "timings.jsonl")}
    assert events == {"step", "evaluation", "trace"}
    assert all(line["peak_memory_mib"] > 0 for line in lines(finished, "timings.jsonl", event="trace"))


def test_the_manifest_traces_results_to_their_causes(
    finished: Path, toy_config: Config, toy_data: PreparedData
) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    base = load_base(toy_config().base)
    assert manifest["base"] == {"name": base.name, "digest": base.digest, "parameters": base.model.num_parameters()}
    assert manifest["data"]["digest"] == toy_data.digest
    assert manifest["data"]["blocks_per_domain"] == toy_data.manifest["blocks_per_domain"]
    assert sum(source["documents"] for source in manifest["data"]["sources"]) == len(toy_data.documents)
    assert manifest["environment"]["torch"] == torch.__version__
    assert manifest["environment"]["device"] == "cpu"
    assert manifest["moe_layers"] == [1]
    assert manifest["forked_from"] is None
    assert manifest["parameters"] == sum(t.numel() for t in last_weights(finished).values())
    assert 0 < manifest["receipt"]["relative_logit_difference"] < 0.1


def test_the_ancestor_is_the_base_s_own_mlp(finished: Path, toy_config: Config) -> None:
    ancestor, base = load_file(finished / "ancestor.safetensors"), start_weights(toy_config())
    assert set(ancestor) == {name for name in base if name.startswith("transformer.h.1.mlp.")}
    assert all(torch.equal(ancestor[name], base[name]) for name in ancestor)


def test_the_summary_is_read_from_the_records(finished: Path, toy_config: Config, run: Train) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    summary = run(toy_config(), finished, resume=True)
    last = lines(finished, split="test")[-1]
    assert summary == RunSummary(folder=finished, steps=6, reason="finished", lm_loss_macro=last["lm_loss_macro"])
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before, "a finished run is left as it is"


# Kinds of runs


def test_a_dense_run_trains_the_base_on(toy_config: Config, run: Train, tmp_path: Path) -> None:
    config = toy_config(moe=None)
    run(config, tmp_path / "run")
    steps = lines(tmp_path / "run", event="step")
    assert set(steps[0]) == {"event", "step", "lm_loss", "objective", "gradient_norm", "learning_rate"}
    assert not (tmp_path / "run" / "ancestor.safetensors").exists()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["receipt"] is None
    before, after = start_weights(config), last_weights(tmp_path / "run")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_micro_batches_give_the_same_run(
    finished: Path, toy_config: Config, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for rounding; the toy base's dropout, which is exempt, is off."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda module, x: x)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", _without_dropout())
    found = []
    for cut in (None, 1):
        run(toy_config(training={"micro_batch_size": cut, "steps": 3}), tmp_path / str(cut))
        found.append([line["lm_loss"] for line in lines(tmp_path / str(cut), event="step")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def _without_dropout() -> Callable[..., torch.Tensor]:
    attention = torch.nn.functional.scaled_dot_product_attention

    def call(*arguments: Any, **options: Any) -> torch.Tensor:
        return attention(*arguments, **(options | {"dropout_p": 0.0}))

    return call


@pytest.mark.parametrize("router", ["learned", "frozen"])
def test_a_frozen_gate_does_not_move(toy_config: Config, run: Train, tmp_path: Path, router: str) -> None:
    folder = tmp_path / "run"
    run(toy_config(moe={"router": router}, training={"checkpoint_every": 1, "keep_checkpoints": 9}), folder)
    first, last = (load_file(folder / "checkpoints" / f"step-{step:06d}" / MODEL) for step in (1, 6))
    assert torch.equal(first[GATE], last[GATE]) == (router == "frozen")
    experts = "transformer.h.1.mlp.moe.experts.up_proj"
    assert not torch.equal(first[experts], last[experts])


def test_prepares_the_data_itself_where_none_is_given(
    toy_config: Config, run: Train, finished: Path, tmp_path: Path
) -> None:
    run(toy_config(), tmp_path / "run", data=None)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


# Collapse


@pytest.fixture
def collapsing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Windows of one step, and a router that sends nearly every token to expert 2."""
    monkeypatch.setattr(collapse.CollapseDetector, "__init__", _with_window(128))
    real = resuming.starting_model

    def start(*arguments: Any, **options: Any) -> Any:
        begun = real(*arguments, **options)
        layer = begun.model.transformer.h[1]
        with torch.no_grad():  # the layer norm before it has unit variance: a bias along row 2 of the gate wins
            gate = layer.mlp.moe.router.gate.weight
            layer.ln_2.bias += 20 * gate[2] / gate[2].norm()
            gate[[0, 1, 3]] = -gate[2]
        return begun

    monkeypatch.setattr(resuming, "starting_model", start)
    return {"noise_std": 0.0, "balance_coef": 0.0, "z_coef": 0.0}


def _with_window(size: int) -> Callable[..., None]:
    init = collapse.CollapseDetector.__init__

    def call(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **(options | {"window": size}))

    return call


def test_a_collapse_that_may_end_the_run_does(
    toy_config: Config, run: Train, tmp_path: Path, collapsing: dict[str, Any]
) -> None:
    """Reason, step, layer and expert are kept; the step it ends at, which no grid holds, is evaluated as a last one."""
    folder = tmp_path / "run"
    config = toy_config(moe=collapsing, training={"stop_on_collapse": True, "evaluations": 2})
    summary = run(config, folder)
    assert (summary.steps, summary.reason) == (2, "collapse")
    end = lines(folder)[-1]
    assert {key: end[key] for key in ("event", "step", "reason", "layer", "expert")} == {
        "event": "end",
        "step": 2,
        "reason": "collapse",
        "layer": 1,
        "expert": 2,
    }
    assert "expert 2 takes 100% of the assignments" in end["detail"]
    assert [(line["step"], line["state"]) for line in lines(folder, event="collapse")] == [
        (1, "warning"),
        (2, "collapsed"),
    ]
    assert [line["step"] for line in lines(folder, split="test")] == [0, 2]
    assert "fresh_gates.1" in load_file(folder / "traces" / "step-000002.safetensors")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]
    assert run(config, folder, resume=True) == summary


def test_a_collapse_is_recorded_and_no_more_unless_asked(
    toy_config: Config, run: Train, tmp_path: Path, collapsing: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    assert run(toy_config(moe=collapsing, training={"steps": 3}), folder).reason == "finished"
    assert [line["state"] for line in lines(folder, event="collapse")] == ["warning", "collapsed"]


def test_the_reference_rule_is_an_option(
    toy_config: Config, run: Train, tmp_path: Path, collapsing: dict[str, Any]
) -> None:
    training = {"stop_on_collapse": True, "collapse_rule": "reference"}
    assert run(toy_config(moe=collapsing, training=training), tmp_path / "run").steps == 3


# Forks


def test_a_fork_starts_from_the_last_weights(toy_config: Config, run: Train, finished: Path, tmp_path: Path) -> None:
    """MoE to MoE, `layers` named or not; the first evaluation is the parent's last."""
    folder = tmp_path / "fork"
    config = toy_config(name="fork", moe={"layers": None, "balance_coef": 0.0}, training={"steps": 2})
    run(config, folder, fork=finished)
    parent, child = lines(finished, split="test")[-1], lines(folder, split="test")[0]
    assert child["lm_loss"] == pytest.approx(parent["lm_loss"], rel=1e-6)
    assert child["routing"][0]["assignments"] == parent["routing"][0]["assignments"]
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = hashlib.sha256((finished / "checkpoints" / "step-000006" / MODEL).read_bytes()).hexdigest()
    assert manifest["forked_from"] == {"run": str(finished.resolve()), "step": 6, "weights": weights}
    assert (folder / "ancestor.safetensors").read_bytes() == (finished / "ancestor.safetensors").read_bytes()


def test_a_dense_run_forks_into_experts(toy_config: Config, run: Train, tmp_path: Path) -> None:
    dense, folder = tmp_path / "dense", tmp_path / "fork"
    run(toy_config(moe=None, training={"steps": 2}), dense)
    run(toy_config(moe={"perturbation": 0.0}, training={"steps": 1}), folder, fork=dense)
    before, after = lines(dense, split="test")[-1], lines(folder, split="test")[0]
    assert after["lm_loss"] == pytest.approx(before["lm_loss"], rel=1e-5)
    ancestor, trained = load_file(folder / "ancestor.safetensors"), last_weights(dense)
    assert ancestor
    assert all(torch.equal(ancestor[name], trained[name]) for name in ancestor)
    assert not torch.equal(
        ancestor["transformer.h.1.mlp.c_fc.weight"], start_weights(toy_config())["transformer.h.1.mlp.c_fc.weight"]
    )


@pytest.mark.parametrize(
    ("moe", "given"),
    [
        ({"num_experts": 8}, "8 experts in blocks 1"),
        ({"layers": (0, 1)}, "4 experts in blocks 0, 1"),
        (None, "no experts"),
    ],
)
def test_a_fork_with_other_experts_is_refused_with_both(
    toy_config: Config, run: Train, finished: Path, tmp_path: Path, moe: Any, given: str
) -> None:
    with pytest.raises(ConfigError, match=rf"has 4 experts in blocks 1, this run has {given}: "):
        run(toy_config(moe=moe), tmp_path / "fork", fork=finished)


def test_a_fork_of_nothing_is_refused(toy_config: Config, run: Train, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no run in"):
        run(toy_config(), tmp_path / "fork", fork=tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(ConfigError, match="has no checkpoint to start from"):
        run(toy_config(), tmp_path / "fork", fork=tmp_path / "begun")


@pytest.mark.parametrize("experts", [True, False])
def test_a_fork_of_damaged_weights_is_refused(toy_config: Config, run: Train, tmp_path: Path, experts: bool) -> None:
    parent = tmp_path / "parent"
    config = toy_config(training={"steps": 1}) if experts else toy_config(training={"steps": 1}, moe=None)
    run(config, parent)
    file = parent / "checkpoints" / "step-000001" / MODEL
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CheckpointError, match=f"{MODEL} is damaged"):
        run(toy_config(), tmp_path / "fork", fork=parent)


# Continued


@pytest.fixture
def interrupted(run: Train, interrupt_in_step: Callable[..., None]) -> Callable[..., None]:
    """Train until Ctrl-C comes in a step."""

    def call(config: RunConfig, folder: Path, after: int, **options: Any) -> None:
        interrupt_in_step(after)
        with pytest.raises(Interrupted, match=rf"stopped at step {after} of 6, all of it kept in .*--resume"):
            run(config, folder, **options)

    return call


def test_a_request_is_answered_after_the_step_with_a_checkpoint(
    toy_config: Config, interrupted: Callable[..., None], tmp_path: Path
) -> None:
    interrupted(toy_config(), tmp_path / "run", after=3)
    assert lines(tmp_path / "run", event="step")[-1]["step"] == 3
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-000002", "step-000003"}
    assert not lines(tmp_path / "run", event="end")


def test_a_request_at_the_last_step_is_answered_too(
    toy_config: Config, run: Train, tmp_path: Path, interrupt_in_step: Callable[..., None]
) -> None:
    """Its evaluation may take longer than a scheduler waits."""
    interrupt_in_step(1)
    with pytest.raises(Interrupted, match="stopped at step 1 of 1"):
        run(toy_config(training={"steps": 1}), tmp_path / "run")
    assert run(toy_config(training={"steps": 1}), tmp_path / "run", resume=True).reason == "finished"


def test_a_used_folder_is_refused_and_left_alone(toy_config: Config, run: Train, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(RunDirectoryError, match="already used"):
        run(toy_config(), finished)
    with pytest.raises(RunDirectoryError, match=r"training\.steps = 6, not 7"):
        run(toy_config(training={"steps": 7}), finished, resume=True)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_file_in_the_folder_s_place_is_refused(toy_config: Config, run: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunDirectoryError, match=str(tmp_path / "file")):
            run(toy_config(), tmp_path / "file", resume=resume)


def test_a_run_does_not_go_on_with_other_data_or_another_base(
    toy_config: Config, run: Train, interrupted: Callable[..., None], toy_data: PreparedData, tmp_path: Path
) -> None:
    """The settings are the same, what they point to is not."""
    from dataclasses import replace

    folder = tmp_path / "run"
    interrupted(toy_config(), folder, after=2)
    with pytest.raises(
        RunDirectoryError, match=rf"was started with prepared data of sha256 = {toy_data.digest[:16]}…, not 0{{16}}…"
    ):
        run(toy_config(), folder, resume=True, data=replace(toy_data, digest="0" * 64))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["base"]["digest"] = "f" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunDirectoryError, match=r"was started with a base of sha256 = f{16}…, not \w{16}…"):
        run(toy_config(), folder, resume=True)


def test_a_fork_goes_on_as_a_fork(
    toy_config: Config, run: Train, interrupted: Callable[..., None], finished: Path, tmp_path: Path
) -> None:
    """Also where it was cut off before its first checkpoint, and its parent need not be named again."""
    folder, whole = tmp_path / "cut", tmp_path / "whole"
    config = toy_config(training={"checkpoint_every": 6})
    run(config, whole, fork=finished)
    interrupted(config, folder, after=1, fork=finished)
    for checkpoint in (folder / "checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    run(config, folder, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_fork_does_not_go_on_as_one_of_another_run(
    toy_config: Config, run: Train, interrupted: Callable[..., None], finished: Path, tmp_path: Path
) -> None:
    interrupted(toy_config(), tmp_path / "run", after=1)
    with pytest.raises(RunDirectoryError, match=f"was not started from .*{finished.name}"):
        run(toy_config(), tmp_path / "run", resume=True, fork=finished)


def test_a_damaged_checkpoint_is_set_aside_loudly_and_the_one_before_it_used(
    toy_config: Config,
    run: Train,
    interrupted: Callable[..., None],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the same end, also where the run is quiet."""
    folder = tmp_path / "run"
    interrupted(toy_config(), folder, after=3)
    file = folder / "checkpoints" / "step-000003" / MODEL
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    run(toy_config(), folder, resume=True)
    said = capsys.readouterr().err
    assert f"warning: {file} is damaged" in said
    assert "Set aside as damaged-step-000003; going on from step-000002" in said
    assert (folder / "checkpoints" / "damaged-step-000003").is_dir()
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


# Refused


def test_blocks_longer_than_the_base_s_context_are_refused(
    toy_config: Config, run: Train, toy_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"data\.block_size must be at most 32, the context of the base .*; got 64"):
        run(toy_config(data={"block_size": 64}), tmp_path / "run", data=None)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"moe": {"layers": (2,)}}, ConfigError, r"moe\.layers must lie between 0 and 1"),
        ({"data": {"corpus": "/no/such/folder"}}, DataError, "/no/such/folder is not a folder"),
        ({"data": {"probe_tokens": 1}}, DataError, r"data\.probe_tokens must be at least 3"),
    ],
)
def test_a_run_refused_before_it_began_leaves_its_folder_free(
    toy_config: Config, run: Train, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(toy_config(**changes), tmp_path / "run", data=None)
    assert not (tmp_path / "run").exists() or not os.listdir(tmp_path / "run")


def test_a_run_that_diverges_says_so_and_keeps_what_it_had(
    toy_config: Config, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stepper.take

    def take(stepper: Stepper, batch: Batch) -> Any:
        if batch.step == 2:
            with torch.no_grad():
                stepper.model.transformer.ln_f.weight.fill_(torch.inf)
        return real(stepper, batch)

    monkeypatch.setattr(Stepper, "take", take)
    with pytest.raises(TrainingError, match=r"3 steps in a row, up to step 5, were not finite \(lm_loss.*--from"):
        run(toy_config(), tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run", event="step")] == [1, 2]
    assert [line["in_a_row"] for line in lines(tmp_path / "run", event="skipped")] == [1, 2, 3]
    diagnosis = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert diagnosis["step"] == 5
    assert diagnosis["last_metrics"]["step"] == 2
    assert len(diagnosis["skipped"]) == 3
    assert diagnosis["config"] == to_dict(toy_config())
