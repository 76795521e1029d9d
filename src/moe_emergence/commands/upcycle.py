"""`upcycle`: a dense model's directory becomes a Mixture of Experts' directory, with a receipt."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_emergence.commands.arguments import Command
from moe_emergence.commands.fields import build_run, fields_of
from moe_emergence.commands.printing import print_rows
from moe_emergence.config import EMBEDDED, MoEConfig, RunConfig, flat
from moe_emergence.errors import RunDirectoryError
from moe_emergence.training.trained import silence_transformers

if TYPE_CHECKING:
    from torch import Tensor

    from moe_emergence.models.base import Base

BLOCK_SIZE, BLOCKS = 256, 2
"""The receipt's batch: tokens in a block (fewer where the context is shorter), dev blocks of each embedded domain."""
RECEIPT = "receipt.json"


def command() -> Command:
    """What `upcycle` takes."""
    upcycle = Command("upcycle", "Write a Mixture of Experts made from a dense GPT-2 as a directory for transformers.")
    upcycle.option("out", str | None, None, "the new model's directory")
    upcycle.option("base", str, EMBEDDED, "embedded, gpt2, or a directory with a GPT-2 model and its tokenizer")
    upcycle.option("seed", int, 42, "of the routers' weights and the perturbation")
    upcycle.fields(fields_of(MoEConfig, "moe."))
    return upcycle


def run(arguments: Sequence[str]) -> None:
    """Upcycle, write, and print the receipt."""
    given = command().parse(arguments)
    config = build_run([flat(RunConfig(base=given["base"], seed=given["seed"], moe=MoEConfig())), given.fields])
    folder = Path(given.required("out", "a directory for the new model"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirectoryError(f"{folder} is already used: choose another directory with --out")
    receipt = _upcycle(config, folder)
    print_rows("receipt", [{"quantity": name.replace("_", " "), "value": value} for name, value in receipt.items()])
    print(folder)


def _upcycle(config: RunConfig, folder: Path) -> dict[str, Any]:
    from moe_emergence.models.base import load_base
    from moe_emergence.models.upcycle import upcycle, upcycle_receipt

    assert config.moe is not None
    silence_transformers()
    base = load_base(config.base)
    model = upcycle(base.model, config.moe, seed=config.seed)
    receipt = upcycle_receipt(base.model, model, _batch(base)).to_dict()
    made_from = {"base": base.name, "base_digest": base.digest, "seed": config.seed, "moe": asdict(config.moe)}
    _write(folder, model, base, made_from | {"receipt": receipt})
    return receipt


def _batch(base: "Base") -> "Tensor":
    """The first dev documents of each embedded domain, packed."""
    import numpy as np
    import torch

    from moe_emergence.data.corpora import load_corpus
    from moe_emergence.data.packing import pack
    from moe_emergence.data.tokenizer import encode, end_of_text_id

    corpus, size = load_corpus(), min(BLOCK_SIZE, base.model.config.n_positions)
    blocks = []
    for number, domain in enumerate(corpus.domains):
        texts = [document.text for _, document in corpus.members("dev", domain)]
        documents = list(enumerate(encode(base.tokenizer, texts)))
        packed = pack(documents, domain=number, block_size=size, end_of_text=end_of_text_id(base.tokenizer))
        blocks.append(packed.tokens[:BLOCKS])
    return torch.from_numpy(np.concatenate(blocks).astype("int64"))


def _write(folder: Path, model: Any, base: "Base", record: dict[str, Any]) -> None:
    """Beside its place first, then moved: a directory of that name is whole."""
    from transformers import PreTrainedTokenizerFast

    from moe_emergence.data.tokenizer import END_OF_TEXT

    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(partial)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=base.tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
        )
        tokenizer.save_pretrained(partial)
        (partial / RECEIPT).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        partial.replace(folder)
    except OSError as error:
        raise RunDirectoryError(f"cannot write the model to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
