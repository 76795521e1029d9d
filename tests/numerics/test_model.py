"""The registered model: losses, padding, generation, saving, and the ways others drive it."""

import copy
import math

import pytest
import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM

from moe_emergence.errors import ModelError
from moe_emergence.models.gpt2_moe import (
    GPT2MoEForCausalLM,
    MoECausalLMOutput,
    causal_lm_loss,
    collect_aux_outputs,
)
from moe_emergence.moe.layer import record_routing
from moe_emergence.moe.losses import compute_load_balance_loss, compute_z_loss
from moe_emergence.moe.router import routers_of
from moe_emergence.routing import RouterOutput, RoutingContext


def gradient(model: GPT2MoEForCausalLM, tokens: torch.Tensor, block: int = 1, **arguments) -> torch.Tensor:
    model.zero_grad()
    model(input_ids=tokens, labels=tokens, **arguments).loss.backward()
    return model.get_parameter(f"transformer.h.{block}.mlp.moe.router.gate.weight").grad.clone()


def left_padded(tokens: torch.Tensor, padding: int) -> dict[str, torch.Tensor]:
    """The sequences with `padding` junk tokens in front, masked, and positions counted from the first real one."""
    junk = torch.full((len(tokens), padding), 7)
    mask = torch.cat([torch.zeros_like(junk), torch.ones_like(tokens)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": torch.cat([junk, tokens], dim=1), "attention_mask": mask, "position_ids": positions}


def test_output_carries_a_record_a_layer_in_order(make_moe, tokens) -> None:
    model = make_moe(top_k=2)
    output = model(input_ids=tokens)
    assert model.moe_layer_indices == (1, 2)
    assert [route.layer_idx for route in output.routes] == [1, 2]
    assert all(isinstance(route, RouterOutput) and route.topk_indices.shape == (96, 2) for route in output.routes)
    assert all(r is route.router_logits for r, route in zip(output.router_logits, output.routes, strict=True))
    assert output.loss is None
    with record_routing(model) as recorded:
        model(input_ids=tokens)
    assert [torch.equal(a.entropy, b.entropy) for a, b in zip(recorded, output.routes, strict=True)] == [True, True]


def test_recording_twice_records_once_each(make_moe, tokens) -> None:
    model = make_moe()
    assert len(model(input_ids=tokens).routes) == 2
    assert len(model(input_ids=tokens).routes) == 2
    assert len(copy.deepcopy(model)(input_ids=tokens).routes) == 2


def test_losses_are_four_names(make_moe, tokens) -> None:
    model = make_moe(balance_coef=0.5, z_coef=0.25).train()
    output = model(input_ids=tokens, labels=tokens)
    expected = output.lm_loss + 0.5 * output.load_balancing_loss + 0.25 * output.router_z_loss
    assert output.loss.item() == pytest.approx(expected.item())
    assert torch.equal(output.aux_loss, output.load_balancing_loss)
    assert torch.equal(output.load_balancing_loss, compute_load_balance_loss(output.routes))
    assert torch.equal(output.router_z_loss, compute_z_loss(output.routes))
    logits = output.logits[:, :-1].reshape(-1, 40)
    assert torch.allclose(output.lm_loss, F.cross_entropy(logits, tokens[:, 1:].reshape(-1)))


def test_loss_is_the_lm_loss_in_eval(make_moe, tokens) -> None:
    output = make_moe(balance_coef=0.5)(input_ids=tokens, labels=tokens)
    assert output.loss is output.lm_loss
    assert output.load_balancing_loss > 0


@pytest.mark.parametrize("name", ["balance_coef", "z_coef"])
@pytest.mark.parametrize("logits_asked_for", [None, True, False])
def test_coefficients_change_the_gradient_whether_or_not_logits_are_asked_for(
    make_moe, tokens, name, logits_asked_for
) -> None:
    off = {"balance_coef": 0.0, "z_coef": 0.0, "noise_std": 0.0}
    without = gradient(make_moe(**off).train(), tokens, output_router_logits=logits_asked_for)
    acting = gradient(make_moe(**off | {name: 1.0}).train(), tokens, output_router_logits=logits_asked_for)
    assert (acting - without).abs().max() > 1e-3


def test_router_logits_can_be_left_out(make_moe, tokens) -> None:
    output = make_moe()(input_ids=tokens, output_router_logits=False)
    assert output.router_logits is None
    assert len(output.routes) == 2


def test_labels_of_minus_100_do_not_count(make_moe, tokens) -> None:
    model, labels = make_moe(), tokens.clone()
    labels[:, :6] = -100
    logits = model(input_ids=tokens).logits
    expected = F.cross_entropy(logits[:, 5:-1].reshape(-1, 40), tokens[:, 6:].reshape(-1))
    assert torch.allclose(model(input_ids=tokens, labels=labels).lm_loss, expected)


def test_lm_loss_keeps_double_and_lifts_half_precision(tokens) -> None:
    logits = torch.randn(8, 12, 40, dtype=torch.float64)
    assert causal_lm_loss(logits, tokens).dtype == torch.float64
    assert causal_lm_loss(logits.bfloat16(), tokens).dtype == torch.float32


def test_trainer_s_accumulation_is_exact(make_moe, tokens) -> None:
    """transformers' Trainer sums the losses of micro-batches, each told the number of labels in the whole step."""
    model = make_moe(torch.float64, balance_coef=0.5, z_coef=0.5, noise_std=0.0, balance_window="sequence").train()
    whole = gradient(model, tokens)
    model.zero_grad()
    for micro in tokens.split(2):
        model(input_ids=micro, labels=micro, num_items_in_batch=torch.tensor(8 * 11)).loss.backward()
    summed = model.get_parameter("transformer.h.1.mlp.moe.router.gate.weight").grad
    assert torch.allclose(summed, whole, atol=1e-12)


def test_left_padded_batch_is_the_single_sequence(make_moe, tokens) -> None:
    model = make_moe()
    single = model(input_ids=tokens[:1])
    padded = model(**left_padded(tokens[:1], 5))
    assert torch.allclose(padded.logits[:, 5:], single.logits, atol=1e-5)
    for ours, theirs in zip(padded.routes, single.routes, strict=True):
        assert torch.equal(ours.topk_indices[5:], theirs.topk_indices)
    for name in ("load_balancing_loss", "router_z_loss"):
        assert torch.allclose(padded[name], single[name], atol=1e-5)


def test_padding_differs_if_it_is_not_masked(make_moe, tokens) -> None:
    model, batch = make_moe(), left_padded(tokens[:1], 5)
    unmasked = model(input_ids=batch["input_ids"])
    assert not torch.allclose(unmasked.load_balancing_loss, model(**batch).load_balancing_loss, atol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_generation_with_cache_is_generation_without(make_moe, tokens, top_k, implementation) -> None:
    model = make_moe(top_k=top_k, implementation=implementation)
    options = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = model.generate(tokens[:2, :6], use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(tokens[:2, :6], use_cache=False, **options))
    assert with_cache.shape == (2, 21)


def test_left_padded_generation_is_that_of_the_single_sequence(make_moe, tokens) -> None:
    model = make_moe()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    alone = model.generate(tokens[:1, :6], **options)
    batch = left_padded(tokens[:1, :6], 3)
    together = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **options)
    assert torch.equal(together[:, 3:], alone)


def test_generation_computes_no_router_loss(make_moe, tokens) -> None:
    model = make_moe()
    first = model(input_ids=tokens, use_cache=True)
    step = model(input_ids=tokens[:, :1], past_key_values=first.past_key_values, use_cache=True)
    assert first.load_balancing_loss is not None
    assert step.load_balancing_loss is None
    assert step.aux_loss is None
    assert len(step.routes[0].entropy) == 8


def test_saved_and_loaded_it_is_the_same_bit_for_bit(make_moe, tokens, tmp_path) -> None:
    model = make_moe(top_k=2, balance_window="blocks:2", router="frozen")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert type(loaded) is GPT2MoEForCausalLM
    assert loaded.config.moe == model.config.moe
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    assert not routers_of(loaded)[0].gate.weight.requires_grad
    backbone = AutoModel.from_pretrained(tmp_path, experts_implementation="eager")
    assert torch.equal(backbone(tokens).last_hidden_state, model.transformer(tokens).last_hidden_state)


def test_tied_weights_are_stored_once_in_one_file(make_moe, tmp_path) -> None:
    make_moe().save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    with safe_open(weights, "pt") as stored:
        names = set(stored.keys())
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names
    assert "transformer.h.1.mlp.moe.router.gate.weight" in names
    loaded = GPT2MoEForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_loading_in_half_precision_leaves_the_router_in_single(make_moe, tokens, tmp_path) -> None:
    make_moe().save_pretrained(tmp_path)
    loaded = GPT2MoEForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.transformer.h[1].mlp.moe.experts.up_proj.dtype == torch.bfloat16
    assert loaded.transformer.h[1].mlp.moe.router.gate.weight.dtype == torch.float32
    assert loaded(input_ids=tokens).routes[0].router_logits.dtype == torch.float32


@pytest.mark.parametrize("head", [True, False])
def test_a_fresh_model_initialises_its_experts_and_gates(make_moe, head) -> None:
    torch.manual_seed(0)
    config = make_moe().config
    fresh = GPT2MoEForCausalLM(config) if head else AutoModel.from_config(config)
    layer = fresh.base_model.h[2].mlp.moe
    assert float(layer.experts.up_proj.detach().std()) == pytest.approx(0.3, rel=0.1)
    assert float(layer.experts.down_proj.detach().std()) == pytest.approx(0.3 / math.sqrt(6), rel=0.1)
    assert float(layer.router.gate.weight.detach().std()) == pytest.approx(0.3, rel=0.3)
    assert torch.count_nonzero(layer.experts.up_proj_bias) == 0
    assert all(torch.isfinite(p).all() for p in fresh.parameters())


def test_implementation_can_be_switched(make_moe, tokens) -> None:
    model = make_moe()
    before = model(input_ids=tokens).logits
    model.set_experts_implementation("batched_mm")
    assert model.transformer.h[1].mlp.moe.experts.config._experts_implementation == "batched_mm"
    assert torch.allclose(model(input_ids=tokens).logits, before, atol=1e-5)


def test_logits_can_be_kept_for_the_last_position_alone(make_moe, tokens) -> None:
    model = make_moe()
    last = model(input_ids=tokens, logits_to_keep=1)
    assert torch.allclose(last.logits, model(input_ids=tokens).logits[:, -1:], atol=1e-6)
    assert len(last.routes[0].entropy) == 96


def test_context_is_gone_after_the_forward_and_after_an_error(make_moe, tokens) -> None:
    model = make_moe(noise_std=0.1).train()
    context = RoutingContext(seed=1, step=0, sequence_index=torch.arange(8))
    model(input_ids=tokens, routing_context=context)
    assert all(router.context is None for router in routers_of(model))
    with pytest.raises(ModelError, match="do not divide"):
        model(input_ids=tokens[:5, :11], routing_context=context)
    assert all(router.context is None for router in routers_of(model))


def test_equal_keys_give_equal_routes_and_others_do_not(make_moe, tokens) -> None:
    model = make_moe(noise_std=2.0).train()

    def indices(**key: int) -> torch.Tensor:
        context = RoutingContext(sequence_index=torch.arange(8), **({"seed": 1, "step": 0} | key))
        return model(input_ids=tokens, routing_context=context).routes[0].topk_indices

    assert torch.equal(indices(), indices())
    assert not torch.equal(indices(), indices(step=1))
    assert not torch.equal(indices(), indices(seed=2))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_is_refused(make_moe) -> None:
    with pytest.raises(ValueError, match=r"does not support (gradient|activation) checkpointing"):
        make_moe().gradient_checkpointing_enable()


def test_autocast_runs_the_router_in_single_precision(make_moe, tokens) -> None:
    model = make_moe().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(input_ids=tokens, labels=tokens)
    assert output.routes[0].router_logits.dtype == torch.float32
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_collected_records_have_the_names_that_metrics_read(make_moe, tokens) -> None:
    model = make_moe(top_k=2).train()
    records = collect_aux_outputs(model(input_ids=tokens))
    assert [(r["layer_idx"], r["n_experts"], r["topk"]) for r in records] == [(1, 4, 2), (2, 4, 2)]
    tensors = {name: value for name, value in records[0].items() if isinstance(value, torch.Tensor)}
    assert set(tensors) == {
        "topk_indices",
        "topk_weights",
        "router_probs",
        "router_probs_clean",
        "router_logits",
        "entropy",
    }
    assert not any(value.requires_grad for value in tensors.values())


def test_tuples_and_hidden_states_as_everywhere_in_transformers(make_moe, tokens) -> None:
    model = make_moe()
    output = model(input_ids=tokens, labels=tokens, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    assert torch.equal(model(input_ids=tokens, labels=tokens, return_dict=False)[0], output.loss)


def test_accelerate_s_conversion_leaves_the_output_whole(make_moe, tokens) -> None:
    model = make_moe().bfloat16()
    output = convert_outputs_to_fp32(model.forward)(input_ids=tokens, labels=tokens)
    assert output.logits.dtype == torch.float32
    assert len(output.routes) == 2


def test_an_output_without_records_is_an_error() -> None:
    with pytest.raises(ModelError, match="carries no routing records"):
        collect_aux_outputs(MoECausalLMOutput(loss=torch.tensor(1.0)))


def test_a_cache_does_not_turn_the_router_losses_off_in_training(make_moe, tokens) -> None:
    model = make_moe(balance_coef=1.0).train()
    cache = model(input_ids=tokens[:, :6], use_cache=True).past_key_values
    output = model(input_ids=tokens[:, 6:], labels=tokens[:, 6:], past_key_values=cache)
    assert (output.loss - output.lm_loss).item() > 0.5
