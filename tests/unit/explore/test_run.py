"""Which runs can be explored, and what is said of others."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import CONTEXT, EXPERTS, LAYERS, STEPS, write_run

from moe_emergence.errors import CheckpointError, MoEEmergenceError
from moe_emergence.explore import run as runs
from moe_emergence.explore.explorer import Explorer
from moe_emergence.explore.run import Models, Shape, open_run


def test_every_kept_step_is_listed_once(tiny_run: Path) -> None:
    run = open_run(tiny_run)
    assert run.steps == STEPS
    assert run.name.endswith("moe/seed-1")
    assert run.finished
    shape = Models(run).at(5).shape
    assert shape == Shape(layers=LAYERS, experts=EXPERTS, top_k=1, context=CONTEXT)


def test_a_snapshot_is_preferred_to_a_checkpoint_which_may_go(tiny_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(tiny_run, own)
    (own / "checkpoints" / "step-000005").rename(own / "snapshots" / "step-000005")
    shutil.copytree(tiny_run / "checkpoints" / "step-000005", own / "checkpoints" / "step-000005")
    assert open_run(own).weights[5] == own / "snapshots" / "step-000005"


def test_a_run_still_going_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    assert not open_run(write_run(tmp_path / "run", ended=False)).finished


def test_what_cannot_be_explored_is_named(tmp_path: Path) -> None:
    dense = write_run(tmp_path / "dense", moe=False)
    with pytest.raises(MoEEmergenceError, match="is dense, without experts"):
        open_run(dense)
    with pytest.raises(MoEEmergenceError, match="no run in"):
        open_run(tmp_path / "nothing")
    young = tmp_path / "young"
    young.mkdir()
    values = json.loads((dense / "config.json").read_text())
    (young / "config.json").write_text(json.dumps(values | {"moe": {"num_experts": 4}}))
    with pytest.raises(MoEEmergenceError, match="neither checkpoint nor snapshot: let it run to its first one"):
        open_run(young)


def test_a_suite_names_one_of_its_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "seed-1", moe=False)
    write_run(tmp_path / "b" / "seed-1")
    (tmp_path / "suite.json").write_text("{}")
    with pytest.raises(MoEEmergenceError, match=f"is a suite: give one of its runs, as in {tmp_path}/b/seed-1"):
        open_run(tmp_path)


def test_damaged_or_deleted_weights_are_named(tiny_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(tiny_run, own)
    models = Models(open_run(own))
    shutil.rmtree(own / "snapshots" / "step-000002")
    with pytest.raises(MoEEmergenceError, match="the weights of step 2 are no longer there"):
        models.at(2)
    weights = own / "checkpoints" / "step-000005" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="is damaged"):
        Explorer(open_run(own))


def test_the_models_last_used_stay_while_they_fit(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(open_run(tiny_run))
    first = models.at(0)
    size = sum(parameter.nbytes for parameter in first.model.parameters())
    monkeypatch.setattr(runs, "KEPT_BYTES", 2 * size)
    second = models.at(2)
    assert models.at(0) is first
    models.at(5)  # step 2 has to go
    assert models.at(0) is first
    assert models.at(2) is not second
    monkeypatch.setattr(runs, "KEPT_BYTES", 0)
    assert models.at(5) is models.at(5)
