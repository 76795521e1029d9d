"""Files replaced in one move, folders removed in one, and errors that say which path and how many bytes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moe_emergence.errors import RunDirectoryError
from moe_emergence.training import durable
from moe_emergence.training.tensors import write_tensors


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    durable.write_text(path, "old")
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, _failing(errno.ENOSPC))
        with pytest.raises(
            RunDirectoryError, match=rf"cannot write 8 bytes to {path}: No space left on device \([\d,]+ b"
        ):
            durable.write_text(path, "newer é")
        monkeypatch.undo()
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]
    durable.write_text(path, "newer é")
    assert path.read_text("utf-8") == "newer é"


def _failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_tensors_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    monkeypatch.setattr(os, "replace", _failing(errno.EIO))
    with pytest.raises(RunDirectoryError, match=r"cannot write 16 bytes to .*a\.safetensors: Input/output error"):
        write_tensors(path, {"a": torch.zeros(4)})
    assert torch.equal(load_file(path)["a"], torch.ones(3))


def test_a_folder_that_syncs_no_entries_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EINVAL))
    durable.sync(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="Invalid argument"):
        durable.sync(tmp_path / "file")


def test_a_removed_folder_is_gone_under_its_name_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "step-000001").mkdir()
    (tmp_path / "step-000001" / "file").write_text("x")
    monkeypatch.setattr(os, "unlink", _failing(errno.EIO))
    with pytest.raises(RunDirectoryError, match=r"cannot delete .*step-000001: Input/output error\. Nothing newer is"):
        durable.remove(tmp_path / "step-000001")
    assert os.listdir(tmp_path) == [".removed-step-000001"]
    monkeypatch.undo()
    (tmp_path / "step-000001").mkdir()
    durable.remove(tmp_path / "step-000001")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        RunDirectoryError, match=rf"cannot make the folder {tmp_path / 'file' / 'run'}: Not a directory"
    ):
        durable.make_folder(tmp_path / "file" / "run")


def test_room_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert durable.free_bytes(tmp_path / "not" / "there") == pytest.approx(durable.free_bytes(tmp_path), rel=0.1)
