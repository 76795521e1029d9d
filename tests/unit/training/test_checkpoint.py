"""Checkpoints: whole or not there, bit-equal when read back, and refused by name when they are not what was written."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from moe_emergence.config import OptimizerConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import CheckpointError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.training import checkpoint, durable
from moe_emergence.training.checkpoint import (
    MANIFEST,
    STATE,
    newest_checkpoint,
    newest_whole_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from moe_emergence.training.engine import Engine
from moe_emergence.training.optimizer import make_optimizer
from moe_emergence.training.step import Stepper, make_batch
from moe_emergence.training.tensors import (
    MODEL,
    OPTIMIZER,
    load_optimizer,
    load_weights,
    model_tensors,
    optimizer_tensors,
)

MakeMoE = Callable[..., GPT2MoEForCausalLM]
FILES = (MODEL, OPTIMIZER, STATE, "config.json")


def trained(model: Any, data: PreparedData, steps: int = 2, optimizer: Any = None) -> torch.optim.Optimizer:
    optimizer = optimizer or make_optimizer(model, OptimizerConfig(learning_rate=1e-3))
    engine = Engine.start("cpu", "fp32", "ddp")
    for step in range(steps):
        batch = make_batch(data.train, seed=1, step=step, batch_size=4, device=torch.device("cpu"))
        Stepper(model, optimizer, micro_batch_size=None, clip_norm=1.0, engine=engine).take(batch)
    return optimizer


def saved(model: Any, data: PreparedData, folder: Path, step: int = 2) -> tuple[Path, torch.optim.Optimizer]:
    optimizer = trained(model, data)
    return save(folder, model, optimizer, {"step": step, "collapse": None}), optimizer


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    return save_checkpoint(folder, model.config, model_tensors(model), optimizer_tensors(optimizer), state)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def flip_a_byte(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


# Round trip


@pytest.mark.parametrize("experts", [True, False])
def test_weights_and_optimizer_come_back_bit_by_bit(
    make_moe: MakeMoE, dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, experts: bool
) -> None:
    """And the next step after it is the same as without."""
    model = make_moe() if experts else dense
    start = {name: value.clone() for name, value in model.state_dict().items()}
    folder, optimizer = saved(model, toy_data, tmp_path)
    before, moments = weights(model), {n: t.clone() for n, t in optimizer_tensors(optimizer).items()}
    assert read_checkpoint(folder) == {"step": 2, "collapse": None}

    trained(model, toy_data, 1, optimizer)
    after = weights(model)
    model.load_state_dict(start)
    fresh = make_optimizer(model, OptimizerConfig(learning_rate=1e-3))
    load_weights(folder, model)
    load_optimizer(folder, fresh)
    assert equal(weights(model), before)
    assert equal(optimizer_tensors(fresh), moments)
    assert len(moments) == 3 * len(before)
    trained(model, toy_data, 1, fresh)
    assert equal(weights(model), after)


def test_before_the_first_step_there_are_no_moments(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path
) -> None:
    optimizer = make_optimizer(dense, OptimizerConfig())
    folder = save(tmp_path, dense, optimizer, {"step": 0})
    load_optimizer(folder, optimizer)
    assert len(optimizer.state) == 0


def test_tied_weights_are_stored_once(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    model = make_moe()
    assert model.lm_head.weight is model.transformer.wte.weight
    folder, _ = saved(model, toy_data, tmp_path)
    stored = load_file(folder / MODEL)
    assert "transformer.wte.weight" in stored
    assert "lm_head.weight" not in stored
    assert sum(t.numel() for t in stored.values()) == model.num_parameters()


@pytest.mark.parametrize("experts", [True, False])
def test_transformers_reads_it(
    make_moe: MakeMoE, dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, experts: bool
) -> None:
    model = make_moe(top_k=2) if experts else dense
    folder, _ = saved(model, toy_data, tmp_path)
    kind = AutoModelForCausalLM if experts else GPT2LMHeadModel
    loaded, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded) is type(model)
    tokens = torch.from_numpy(toy_data.dev.tokens[:2].astype("int64"))
    with torch.no_grad():
        ours, theirs = model.eval()(input_ids=tokens).logits, loaded.eval()(input_ids=tokens).logits
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert equal(weights(model), weights(loaded))
    if experts:
        assert loaded.moe_layer_indices == (1,)
        assert loaded.config.num_experts_per_tok == 2


def test_no_pickle_is_written(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    folder, _ = saved(make_moe(), toy_data, tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


# What was not written, or is no longer what was


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_by_name(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, name: str
) -> None:
    folder, _ = saved(dense, toy_data, tmp_path)
    flip_a_byte(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: its sha256 is not the recorded"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_refused_by_name(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, name: str
) -> None:
    folder, _ = saved(dense, toy_data, tmp_path)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"sha256": 3}', '{"sha256": "", "files": {}, "step": 2}'])
def test_a_damaged_manifest_is_refused(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, content: str
) -> None:
    folder, _ = saved(dense, toy_data, tmp_path)
    (folder / MANIFEST).write_text(content)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_checkpoint(folder)


def test_weights_of_another_shape_are_refused(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    folder, _ = saved(make_moe(), toy_data, tmp_path)
    with pytest.raises(
        CheckpointError,
        match=rf"{MODEL}: transformer\.h\.1\.mlp\.moe\.\S+ has shape \(4, .*, the model's \(6, ",
    ):
        load_weights(folder, make_moe(num_experts=6))


def test_weights_of_another_model_are_refused(
    make_moe: MakeMoE, dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path
) -> None:
    folder, _ = saved(make_moe(), toy_data, tmp_path)
    with pytest.raises(CheckpointError, match=r"missing transformer\.h\.1\.mlp\.c_fc\.bias.*unknown transf"):
        load_weights(folder, dense)
    with pytest.raises(CheckpointError, match=rf"{OPTIMIZER} does not fit the model: missing"):
        load_optimizer(folder, make_optimizer(dense, OptimizerConfig()))


def test_a_refusal_leaves_the_model_as_it_was(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    folder, _ = saved(make_moe(), toy_data, tmp_path)
    other = make_moe(num_experts=6)
    before = weights(other)
    with pytest.raises(CheckpointError):
        load_weights(folder, other)
    assert equal(weights(other), before)


def test_an_unreadable_weights_file_is_refused(dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path) -> None:
    folder, _ = saved(dense, toy_data, tmp_path)
    (folder / MODEL).write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match=f"cannot read .*{MODEL}"):
        load_weights(folder, dense)


# Which there are


@pytest.fixture
def several(dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path) -> Path:
    """Checkpoints of steps 2, 10, 999,999 and 1,000,000."""
    optimizer = trained(dense, toy_data)
    for step in (2, 10, 999_999, 1_000_000):
        save(tmp_path, dense, optimizer, {"step": step})
    return tmp_path


def found(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def silent(text: str) -> None:
    raise AssertionError(f"nothing to report, but: {text}")


def test_the_newest_is_that_of_the_highest_step(several: Path) -> None:
    assert newest_whole_checkpoint(several, silent) == newest_checkpoint(several) == several / "step-1000000"
    shutil.rmtree(several / "step-1000000")
    assert newest_whole_checkpoint(several, silent) == newest_checkpoint(several) == several / "step-999999"


def test_there_may_be_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not there"):
        assert newest_checkpoint(folder) is None
        assert newest_whole_checkpoint(folder, silent) is None


def test_what_was_not_finished_is_no_checkpoint_and_goes(several: Path) -> None:
    for name in (".step-2000000.123", ".removed-step-000001"):
        shutil.copytree(several / "step-000010", several / name)
    (several / ".mine").mkdir()
    assert newest_whole_checkpoint(several, silent) == several / "step-1000000"
    durable.remove_partial_folders(several)
    assert {name for name in found(several) if name.startswith(".")} == {".mine"}, "only names of ours"


def test_damaged_ones_are_set_aside_with_the_reason_and_an_older_one_is_used(several: Path) -> None:
    flip_a_byte(several / "step-1000000" / MODEL)
    (several / "step-999999" / OPTIMIZER).unlink()
    said: list[str] = []
    assert newest_whole_checkpoint(several, said.append) == several / "step-000010"
    assert "step-1000000/model.safetensors is damaged" in said[0]
    assert "Set aside as damaged-step-1000000; going on from step-000010" in said[0]
    assert "files missing: optimizer.safetensors" in said[1]
    assert found(several) == {"step-000002", "step-000010", "damaged-step-999999", "damaged-step-1000000"}
    assert "is damaged" in (several / "damaged-step-1000000" / "reason.txt").read_text()


def test_a_second_damaged_one_of_a_step_does_not_replace_the_first(several: Path) -> None:
    (several / "damaged-step-1000000").mkdir()
    flip_a_byte(several / "step-1000000" / MODEL)
    newest_whole_checkpoint(several, lambda _: None)
    assert {"damaged-step-1000000", "damaged-step-1000000-2"} < found(several)


def test_if_none_is_whole_all_are_listed_and_stay(several: Path) -> None:
    for path in several.iterdir():
        flip_a_byte(path / MODEL)
    before = found(several)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: .*1000000.*999999.*000010.*000002.*anew"):
        newest_whole_checkpoint(several, silent)
    assert found(several) == before


def test_a_checkpoint_under_another_s_name_is_refused(several: Path) -> None:
    (several / "step-000010").rename(several / "step-000011")
    with pytest.raises(CheckpointError, match="step-000011 holds the checkpoint of step 10"):
        read_checkpoint(several / "step-000011")


def test_every_bit_of_a_manifest_counts(several: Path) -> None:
    path = several / "step-000010" / MANIFEST
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(CheckpointError):
            read_checkpoint(path.parent)


def test_a_file_too_many_is_refused(several: Path) -> None:
    (several / "step-000010" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"not of this checkpoint: notes\.txt"):
        read_checkpoint(several / "step-000010")


def test_nothing_has_its_final_name_before_it_is_whole(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that readers look for appears with the rename, after the last file and every sync."""
    optimizer, seen = trained(dense, toy_data), []
    for module, name in ((checkpoint, "save_file"), (durable, "write_text"), (durable, "sync"), (durable, "rename")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, **o: (seen.append(found(tmp_path)), _real(*a, **o)))
    save(tmp_path, dense, optimizer, {"step": 2})
    *before, after = seen
    assert len(before) > 6
    assert before == [{f".step-000002.{os.getpid()}"}] * len(before)
    assert after == {"step-000002"}, "the sync of the folder that it was renamed in"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")])
def test_a_failure_while_writing_leaves_nothing_behind(
    dense: GPT2LMHeadModel,
    toy_data: PreparedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    optimizer = trained(dense, toy_data)
    monkeypatch.setattr(checkpoint, "save_file", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(CheckpointError, match=rf"cannot write [\d,]+ bytes to .*step-000002: {error.args[-1]}"):
        save(tmp_path, dense, optimizer, {"step": 2})
    assert found(tmp_path) == set()
    monkeypatch.undo()
    save(tmp_path, dense, optimizer, {"step": 2})
    assert found(tmp_path) == {"step-000002"}


def test_too_little_room_is_seen_before_anything_is_written(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = trained(dense, toy_data)
    monkeypatch.setattr(durable, "free_bytes", lambda _: 12_345)
    with pytest.raises(CheckpointError, match=r"needs 1,\d{3},\d{3} bytes, and 12,345 are free there"):
        save(tmp_path, dense, optimizer, {"step": 2})
    assert found(tmp_path) == set()


def test_old_ones_go_after_the_newest_is_verified(several: Path) -> None:
    remove_old_checkpoints(several / "step-1000000", 2)
    assert found(several) == {"step-999999", "step-1000000"}


def test_old_ones_stay_while_the_newest_is_damaged(several: Path) -> None:
    before = found(several)
    flip_a_byte(several / "step-1000000" / MODEL)
    with pytest.raises(CheckpointError, match="step-1000000"):
        remove_old_checkpoints(several / "step-1000000", 1)
    assert found(several) == before


def test_as_many_as_asked_stay_and_later_or_foreign_ones_too(several: Path) -> None:
    (several / "step-mine").mkdir()
    remove_old_checkpoints(several / "step-1000000", 4)
    assert len(found(several)) == 5
    remove_old_checkpoints(several / "step-000010", 1)
    assert found(several) == {"step-000010", "step-999999", "step-1000000", "step-mine"}
    remove_old_checkpoints(several / "step-1000000", 1)
    assert found(several) == {"step-1000000", "step-mine"}


def test_a_manifest_lists_every_file(dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path) -> None:
    folder, _ = saved(dense, toy_data, tmp_path)
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert set(listed) == found(folder) - {MANIFEST}
    assert all(entry["bytes"] == (folder / name).stat().st_size for name, entry in listed.items())


def test_a_file_that_cannot_be_read_is_damage_too(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, said = checkpoint._sha256, list[str]()

    def sha256(path: Path) -> str:
        if path.parent.name == "step-1000000":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(checkpoint, "_sha256", sha256)
    (several / "step-999999" / MODEL).unlink()
    (several / "step-999999" / MODEL).symlink_to("nowhere")
    assert newest_whole_checkpoint(several, said.append) == several / "step-000010"
    assert "step-1000000 cannot be read: Input/output error" in said[0]
    assert "step-999999 cannot be read: No such file" in said[1]
