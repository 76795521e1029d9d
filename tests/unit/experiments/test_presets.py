"""Presets: valid runs, each named for its place, matched in all that their names do not say."""

import pytest

from moe_emergence.config import MoEConfig, OptimizerConfig, RunConfig, flat
from moe_emergence.experiments.presets import PRESETS

ARMS = ("dense", "moe", "no_lb", "top2", "moe_blocks")
NAMES = {"name", "question"}


def differences(one: RunConfig, other: RunConfig) -> dict[str, object]:
    a, b = flat(one), flat(other)
    return {name: b.get(name) for name in a | b if a.get(name) != b.get(name) and name not in NAMES}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_run_of_its_name_with_a_question(name: str) -> None:
    config = PRESETS[name]()
    assert config.name == name
    assert config.question.endswith("?")
    assert PRESETS[name]() == config


def test_the_five_arms_differ_as_their_names_say() -> None:
    dense, moe, no_lb, top2, moe_blocks = (PRESETS[name]() for name in ARMS)
    assert dense.moe is None
    assert moe.moe is not None
    assert all(name.startswith("moe") for name in differences(dense, moe))
    assert differences(moe, no_lb) == {"moe.balance_coef": 0.0}
    assert differences(moe, top2) == {"moe.top_k": 2}
    assert differences(moe, moe_blocks) == {"moe.balance_window": "blocks:2"}


def test_the_balanced_arm_is_that_of_decision_015() -> None:
    moe = PRESETS["moe"]().moe
    assert moe is not None
    assert (moe.num_experts, moe.top_k, moe.balance_coef, moe.balance_window) == (8, 1, 0.02, "global_batch")
    assert moe.noise_std > 0
    assert moe.noise_anneal == 0.25
    assert moe.router == "learned"
    assert moe.detach_gate_input


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_is_traced_at_twelve_steps_at_least_and_widely_at_its_ends(name: str) -> None:
    config = PRESETS[name]()
    assert config.training.evaluations >= 12
    assert config.data.probe_tokens >= 20_000
    assert config.data.wide_probe_tokens == 100_000
    assert config.training.snapshots == 4


def test_full_size_has_the_published_settings() -> None:
    for name in ARMS:
        config, small = PRESETS[f"gpt2_{name}"](), PRESETS[name]()
        assert config.base == "gpt2"
        assert config.optimizer == OptimizerConfig(
            learning_rate=5e-5, gate_multiplier=1.0, weight_decay=0.01, warmup=0.1, clip_norm=1.0
        )
        assert (config.training.batch_size, config.data.block_size, config.seed) == (8, 512, 42)
        assert (config.moe is None) == (small.moe is None)
        if config.moe is not None:
            assert (config.moe.z_coef, config.moe.detach_gate_input) == (0.001, False)
            assert config.moe.balance_coef in (0.0, 0.01)
            assert config.moe.layers is None, "the last third: 8, 9, 10, 11"
    assert PRESETS["gpt2_moe"]().moe == MoEConfig()
