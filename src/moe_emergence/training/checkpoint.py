"""Checkpoints: a directory that appears whole or not at all, of safetensors and JSON only.

`model.safetensors` and `config.json` are transformers' own format, so a checkpoint loads with `from_pretrained`.
`optimizer.safetensors` holds `parameter name:quantity`, `state.json` everything else a run goes on from, and
`manifest.json`, written last, the size and sha256 of every other file and what the bits depend on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from moe_emergence.errors import CheckpointError, RunDirectoryError
from moe_emergence.training import durable
from moe_emergence.training.tensors import MODEL, OPTIMIZER, listed

STATE, MANIFEST = "state.json", "manifest.json"
FORMAT = 2
REASON = "reason.txt"
_NAME = re.compile(r"step-(\d{6,})")
_SLACK = 1 << 20
"""Bytes for the JSON files and the file system's own needs."""


def checkpoint_name(step: int) -> str:
    return f"step-{step:06d}"


def save_checkpoint(
    folder: Path,
    config: PreTrainedConfig,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder`/step-NNNNNN for `state["step"]`: beside its final name, then renamed; one that is there stays.

    Args:
        config: the model's configuration.
        origin: what the bits depend on, for the manifest.

    Raises:
        CheckpointError: no room, or the disk refuses; says which path and how many bytes. Nothing else is touched.
    """
    final = folder / checkpoint_name(state["step"])
    if final.exists():
        return final
    needed = sum(tensor.nbytes for tensor in (*weights.values(), *moments.values())) + _SLACK
    _require_room(folder, needed)
    try:
        with durable.making(final) as partial:
            _write_files(partial, config, weights, moments, state)
            _write_manifest(partial, {"format": FORMAT, "step": state["step"]} | dict(origin or {}))
    except (OSError, SafetensorError, RunDirectoryError) as error:
        reason = str(error) if isinstance(error, RunDirectoryError) else durable.trouble(error, final, needed)
        raise CheckpointError(
            f"no checkpoint of {needed:,} bytes: {reason}. Those before it are as they were: make room, or give "
            "the folder back, and continue with the same command (train: with --resume)"
        ) from error
    return final


def _write_files(
    partial: Path,
    config: PreTrainedConfig,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    save_file(dict(weights), partial / MODEL, metadata={"format": "pt"})
    save_file(dict(moments), partial / OPTIMIZER)
    config.save_pretrained(partial)
    (partial / STATE).write_text(json.dumps(state), "utf-8")
    for path in partial.iterdir():
        durable.sync(path)


def _write_manifest(partial: Path, about: dict[str, Any]) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(partial.iterdir())}
    durable.write_text(partial / MANIFEST, _sealed(about | {"files": files}))


def _sealed(manifest: dict[str, Any]) -> str:
    """Its text with the sha256 of the rest of it at the end: nothing else says whether it is as it was written."""
    digest = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    return json.dumps(manifest | {"sha256": digest}, indent=1) + "\n"


def _require_room(folder: Path, needed: int) -> None:
    free = durable.free_bytes(folder)
    if free < needed:
        raise CheckpointError(
            f"a checkpoint in {folder} needs {needed:,} bytes, and {free:,} are free there: make room, then continue "
            "with the same command (train: with --resume)"
        )


# Reading back


def verified_manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest, every file found as it says.

    Raises:
        CheckpointError: a file is missing, is one too many, or has another size or sha256; or the manifest is not one.
    """
    try:
        text = (folder / MANIFEST).read_text("utf-8")
        manifest = json.loads(text)
        del manifest["sha256"]
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        written, step = manifest["format"], manifest["step"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {MANIFEST} {_unreadable(error)}") from error
    if _sealed(manifest) != text:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: it is not the text that was written")
    if written != FORMAT:
        raise CheckpointError(f"{folder} has format {written}, this version reads {FORMAT}")
    if checkpoint_name(int(step)) != folder.name:
        raise CheckpointError(f"{folder} holds the checkpoint of step {step}, not of its name")
    try:
        _compare(folder, files)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from error
    return dict(manifest)


def _compare(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
    there = {path.name for path in folder.iterdir()} - {MANIFEST}
    lacking = sorted({MODEL, OPTIMIZER, STATE} - set(files))
    if lacking or there != set(files):
        missing, extra = sorted(set(files) - there) + lacking, sorted(there - set(files))
        raise CheckpointError(f"{folder}: files missing: {listed(missing)}; not of this checkpoint: {listed(extra)}")
    for name, (size, digest) in files.items():
        found = (folder / name).stat().st_size
        if found != size:
            raise CheckpointError(f"{folder / name} has {found:,} bytes, not the {size:,} that were written")
        if _sha256(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is damaged: its sha256 is not the recorded {digest[:16]}…")


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint's state, after all of it was verified."""
    verified_manifest(folder)
    return read_state(folder)


def read_state(folder: Path, required: Collection[str] = ("step",)) -> dict[str, Any]:
    """What a run goes on from besides weights and moments.

    Raises:
        CheckpointError: it lacks a required key, or is of another step than the checkpoint.
    """
    try:
        state = dict(json.loads((folder / STATE).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE} {_unreadable(error)}") from error
    lacking = sorted(set(required) - set(state))
    if lacking:
        raise CheckpointError(f"{folder / STATE} lacks {listed(lacking)}: it was not written by this version")
    if state["step"] != step_of(folder):
        raise CheckpointError(f"{folder / STATE} is of step {state['step']}, the checkpoint of step {step_of(folder)}")
    return state


def checkpoints_in(folder: Path) -> list[Path]:
    """All that is named as a checkpoint, whole or not, in order of its step."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("step-*") if path.is_dir()}
    return sorted((path for path, name in found.items() if name), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step under `folder`, if there is one; whether it is whole shows when it is read."""
    found = checkpoints_in(folder)
    return found[-1] if found else None


def newest_whole_checkpoint(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is as it was written. Damaged ones above it are set aside, with the reason, loudly.

    Raises:
        CheckpointError: there are checkpoints and none is whole; they are listed, and stay where they are.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoints_in(folder)):
        try:
            verified_manifest(path)
        except CheckpointError as error:
            damaged.append((path, str(error)))
            continue
        for bad, reason in damaged:
            report(f"{reason}. Set aside as {_set_aside(bad, reason).name}; going on from {path.name}")
        return path
    if damaged:
        reasons = "; ".join(reason for _, reason in damaged)
        raise CheckpointError(
            f"no checkpoint in {folder} is whole: {reasons}. Nothing was deleted: restore one, or start the run again "
            f"in another folder (or delete {folder.parent}, and the same command starts it anew)"
        )
    return None


def _set_aside(checkpoint: Path, reason: str) -> Path:
    place = checkpoint.with_name(f"damaged-{checkpoint.name}")
    number = 2
    while place.exists():
        place = checkpoint.with_name(f"damaged-{checkpoint.name}-{number}")
        number += 1
    durable.rename(checkpoint, place)
    durable.write_text(place / REASON, reason + "\n")
    return place


def remove_old_checkpoints(newest: Path, keep: int) -> None:
    """Delete the checkpoints before `newest` but for the last `keep` − 1, once `newest` was read back and verified.

    Later ones, and whatever is not named as a checkpoint, are left alone.
    """
    earlier = [path for path in checkpoints_in(newest.parent) if step_of(path) < step_of(newest)]
    if len(earlier) >= keep:
        verified_manifest(newest)
        for path in earlier[: len(earlier) - keep + 1]:
            durable.remove(path)


def _unreadable(error: Exception) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__}: {error})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
