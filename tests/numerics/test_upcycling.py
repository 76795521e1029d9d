"""Upcycling: the dense model at perturbation 0, perturbed as stated otherwise, and nothing else touched."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from moe_emergence.config import MoEConfig
from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.models.configuration import GPT2MoEConfig
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import (
    active_parameters,
    ancestor_state,
    install_moe_layers,
    upcycle,
    upcycle_receipt,
)
from moe_emergence.moe.layer import MoEWrapper, record_routing

EXACT = MoEConfig(perturbation=0.0, noise_std=0.0)
STACKS = {
    "up_proj": "c_fc.weight",
    "up_proj_bias": "c_fc.bias",
    "down_proj": "c_proj.weight",
    "down_proj_bias": "c_proj.bias",
}


def experts(model: GPT2MoEForCausalLM, block: int, name: str) -> torch.Tensor:
    return model.get_parameter(f"transformer.h.{block}.mlp.moe.experts.{name}").detach()


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("options", [{}, {"layers": (0, 2)}, {"layers": (0, 1, 2)}, {"top_k": 2}, {"num_experts": 3}])
def test_unperturbed_it_is_the_dense_model(make_dense, tokens, options, implementation) -> None:
    dense = make_dense()
    moe = upcycle(
        dense, MoEConfig(perturbation=0.0, noise_std=0.0, **options), seed=1, experts_implementation=implementation
    )
    receipt = upcycle_receipt(dense, moe, tokens)
    assert receipt.relative_logit_difference <= 1e-5
    assert abs(receipt.kl_nats) <= 1e-8
    assert abs(receipt.lm_loss_difference) <= 1e-5


def test_in_training_too_it_is_the_dense_model_forward(make_dense, tokens) -> None:
    dense = make_dense().train()
    moe = upcycle(dense, EXACT, seed=1)
    assert moe.training
    assert torch.allclose(moe(input_ids=tokens).logits, dense(input_ids=tokens).logits, rtol=1e-5, atol=1e-5)


def test_receipt_shows_a_difference_when_there_is_one(make_dense, tokens) -> None:
    dense = make_dense()
    receipt = upcycle_receipt(dense, upcycle(dense, MoEConfig(perturbation=0.5), seed=1), tokens)
    assert receipt.relative_logit_difference > 1e-2
    assert receipt.kl_nats > 1e-3
    assert receipt.lm_loss_difference == pytest.approx(receipt.upcycled_lm_loss - receipt.dense_lm_loss)
    assert receipt.dense_lm_loss == pytest.approx(dense(input_ids=tokens, labels=tokens).loss.item(), rel=1e-6)
    assert set(receipt.to_dict()) >= {"parameters_total", "parameters_dense", "parameters_active"}


def test_receipt_leaves_modes_as_they_were(make_dense, tokens) -> None:
    dense = make_dense(resid_pdrop=0.5).train()
    moe = upcycle(dense, EXACT, seed=1)
    assert upcycle_receipt(dense, moe, tokens).relative_logit_difference <= 1e-5
    assert dense.training
    assert moe.training


def test_dense_model_and_global_generators_are_left_alone(make_dense) -> None:
    dense = make_dense()
    before, config = copy.deepcopy(dense.state_dict()), dense.config.to_dict()
    state = torch.get_rng_state()
    moe = upcycle(dense, MoEConfig(), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert dense.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    owned = {p.data_ptr() for p in dense.parameters()}
    assert not any(p.data_ptr() in owned for p in moe.parameters())


def test_perturbation_is_a_share_of_each_parameter_s_own_spread(make_dense) -> None:
    dense = make_dense(n_embd=64)
    moe = upcycle(dense, MoEConfig(perturbation=1e-3, layers=(2,)), seed=1)
    for stack, name in STACKS.items():
        ancestor = dense.get_parameter(f"transformer.h.2.mlp.{name}").detach()
        change = experts(moe, 2, stack) - ancestor
        assert float(change.std() / ancestor.std(correction=0)) == pytest.approx(1e-3, rel=0.1), stack
        assert len({tuple(one.flatten()[:4].tolist()) for one in change}) == 8, "experts must differ from each other"


def test_constant_parameter_stays(make_dense) -> None:
    dense = make_dense()
    torch.nn.init.constant_(dense.transformer.h[2].mlp.c_fc.bias, 0.25)
    moe = upcycle(dense, MoEConfig(perturbation=0.1, layers=(2,)), seed=1)
    assert torch.equal(experts(moe, 2, "up_proj_bias"), torch.full((8, 64), 0.25))
    assert not torch.equal(experts(moe, 2, "up_proj")[0], dense.transformer.h[2].mlp.c_fc.weight)


def test_gates_are_drawn_from_the_seed_with_the_base_s_initial_spread(make_dense) -> None:
    dense = make_dense(n_embd=256, initializer_range=0.02)
    gates = [upcycle(dense, MoEConfig(layers=(1, 2)), seed=seed).get_parameter(GATE.format(1)) for seed in (1, 1, 2)]
    assert torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[0], gates[2])
    assert float(gates[0].std()) == pytest.approx(0.02, rel=0.1)
    other_block = upcycle(dense, MoEConfig(layers=(1, 2)), seed=1).get_parameter(GATE.format(2))
    assert not torch.equal(gates[0], other_block)


GATE = "transformer.h.{}.mlp.moe.router.gate.weight"


def test_arms_share_what_they_have_in_common(make_dense) -> None:
    dense = make_dense()
    base = upcycle(dense, MoEConfig(layers=(2,)), seed=1)
    more_slots = upcycle(dense, MoEConfig(layers=(2,), top_k=2), seed=1)
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), more_slots.parameters(), strict=True))
    more_layers = upcycle(dense, MoEConfig(layers=(1, 2)), seed=1)
    exact = upcycle(dense, MoEConfig(layers=(2,), perturbation=0.0), seed=1)
    for other in (more_layers, exact):
        assert torch.equal(base.get_parameter(GATE.format(2)), other.get_parameter(GATE.format(2)))
    fewer = upcycle(dense, MoEConfig(layers=(2,), num_experts=4), seed=1)
    assert torch.equal(experts(base, 2, "up_proj")[:4], experts(fewer, 2, "up_proj"))


def test_hidden_size_and_dropout_come_from_the_config(make_dense, tokens) -> None:
    dense = make_dense(n_inner=24, resid_pdrop=0.3, activation_function="relu")
    moe = upcycle(dense, EXACT, seed=1)
    assert experts(moe, 2, "up_proj").shape == (8, 16, 24)
    assert moe.transformer.h[2].mlp.moe.dropout.p == 0.3
    assert upcycle_receipt(dense, moe, tokens).relative_logit_difference <= 1e-5


def test_half_precision_base_keeps_its_type_and_the_router_its_own(make_dense, tokens) -> None:
    moe = upcycle(make_dense(torch.bfloat16), EXACT, seed=1)
    assert experts(moe, 2, "up_proj").dtype == torch.bfloat16
    assert moe.get_parameter(GATE.format(2)).dtype == torch.float32
    assert moe(input_ids=tokens).logits.dtype == torch.bfloat16


def test_weights_stay_tied_and_frozen_gates_frozen(make_dense) -> None:
    moe = upcycle(make_dense(), MoEConfig(router="frozen"), seed=1)
    assert moe.lm_head.weight is moe.transformer.wte.weight
    untrained = [name for name, p in moe.named_parameters() if not p.requires_grad]
    assert untrained == [GATE.format(2)]


def test_ancestor_state_holds_the_mlps_and_no_more(make_dense) -> None:
    dense = make_dense()
    state = ancestor_state(dense, (1, 2))
    assert set(state) == {f"transformer.h.{i}.mlp.{name}" for i in (1, 2) for name in STACKS.values()}
    moe = upcycle(dense, EXACT, seed=1)
    assert torch.equal(experts(moe, 2, "down_proj")[5], state["transformer.h.2.mlp.c_proj.weight"])
    with torch.no_grad():
        dense.transformer.h[1].mlp.c_fc.bias.zero_()
    assert state["transformer.h.1.mlp.c_fc.bias"].abs().max() > 0, "must be a copy"


def test_install_changes_a_stock_model_in_place(make_dense, tokens) -> None:
    dense = make_dense()
    expected = dense(input_ids=tokens).logits
    state = torch.get_rng_state()
    assert install_moe_layers(dense, EXACT, seed=1) == (2,)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(dense.transformer.h[2].mlp, MoEWrapper)
    with record_routing(dense) as routes:
        assert torch.allclose(dense(input_ids=tokens).logits, expected, rtol=1e-5, atol=1e-5)
    assert [route.layer_idx for route in routes] == [2]
    assert torch.equal(routes[0].router_logits, upcycle(make_dense(), EXACT, seed=1)(input_ids=tokens).router_logits[0])


def test_what_cannot_be_upcycled_is_refused(make_dense) -> None:
    dense = make_dense()
    with pytest.raises(ConfigError, match=r"between 0 and 2 \(the model has 3 blocks\); got 3"):
        upcycle(dense, MoEConfig(layers=(3,)), seed=1)
    with pytest.raises(ModelError, match="language-modelling head; got GPT2Model"):
        upcycle(dense.transformer, MoEConfig(), seed=1)
    with pytest.raises(ModelError, match="got GPT2MoEForCausalLM"):
        upcycle(upcycle(dense, MoEConfig(), seed=1), MoEConfig(), seed=1)
    install_moe_layers(dense, MoEConfig(), seed=1)
    with pytest.raises(ModelError, match="block 2 already holds"):
        install_moe_layers(dense, MoEConfig(), seed=1)


def test_parameters_of_gpt2_small() -> None:
    with torch.device("meta"):
        dense, moe = GPT2LMHeadModel(GPT2Config()), GPT2MoEForCausalLM(GPT2MoEConfig())
    assert moe.moe_layer_indices == (8, 9, 10, 11)
    assert dense.num_parameters() == 124_439_808
    assert moe.num_parameters() == 256_692_480
    assert active_parameters(moe) == 124_439_808 + 24_576


def test_active_parameters_of_more_slots() -> None:
    with torch.device("meta"):
        moe = GPT2MoEForCausalLM(GPT2MoEConfig(num_experts_per_tok=2))
        mlp = sum(p.numel() for p in GPT2Model(GPT2Config(n_layer=1)).h[0].mlp.parameters())
    assert active_parameters(moe) == 124_439_808 + 24_576 + 4 * mlp
