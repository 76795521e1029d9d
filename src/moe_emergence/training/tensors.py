"""A model's and an optimizer's tensors, to files and back: by name, whole, and checked before anything is copied."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_emergence.errors import CheckpointError
from moe_emergence.training import durable

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


def whole_cpu(tensor: Tensor) -> Tensor:
    """A tensor as a file wants it; `Engine.full` does the same for one that is spread over processes."""
    return tensor.detach().cpu().contiguous()


def model_tensors(model: torch.nn.Module, full: Callable[[Tensor], Tensor] = whole_cpu) -> dict[str, Tensor]:
    """Every parameter once (a tied one under its first name) and every persistent buffer, on the CPU."""
    return {name: full(tensor) for name, tensor in _own_tensors(model).items()}


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, full: Callable[[Tensor], Tensor] = whole_cpu
) -> dict[str, Tensor]:
    """AdamW's moments and step counts as `parameter name:quantity`; nothing before the first update."""
    return {
        f"{name}:{quantity}": full(value)
        for name, parameter in named_parameters(optimizer).items()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters an optimizer of ours holds, by name."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }


def load_weights(
    folder: Path,
    model: torch.nn.Module,
    like: Callable[[Tensor, Tensor], Tensor] | None = None,
    may_lack: tuple[str, ...] = (),
) -> None:
    """Copy the checkpoint's weights and buffers into `model`; names, shapes and types must be the same.

    What ends in one of `may_lack` and is not in the file stays as it is.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape or type.
    """
    saved = read_tensors(folder / MODEL)
    wanted = {n: t for n, t in _own_tensors(model).items() if n in saved or not n.endswith(may_lack)}
    _check_names(folder / MODEL, set(saved), set(wanted))
    for name, tensor in wanted.items():
        _check_form(folder / MODEL, name, saved[name], tensor)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name] if like is None else like(saved[name], tensor))


def load_optimizer(
    folder: Path,
    optimizer: torch.optim.Optimizer,
    like: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Give `optimizer` the checkpoint's moments and step counts.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    path, saved, parameters = folder / OPTIMIZER, read_tensors(folder / OPTIMIZER), named_parameters(optimizer)
    quantities = {"step", "exp_avg", "exp_avg_sq"}
    _check_names(path, set(saved), {f"{name}:{q}" for name in parameters for q in quantities} if saved else set())
    for key, value in saved.items():
        name, _, quantity = key.rpartition(":")
        parameter = parameters[name]
        if quantity == "step":  # fused AdamW keeps it beside its parameter
            _check_form(path, key, value, torch.zeros((), dtype=torch.float32))
            optimizer.state[parameter][quantity] = value.to(parameter.device)
        else:
            _check_form(path, key, value, parameter)
            optimizer.state[parameter][quantity] = (
                value.to(parameter.device) if like is None else like(value, parameter)
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError when it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _own_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    kept = set(model.state_dict(keep_vars=True))
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return dict(model.named_parameters()) | buffers


def _check_names(path: Path, saved: set[str], wanted: set[str]) -> None:
    if saved != wanted:
        missing, unknown = sorted(wanted - saved), sorted(saved - wanted)
        raise CheckpointError(
            f"{path} does not fit the model: missing {listed(missing[:3])}, unknown {listed(unknown[:3])}"
        )


def _check_form(path: Path, name: str, saved: Tensor, wanted: Tensor) -> None:
    if saved.shape != wanted.shape:
        raise CheckpointError(f"{path}: {name} has shape {tuple(saved.shape)}, the model's {tuple(wanted.shape)}")
    if saved.dtype != wanted.dtype:
        raise CheckpointError(f"{path}: {name} is {saved.dtype}, the model's {wanted.dtype}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace `path` by a safetensors file, with `metadata` in its header."""
    with durable.replacing(path, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        save_file(dict(tensors), temporary, None if metadata is None else dict(metadata))


def listed(names: list[str]) -> str:
    """`a, b`, or `none`."""
    return ", ".join(names) or "none"
