"""What a run will cost, worked out from its configuration: parameters, memory, floating-point operations."""

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from moe_emergence.config import MoEConfig, RunConfig
from moe_emergence.models.base import load_config
from moe_emergence.models.configuration import GPT2MoEConfig
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import active_parameters

BYTES_A_PARAMETER = 16
"""fp32 weights, gradients, and AdamW's two moments."""


def run_cost(config: RunConfig) -> dict[str, Any]:
    """Parameters in all and active a token; bytes of weights, gradients and optimiser states; operations of the run.

    A forward and backward take 6 operations an active parameter and token (2 forward, 4 backward) without embeddings
    that are only looked up, and 12 · layers · width · context for attention [Kaplan 2020, appendix B of PaLM].
    Activations, which depend on the kernels, are not in the memory.
    """
    dense = base_config(config.base)
    model = _empty_model(dense, config.moe)
    active = active_parameters(model)
    tokens = config.training.steps * config.training.batch_size * config.data.block_size
    lookup = dense.n_positions * dense.n_embd  # the token embedding is also the output matrix
    attention = 12 * dense.n_layer * dense.n_embd * config.data.block_size
    return {
        "parameters": model.num_parameters(),
        "active_parameters": active,
        "state_bytes": BYTES_A_PARAMETER * model.num_parameters(),
        "tokens": tokens,
        "flops": tokens * (6 * (active - lookup) + attention),
    }


def base_config(base: str) -> GPT2Config:
    """The base's configuration, without its weights and without a network: `gpt2` is GPT-2 small."""
    return GPT2Config() if base == "gpt2" else load_config(base)


def _empty_model(dense: GPT2Config, moe: MoEConfig | None) -> PreTrainedModel:
    with torch.device("meta"):
        return GPT2LMHeadModel(dense) if moe is None else GPT2MoEForCausalLM(GPT2MoEConfig.from_dense(dense, moe))
