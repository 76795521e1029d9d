"""Small models that numerics tests share; every test sets torch's generator itself where it draws."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.config import MoEConfig
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import upcycle

sys.path.insert(0, str(Path(__file__).parent))  # planted, rates
torch.set_num_threads(1)  # tiny operations: threads would only wait for each other


def _dense(dtype: torch.dtype = torch.float32, **options: object) -> GPT2LMHeadModel:
    settings = {
        "n_layer": 3,
        "n_embd": 16,
        "n_head": 2,
        "vocab_size": 40,
        "n_positions": 32,
        "initializer_range": 0.3,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**(settings | options))).to(dtype).eval()
    with torch.no_grad():  # fresh biases are 0 and would not show a mistake
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


@pytest.fixture
def make_dense() -> Callable[..., GPT2LMHeadModel]:
    """A dense GPT-2 of 3 blocks × 16 with random biases, in eval mode, without dropout."""
    return _dense


@pytest.fixture
def make_moe() -> Callable[..., GPT2MoEForCausalLM]:
    """The same, upcycled: 4 experts in blocks 1 and 2, clearly different from each other (perturbation 0.5)."""

    def make(
        dtype: torch.dtype = torch.float32, implementation: str = "eager", **options: object
    ) -> GPT2MoEForCausalLM:
        moe = MoEConfig(**({"layers": (1, 2), "num_experts": 4, "perturbation": 0.5} | options))
        return upcycle(_dense(dtype), moe, seed=3, experts_implementation=implementation)

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """8 sequences of 12 token ids."""
    return torch.randint(1, 40, (8, 12), generator=torch.Generator().manual_seed(5))
