"""The dense language model a run starts from, with its tokenizer."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2LMHeadModel

from moe_emergence.config import EMBEDDED
from moe_emergence.errors import ModelError

ASSETS = Path(str(resources.files("moe_emergence.models") / "assets" / "base"))
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
"""The commit of openai-community/gpt2 that `--base gpt2` means."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A dense model, its tokenizer, and sha256 of its weights."""

    name: str
    model: GPT2LMHeadModel
    tokenizer: Tokenizer
    digest: str


def load_base(name: str = EMBEDDED) -> Base:
    """The embedded base, OpenAI's GPT-2 from the hub (or its cache), or a directory in transformers' format.

    Raises:
        ModelError: there is no such model, or it is not a GPT-2 in safetensors.
    """
    where, revision = _location(name)
    try:
        model = GPT2LMHeadModel.from_pretrained(
            where, revision=revision, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        tokenizer = load_tokenizer(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot load the base {name!r}: {reason} Give embedded, gpt2, or a directory.") from error
    return Base(name=name, model=model, tokenizer=tokenizer, digest=weights_digest(model.named_parameters()))


def load_tokenizer(name: str = EMBEDDED) -> Tokenizer:
    """The base's tokenizer as a `tokenizers.Tokenizer`."""
    where, revision = _location(name)
    file = Path(where) / "tokenizer.json"
    if file.exists():
        return Tokenizer.from_file(str(file))
    return AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False).backend_tokenizer


def _location(name: str) -> tuple[str, str | None]:
    if name == EMBEDDED:
        return str(ASSETS), None
    if name == "gpt2":
        return "openai-community/gpt2", GPT2_REVISION
    folder = Path(name)
    if not (folder / "config.json").exists():
        raise ModelError(f"no model in {name!r} (no config.json there): give embedded, gpt2, or a model's directory")
    return name, None


def weights_digest(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 over names, types, shapes and bytes of the tensors, in order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()
