"""Snapshots: a run's weights alone at some of its looks, which checkpoints come and go between.

A folder `step-NNNNNN` with `config.json` and `model.safetensors`, transformers' own format: it loads as a checkpoint
does, and a run cannot be continued from it.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from moe_emergence.errors import RunDirectoryError
from moe_emergence.training import durable
from moe_emergence.training.checkpoint import checkpoint_name, checkpoints_in, step_of
from moe_emergence.training.tensors import MODEL

_SLACK = 1 << 16
"""Bytes for the configuration and the file system's own needs."""


def save_snapshot(folder: Path, config: PreTrainedConfig, weights: Mapping[str, Tensor], step: int) -> Path:
    """Write `folder`/step-NNNNNN, whole or not at all; one that is there stays.

    Raises:
        RunDirectoryError: no room, or the disk refuses; says which path and how many bytes.
    """
    final = folder / checkpoint_name(step)
    if final.exists():
        return final
    needed = sum(tensor.nbytes for tensor in weights.values()) + _SLACK
    free = durable.free_bytes(folder)
    if free < needed:
        raise RunDirectoryError(
            f"a snapshot in {folder} needs {needed:,} bytes, and {free:,} are free there: make room, then continue "
            "with the same command (train: with --resume)"
        )
    try:
        with durable.making(final) as partial:
            save_file(dict(weights), partial / MODEL, metadata={"format": "pt"})
            config.save_pretrained(partial)
            for path in partial.iterdir():
                durable.sync(path)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(durable.trouble(error, final, needed)) from error
    return final


def remove_snapshots(folder: Path, step: int) -> None:
    """Delete the snapshots of `step` and later, which a run that goes on from there takes again."""
    for path in checkpoints_in(folder):
        if step_of(path) >= step:
            durable.remove(path)
