"""A small model with experts and a probe, for tests of what is done to it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.analysis.causal.forward import Subject
from moe_emergence.config import MoEConfig
from moe_emergence.data.blocks import Probe
from moe_emergence.models.upcycle import upcycle


def _make(perturbation: float = 0.5, layers: tuple[int, ...] = (0, 2), **moe) -> Subject:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_embd=16, n_head=2, vocab_size=40, n_positions=32, initializer_range=0.3, bos_token_id=0
    )
    config = MoEConfig(layers=layers, num_experts=4, perturbation=perturbation, **moe), GPT2LMHeadModel(config).eval()
    return Subject(upcycle(config[1], config[0], seed=3, experts_implementation="eager"))


@pytest.fixture
def make_subject() -> Callable[..., Subject]:
    """Single precision, 3 blocks × 16 with experts in 0 and 2."""
    return _make


@pytest.fixture
def probe() -> Probe:
    """24 documents of 2 domains with 4 to 12 tokens."""
    rng = np.random.default_rng(2)
    return Probe(
        tokens=rng.integers(1, 40, (24, 12)).astype(np.uint16),
        length=rng.integers(4, 13, 24).astype(np.int32),
        document=rng.permutation(100)[:24].astype(np.int32),
        domain=np.repeat([0, 1], 12).astype(np.int32),
        start=np.zeros(24, dtype=np.int32),
        texts=("",) * 24,
    )
