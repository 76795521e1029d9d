"""What a run will cost, against published counts and against models that are really made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_emergence.config import MoEConfig, RunConfig
from moe_emergence.errors import MoEEmergenceError
from moe_emergence.experiments.presets import PRESETS
from moe_emergence.models.base import load_base
from moe_emergence.models.cost import base_config, run_cost
from moe_emergence.models.upcycle import active_parameters, upcycle


def test_gpt2_small_has_the_published_counts() -> None:
    """Dense 124,439,808; four layers of 8 experts 256,692,480; a token then uses the dense count and the gates."""
    dense, moe = run_cost(PRESETS["gpt2_dense"]()), run_cost(PRESETS["gpt2_moe"]())
    assert dense["parameters"] == dense["active_parameters"] == 124_439_808
    assert moe["parameters"] == 256_692_480
    assert moe["active_parameters"] == 124_439_808 + 4 * 8 * 768
    assert run_cost(PRESETS["gpt2_no_lb"]()) == moe


def test_a_second_expert_costs_one_mlp_a_layer() -> None:
    one, two = run_cost(PRESETS["gpt2_moe"]()), run_cost(PRESETS["gpt2_top2"]())
    mlp = 768 * 3072 * 2 + 3072 + 768
    assert two["parameters"] == one["parameters"]
    assert two["active_parameters"] - one["active_parameters"] == 4 * mlp


def test_memory_and_operations_by_hand() -> None:
    """16 bytes a parameter; 6 operations an active parameter (less the position table), 12 · L · d · context more."""
    cost = run_cost(PRESETS["gpt2_dense"]())
    tokens = 10_000 * 8 * 512
    assert cost["tokens"] == tokens
    assert cost["state_bytes"] == 16 * 124_439_808
    assert cost["flops"] == tokens * (6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 512)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_counts_are_those_of_the_model_made(toy_config: Callable[..., RunConfig], top_k: int) -> None:
    config = toy_config(moe={"top_k": top_k, "layers": None})
    model = upcycle(load_base(config.base).model, config.moe or MoEConfig(), seed=0)
    cost = run_cost(config)
    assert cost["parameters"] == model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert cost["active_parameters"] == active_parameters(model)
    assert cost["tokens"] == 6 * 4 * 32


def test_a_directory_s_configuration_is_read_without_weights(toy_base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((toy_base / "config.json").read_bytes())
    assert base_config(str(tmp_path)).n_embd == 32


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoEEmergenceError, match="nothing"):
        base_config(str(tmp_path / "nothing"))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(MoEEmergenceError, match="llama"):
        base_config(str(tmp_path))
