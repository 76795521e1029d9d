"""Checkpoints: a directory that appears whole or not at all, of safetensors and JSON only.

`model.safetensors` and `config.json` are transformers' own format, so a checkpoint loads with `from_pretrained`.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from moe_emergence.errors import CheckpointError

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


def checkpoint_name(step: int) -> str:
    return f"step-{step:06d}"


def save_checkpoint(
    folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> Path:
    """Write `folder`/step-NNNNNN for `state["step"]`; beside its final name first, then renamed."""
    final = folder / checkpoint_name(state["step"])
    if final.exists():
        return final
    partial = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(model_tensors(model), partial / MODEL, metadata={"format": "pt"})
    save_file(optimizer_tensors(optimizer), partial / OPTIMIZER)
    model.config.save_pretrained(partial)
    (partial / STATE).write_text(json.dumps(state), "utf-8")
    files = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    (partial / MANIFEST).write_text(json.dumps({"format": 1, "sha256": files}, indent=1), "utf-8")
    os.replace(partial, final)
    return final


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter once (a tied one under its first name), on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts as `parameter name:quantity`."""
    return {
        f"{name}:{quantity}": value.detach().cpu().contiguous()
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint's state, its files verified against their digests.

    Raises:
        CheckpointError: a file is missing or is not what was written.
    """
    try:
        digests = json.loads((folder / MANIFEST).read_text("utf-8"))["sha256"]
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                raise CheckpointError(
                    f"{folder / name} is damaged: its sha256 is not the recorded {digest[:16]}…; delete {folder} to go "
                    "on from the checkpoint before it"
                )
        return json.loads((folder / STATE).read_text("utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is not a whole checkpoint ({error}): delete it to go on from the one before"
        ) from error


def load_weights(folder: Path, model: torch.nn.Module) -> None:
    """Copy the checkpoint's weights into `model`; names and shapes must be the same.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    saved = read_tensors(folder / MODEL)
    wanted = dict(model.named_parameters())
    _check_names(folder / MODEL, set(saved), set(wanted))
    for name, parameter in wanted.items():
        if saved[name].shape != parameter.shape:
            raise CheckpointError(
                f"{folder / MODEL}: {name} has shape {tuple(saved[name].shape)}, the model's {tuple(parameter.shape)}"
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Give `optimizer` the checkpoint's moments and step counts."""
    saved = read_tensors(folder / OPTIMIZER)
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    _check_names(folder / OPTIMIZER, {key.rpartition(":")[0] for key in saved}, set(parameters) if saved else set())
    for key, value in saved.items():
        name, _, quantity = key.rpartition(":")
        # the step count too: fused AdamW keeps it beside its parameter
        optimizer.state[parameters[name]][quantity] = value.to(parameters[name].device)


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step under `folder`, if there is one."""
    found = _whole_checkpoints(folder)
    return found[-1] if found else None


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest, after the newest has been read back and verified."""
    found = _whole_checkpoints(folder)
    if len(found) > keep:
        read_checkpoint(found[-1])
        for path in found[:-keep]:
            shutil.rmtree(path)


def _whole_checkpoints(folder: Path) -> list[Path]:
    whole = (path for path in folder.glob("step-*") if (path / MANIFEST).exists())
    return sorted(whole, key=lambda path: int(path.name.removeprefix("step-")))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError when it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _check_names(path: Path, saved: set[str], wanted: set[str]) -> None:
    if saved != wanted:
        missing, unknown = sorted(wanted - saved), sorted(saved - wanted)
        raise CheckpointError(
            f"{path} does not fit the model: missing {missing[:3] or 'nothing'}, unknown {unknown[:3] or 'nothing'}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
