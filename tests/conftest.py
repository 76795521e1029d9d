"""A toy corpus and a toy base that tests of several kinds share, made once a session."""

import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded; tiny operations: threads would only wait

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.config import DataConfig, ExecutionConfig, MoEConfig, OptimizerConfig, RunConfig, TrainingConfig
from moe_emergence.data.blocks import PreparedData, prepare
from moe_emergence.data.corpora import Corpus, load_corpus
from moe_emergence.data.tokenizer import end_of_text_id, train_tokenizer

torch.set_num_threads(1)

BLOCK_SIZE, VOCABULARY = 32, 320
WORDS = {
    "code": ("def", "return", "self", "import", "lambda:", "x_1", "yield", "(a,", "b)", "=", "==", "\n    "),
    "math": ("let", "1", "+", "sum", "of", "42", "is", "prime", "x²", "≤", "so", "that"),
    "prose": ("the", "whale", "sea", "and", "captain", "it", "was", "union", "to", "Ahab,", "ship", "—"),
}


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's corpus: three domains of 100 short documents of seeded words."""
    folder = tmp_path_factory.mktemp("toy-corpus")
    draw = random.Random(0)
    for domain, words in WORDS.items():
        texts = (" ".join(draw.choices(words, k=draw.randint(20, 60))) for _ in range(100))
        lines = (json.dumps({"id": f"{number:03d}", "text": text}) + "\n" for number, text in enumerate(texts))
        (folder / f"{domain}.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_corpus(toy_folder: Path) -> Corpus:
    return load_corpus(str(toy_folder))


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Corpus) -> Path:
    """An untrained GPT-2 of 2 blocks × 32 with dropout, and a tokenizer, as a directory for `base`."""
    folder = tmp_path_factory.mktemp("toy-base")
    tokenizer = train_tokenizer((document.text for document in toy_corpus.documents), vocab_size=VOCABULARY)
    end = end_of_text_id(tokenizer)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=BLOCK_SIZE,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.1,
        bos_token_id=end,
        eos_token_id=end,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def toy_config(toy_folder: Path, toy_base: Path) -> Callable[..., RunConfig]:
    """Six steps of the toy base with 4 experts in block 1; `training`, `moe` … take changed fields, moe=None none."""
    default = RunConfig(
        name="toy",
        base=str(toy_base),
        seed=7,
        data=DataConfig(
            corpus=str(toy_folder),
            block_size=BLOCK_SIZE,
            dev_blocks=4,
            test_blocks=6,
            probe_tokens=600,
            wide_probe_tokens=300,
        ),
        moe=MoEConfig(layers=(1,), num_experts=4, noise_std=0.5, noise_anneal=0.5),
        optimizer=OptimizerConfig(learning_rate=2e-3, gate_multiplier=10.0),
        training=TrainingConfig(steps=6, batch_size=4, evaluations=3, checkpoint_every=2),
        execution=ExecutionConfig(device="cpu", threads=1),
    )

    def make(**changes: Any) -> RunConfig:
        groups = {n: replace(getattr(default, n), **v) if isinstance(v, dict) else v for n, v in changes.items()}
        return replace(default, **groups)

    return make


@pytest.fixture(scope="session")
def toy_data(toy_corpus: Corpus, toy_config: Callable[..., RunConfig]) -> PreparedData:
    """What every toy run reads."""
    from moe_emergence.models.base import load_tokenizer

    config = toy_config()
    return prepare(toy_corpus, load_tokenizer(config.base), config.data)


@pytest.fixture
def interrupt_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let Ctrl-C come, once, after the update of the step of that number (from 1)."""
    from moe_emergence.training.step import Stepper

    def plant(step: int) -> None:
        real = Stepper.take

        def take(stepper: Stepper, batch: Any) -> Any:
            metrics = real(stepper, batch)
            if batch.step + 1 == step:
                monkeypatch.setattr(Stepper, "take", real)
                os.kill(os.getpid(), signal.SIGINT)
            return metrics

        monkeypatch.setattr(Stepper, "take", take)

    return plant
