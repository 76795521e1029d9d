"""transformers can spread the experts over processes: `DistributedConfig(ep_size=…)`, by the configuration's plan."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from moe_emergence.models.gpt2_moe import GPT2MoEConfig, GPT2MoEForCausalLM

STACKS = {"up_proj", "up_proj_bias", "down_proj", "down_proj_bias"}
PARAMETERS = sorted(f"transformer.h.{layer}.mlp.moe.experts.{stack}" for layer in (1, 2) for stack in STACKS)


def test_the_plan_names_every_stack_of_experts_and_nothing_else() -> None:
    config = GPT2MoEConfig(n_layer=3, n_embd=8, n_head=2, vocab_size=20, moe_layers=[1, 2], num_experts=2)
    model = GPT2MoEForCausalLM(config)
    plan = model.ep_plan
    rules = {name: plan.get(re.sub(r"\.\d+\.", ".*.", name)) for name, _ in model.named_parameters()}
    assert sorted(name for name, rule in rules.items() if rule == "grouped_gemm") == PARAMETERS
    assert {rule for rule in rules.values() if rule} == {"grouped_gemm"}
    modules = [name for name, _ in model.named_modules() if re.sub(r"\.\d+\.", ".*.", name) in plan]
    assert modules == ["transformer.h.1.mlp.moe.experts", "transformer.h.2.mlp.moe.experts"]


def test_the_plan_is_not_written_into_checkpoints() -> None:
    assert "base_model_ep_plan" not in GPT2MoEConfig().to_dict()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, launch: Any) -> list[Any]:
    """What each of two processes reports, half of each layer's four experts on either."""
    folder: Path = tmp_path_factory.mktemp("experts")
    ended = launch("torchrun", "experts", folder)
    assert ended.returncode == 0, ended.stdout
    return [json.loads((folder / f"experts-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_spread_experts_compute_what_one_process_does(ranks: list[Any], implementation: str) -> None:
    """Measured: logits 4e-7 of up to 5, gradients of a step's router losses and LM loss 2e-7."""
    for rank in (found[implementation] for found in ranks):
        assert rank["sharded"] == PARAMETERS
        assert rank["local experts"] == [2, 2]
        assert rank["logits"] <= 5e-6
        assert rank["gradients"] <= 2e-6
        assert rank["saved"]
