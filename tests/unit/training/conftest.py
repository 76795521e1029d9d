"""Models for the tests of single parts of training; runs as a whole use the fixtures above."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from moe_emergence.config import MoEConfig
from moe_emergence.models.base import load_base
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import upcycle

MOE = MoEConfig(layers=(1,), num_experts=4, perturbation=0.5, noise_std=0.5)


@pytest.fixture
def dense(toy_base: Path) -> GPT2LMHeadModel:
    """The toy base without dropout, in eval mode."""
    model = load_base(str(toy_base)).model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.resid_pdrop = model.config.embd_pdrop = model.config.attn_pdrop = 0.0
    return model


@pytest.fixture
def make_moe(dense: GPT2LMHeadModel) -> Callable[..., GPT2MoEForCausalLM]:
    """The same with 4 clearly different experts in block 1; options are fields of `MoEConfig`."""

    def make(dtype: torch.dtype = torch.float32, **options: Any) -> GPT2MoEForCausalLM:
        return upcycle(dense.to(dtype), replace(MOE, **options), seed=3, experts_implementation="eager")

    return make
