"""The dense language model a run starts from, with its tokenizer."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

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
        ModelError: there is no such model, it is not a GPT-2 in safetensors, or its parts do not fit together.
    """
    model, tokenizer = _load_model(name), load_tokenizer(name)
    largest, embeddings = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if largest >= embeddings:
        raise ModelError(
            f"the tokenizer of {name!r} has ids up to {largest}, its model has {embeddings} token embeddings"
        )
    return Base(name=name, model=model, tokenizer=tokenizer, digest=weights_digest(model.named_parameters()))


def load_config(name: str = EMBEDDED) -> GPT2Config:
    """The base's configuration, without its weights.

    Raises:
        ModelError: there is none, or it is not a GPT-2's, which transformers would read it as.
    """
    where, revision = _location(name)
    try:
        values, _ = GPT2Config.get_config_dict(where, revision=revision)
    except OSError as error:
        raise _refusal(name, error) from error
    if values.get("model_type") != GPT2Config.model_type:
        raise ModelError(f"the base {name!r} is of type {values.get('model_type')!r}; it must be a dense gpt2")
    return GPT2Config.from_dict(values)


def _load_model(name: str) -> GPT2LMHeadModel:
    where, revision = _location(name)
    try:
        model, loading = GPT2LMHeadModel.from_pretrained(
            where,
            config=load_config(name),
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _refusal(name, error) from error
    # transformers draws at random what is not there
    lacking = [*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]
    if lacking:
        raise ModelError(f"the base {name!r} lacks {min(lacking)}, or has it in another shape: not a whole GPT-2")
    return model


def load_tokenizer(name: str = EMBEDDED) -> Tokenizer:
    """The base's tokenizer as a `tokenizers.Tokenizer`, free of limits on length.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    where, revision = _location(name)
    folder = Path(where)
    if folder.is_dir() and not any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"no tokenizer in {name!r} (no tokenizer.json there): save it beside the model")
    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                where, revision=revision, trust_remote_code=False
            ).backend_tokenizer
    except Exception as error:  # the tokenizers library has no narrower one
        raise _refusal(name, error) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _refusal(name: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return ModelError(f"cannot load the base {name!r}: {reason}. Give embedded, gpt2, or a directory")


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
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
