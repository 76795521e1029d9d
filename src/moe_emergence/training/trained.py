"""A trained model from where it is kept: a run's folder, one of its checkpoints, or a model's directory."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_emergence.errors import ModelError
from moe_emergence.training.run_directory import CONFIG, RunDirectory

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_trained(folder: Path) -> "tuple[Any, Tokenizer]":
    """The model in eval mode and its tokenizer; of a run, the newest checkpoint's.

    Raises:
        MoEEmergenceError: nothing there that can be loaded.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    import moe_emergence.models.gpt2_moe  # noqa: F401 (registers the architecture)

    silence_transformers()
    weights, tokenizer = _places(folder)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            weights, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot load the model in {weights}: {str(error).splitlines()[0]}") from error
    return model.eval(), tokenizer


def silence_transformers() -> None:
    """No progress bars of its own: what is loaded or written here takes a moment."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _places(folder: Path) -> "tuple[Path, Tokenizer]":
    from moe_emergence.models.base import load_tokenizer
    from moe_emergence.training.checkpoint import newest_checkpoint, verified_manifest

    if "model_type" in _config(folder):
        run = folder.parent.parent
        if not (folder / "tokenizer.json").exists() and (run / CONFIG).exists():
            return folder, load_tokenizer(RunDirectory.open_existing(run).config.base)
        return folder, load_tokenizer(str(folder))
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise ModelError(f"the run in {folder} has no checkpoint yet: let it run to one first")
    verified_manifest(newest)
    return newest, load_tokenizer(RunDirectory.open_existing(folder).config.base)


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        raise ModelError(
            f"no run and no model in {folder} (no readable {CONFIG} there): give the folder of one"
        ) from None
    return content if isinstance(content, dict) else {}
