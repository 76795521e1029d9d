"""What decays, what has the gate's rate, and what is not trained at all."""

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2LMHeadModel

from moe_emergence.config import OptimizerConfig
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.training.optimizer import make_optimizer, parameter_groups, set_learning_rate

CONFIG = OptimizerConfig(learning_rate=0.01, gate_multiplier=30.0, weight_decay=0.1, beta1=0.8, beta2=0.9, epsilon=1e-6)
GATE = "transformer.h.1.mlp.moe.router.gate.weight"


def names_of(optimizer: torch.optim.Optimizer, **wanted: float) -> set[str]:
    groups = [g for g in optimizer.param_groups if all(g[name] == value for name, value in wanted.items())]
    return {name for group in groups for name in group["names"]}


def test_matrices_alone_decay(make_moe: Callable[..., GPT2MoEForCausalLM]) -> None:
    """Not norms, biases (those of experts are stacked in two dimensions), embeddings or routers."""
    model = make_moe()
    optimizer = make_optimizer(model, CONFIG)
    experts = "transformer.h.1.mlp.moe.experts"
    dense = {f"transformer.h.{block}.attn.{part}.weight" for block in (0, 1) for part in ("c_attn", "c_proj")}
    dense |= {f"transformer.h.0.mlp.{part}.weight" for part in ("c_fc", "c_proj")}
    assert names_of(optimizer, weight_decay=0.1) == dense | {f"{experts}.up_proj", f"{experts}.down_proj"}
    shapes = dict(model.named_parameters())
    assert shapes[f"{experts}.up_proj_bias"].ndim == 2
    undecayed = names_of(optimizer, weight_decay=0.0)
    assert {f"{experts}.up_proj_bias", f"{experts}.down_proj_bias", GATE} <= undecayed
    assert {"transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight"} <= undecayed


def test_every_trained_parameter_is_in_one_group(make_moe: Callable[..., GPT2MoEForCausalLM]) -> None:
    model = make_moe()
    groups = parameter_groups(model, CONFIG)
    assert sorted(name for group in groups for name in group["names"]) == sorted(n for n, _ in model.named_parameters())
    assert all(
        dict(model.named_parameters())[name] is parameter
        for group in groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    )


def test_the_gate_alone_has_its_own_rate(make_moe: Callable[..., GPT2MoEForCausalLM]) -> None:
    optimizer = make_optimizer(make_moe(), CONFIG)
    set_learning_rate(optimizer, 0.002)
    assert names_of(optimizer, lr=0.06) == {GATE}
    assert {group["lr"] for group in optimizer.param_groups} == {0.06, 0.002}


def test_a_frozen_gate_is_in_no_group(make_moe: Callable[..., GPT2MoEForCausalLM]) -> None:
    optimizer = make_optimizer(make_moe(router="frozen"), CONFIG)
    assert GATE not in names_of(optimizer)
    assert {group["multiplier"] for group in optimizer.param_groups} == {1.0}


def test_a_dense_model_has_no_router_group(dense: GPT2LMHeadModel) -> None:
    optimizer = make_optimizer(dense, CONFIG)
    assert len(optimizer.param_groups) == 2
    assert names_of(optimizer) == {name for name, _ in dense.named_parameters()}


def test_an_update_is_adamw_s(dense: GPT2LMHeadModel) -> None:
    """By hand, the first update: w (1 − lr·decay) − lr · g / (|g| + ε)."""
    optimizer = make_optimizer(dense, CONFIG)
    weight, bias = dense.transformer.h[0].attn.c_attn.weight, dense.transformer.h[0].attn.c_attn.bias
    before = weight.detach().clone(), bias.detach().clone()
    gradients = torch.linspace(-1, 1, weight.numel()).view_as(weight), torch.linspace(-1, 1, bias.numel())
    weight.grad, bias.grad = (gradient.clone() for gradient in gradients)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    steps = [0.01 * g / (g.abs() + 1e-6) for g in gradients]
    assert torch.allclose(weight, before[0] * (1 - 0.01 * 0.1) - steps[0], atol=1e-6)
    assert torch.allclose(bias, before[1] - steps[1], atol=1e-6)


@pytest.mark.parametrize("name", ["beta1", "beta2", "epsilon"])
def test_the_configured_constants_arrive(dense: GPT2LMHeadModel, name: str) -> None:
    group = make_optimizer(dense, CONFIG).param_groups[0]
    assert {"beta1": group["betas"][0], "beta2": group["betas"][1], "epsilon": group["eps"]}[name] == getattr(
        CONFIG, name
    )
