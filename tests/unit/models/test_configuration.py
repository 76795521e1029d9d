"""The registered model's configuration: resolved, checked, and the same after a trip through JSON."""

import json
from dataclasses import replace

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig

import moe_emergence.models.gpt2_moe  # noqa: F401 (registers the configuration)
from moe_emergence.config import MoEConfig
from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.models.configuration import GPT2MoEConfig
from moe_emergence.models.families import family_of

DENSE = GPT2Config(n_layer=6, n_embd=32, n_head=4, vocab_size=64, resid_pdrop=0.25, bos_token_id=0, eos_token_id=0)


def test_layers_are_resolved_at_once() -> None:
    assert GPT2MoEConfig().moe_layers == [8, 9, 10, 11]
    assert GPT2MoEConfig(n_layer=4).moe_layers == [2, 3]


def test_from_dense_keeps_gpt2_s_own_fields_and_the_layer_s() -> None:
    moe = MoEConfig(layers=(1, 5), num_experts=3, top_k=2, balance_coef=0.5, balance_window="blocks:2", z_coef=0.0)
    config = GPT2MoEConfig.from_dense(DENSE, moe)
    assert (config.n_layer, config.resid_pdrop, config.model_type) == (6, 0.25, "gpt2_moe")
    assert config.moe == moe


def test_round_trip(tmp_path) -> None:
    config = GPT2MoEConfig.from_dense(DENSE, MoEConfig(router="frozen"), gate_scale="sigmoid")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, GPT2MoEConfig)
    assert again.moe == config.moe
    assert again.gate_scale == "sigmoid"


@pytest.mark.parametrize(
    "moe",
    [MoEConfig(router="hash"), MoEConfig(router="round_robin"), MoEConfig(balance_window="ema", bias_rate=1e-3)],
)
def test_what_rebuilds_the_layers_survives_a_round_trip(moe: MoEConfig, tmp_path) -> None:
    config = GPT2MoEConfig.from_dense(DENSE, moe)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert (again.router, again.loss_free_bias) == (moe.router, moe.bias_rate > 0)
    assert again.moe == replace(moe, layers=(4, 5))


def test_where_gate_and_experts_started_is_not_the_model_s_to_know(tmp_path) -> None:
    """Loading must not want centroids again, nor drop units."""
    moe = MoEConfig(gate_init="centroids", reinit_share=0.5)
    config = GPT2MoEConfig.from_dense(DENSE, moe)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.moe == replace(moe, layers=(4, 5), gate_init="small_random", reinit_share=0.0)


@pytest.mark.parametrize(("frozen", "router"), [(True, "frozen"), (False, "learned")])
def test_a_configuration_from_before_routers_had_names(frozen, router, tmp_path) -> None:
    config = GPT2MoEConfig.from_dense(DENSE, MoEConfig())
    values = {name: value for name, value in config.to_dict().items() if name not in ("router", "loss_free_bias")}
    (tmp_path / "config.json").write_text(json.dumps(values | {"frozen_router": frozen}))
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.moe.router == router
    assert not again.loss_free_bias
    assert "frozen_router" not in again.to_dict()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="domain; got 'random'"):
        GPT2MoEConfig(router="random")
    with pytest.raises(ConfigError, match=r"moe.bias_rate must be 0 with moe.router 'hash'"):
        GPT2MoEConfig(router="hash", loss_free_bias=True)
    with pytest.raises(ConfigError, match="got 9"):
        GPT2MoEConfig(num_experts_per_tok=9)
    with pytest.raises(ConfigError, match="got 12"):
        GPT2MoEConfig(moe_layers=[12])
    with pytest.raises(ConfigError, match="'batch'"):
        GPT2MoEConfig(balance_window="batch")
    with pytest.raises(ConfigError, match="got 'softmax'"):
        GPT2MoEConfig(gate_scale="softmax")


def test_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="'llama' cannot be upcycled; known: gpt2"):
        family_of(LlamaConfig())


def test_inner_size_comes_from_the_config() -> None:
    assert family_of(DENSE).intermediate_size(DENSE) == 128
    assert family_of(DENSE).intermediate_size(GPT2Config(n_inner=77)) == 77
