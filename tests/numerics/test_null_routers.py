"""Routers by token id and by position in the registered model: the same whichever way a forward is made."""

import copy

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from moe_emergence.errors import ModelError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import install_moe_layers
from moe_emergence.moe.assignment import hash_experts, round_robin_experts
from moe_emergence.moe.layer import record_routing
from moe_emergence.moe.router import routers_of, routing_context
from moe_emergence.routing import RoutingContext, expert_counts

KINDS = ["hash", "round_robin"]
GENERATION = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
ORDER = torch.tensor([5, 2, 0, 7, 1, 4, 6, 3])


def expected_experts(kind: str, ids: torch.Tensor, top_k: int = 1) -> torch.Tensor:
    """[tokens, slots] for sequences that start at position 0."""
    if kind == "hash":
        return hash_experts(ids.reshape(-1), 4, top_k)
    return round_robin_experts(torch.arange(ids.shape[1]).expand_as(ids).reshape(-1), 4, top_k)


def context(**extra: torch.Tensor) -> RoutingContext:
    return RoutingContext(seed=1, step=0, sequence_index=torch.arange(8), **extra)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_forward_routes_by_the_token_alone(make_moe, tokens, kind, top_k) -> None:
    """In training and evaluation, with and without context, whatever the weights, the batch and its order."""
    model = make_moe(router=kind, top_k=top_k, noise_std=1.0)
    expected = expected_experts(kind, tokens, top_k)
    other_weights = copy.deepcopy(model)
    torch.nn.init.normal_(other_weights.transformer.wte.weight)
    forwards = [
        model(input_ids=tokens),
        model.train()(input_ids=tokens),
        model(input_ids=tokens, labels=tokens, routing_context=context()),
        other_weights(input_ids=tokens),
    ]
    for output in forwards:
        assert all(torch.equal(route.topk_indices, expected) for route in output.routes)
    shuffled = model(input_ids=tokens[ORDER]).routes[1].topk_indices
    assert torch.equal(shuffled.view(8, 12, -1), expected.view(8, 12, -1)[ORDER])
    assert all(router.context is None for router in routers_of(model))


def test_a_token_has_one_expert_at_every_position(make_moe) -> None:
    route = make_moe(router="hash")(input_ids=torch.full((2, 12), 17)).routes[0]
    assert len(set(route.topk_indices.flatten().tolist())) == 1


@pytest.mark.parametrize("top_k", [1, 2])
def test_round_robin_loads_are_exactly_equal(make_moe, tokens, top_k) -> None:
    for route in make_moe(router="round_robin", top_k=top_k)(input_ids=tokens).routes:
        assert expert_counts(route.topk_indices, 4, groups=8).tolist() == [[3 * top_k] * 4] * 8


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_generation_routes_each_token_the_same_with_cache_and_without(make_moe, tokens, kind, top_k) -> None:
    model, generated = make_moe(router=kind, top_k=top_k), []
    for use_cache in (True, False):
        with record_routing(model) as routes:
            generated.append(model.generate(tokens[:1, :6], use_cache=use_cache, **GENERATION))
        first_layer = [route.topk_indices for route in routes if route.layer_idx == 1]
        whole = torch.cat(first_layer) if use_cache else first_layer[-1]
        assert len(first_layer) == 15
        assert torch.equal(whole, expected_experts(kind, generated[-1][:, :-1], top_k))
    assert torch.equal(*generated)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_counts_as_the_past(make_moe, tokens, kind) -> None:
    model = make_moe(router=kind)
    first = model(input_ids=tokens[:, :5], use_cache=True)
    rest = model(input_ids=tokens[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    whole = model(input_ids=tokens)
    assert torch.allclose(rest.logits, whole.logits[:, 5:], atol=1e-5)
    expected = expected_experts(kind, tokens).view(8, 12, 1)[:, 5:]
    assert torch.equal(rest.routes[0].topk_indices.view(8, 7, 1), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padded_generation_is_that_of_the_single_sequence(make_moe, tokens, kind) -> None:
    model = make_moe(router=kind)
    alone = model.generate(tokens[:1, :6], **GENERATION)
    padded = torch.cat([torch.full((1, 3), 7), tokens[:1, :6]], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    assert torch.equal(model.generate(padded, attention_mask=mask, **GENERATION)[:, 3:], alone)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_passes_through_the_router(make_moe, tokens, kind, top_k) -> None:
    model = make_moe(router=kind, top_k=top_k, balance_coef=1.0, z_coef=1.0).train()
    output = model(input_ids=tokens, labels=tokens)
    assert not output.load_balancing_loss.requires_grad
    assert not output.router_z_loss.requires_grad
    output.loss.backward()
    for router in routers_of(model):
        assert router.gate.weight.grad is None
        assert router.gate.weight.shape == (4, 16)
    trained = [name for name, p in model.named_parameters() if p.grad is not None]
    assert len(trained) == len(list(model.parameters())) - 2


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_routes_the_same(make_moe, tokens, kind, tmp_path) -> None:
    model = make_moe(router=kind)
    assert set(model.state_dict()) == set(make_moe().state_dict())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    assert not any(router.gate.weight.requires_grad for router in routers_of(loaded))
    backbone = AutoModel.from_pretrained(tmp_path, experts_implementation="eager")
    assert torch.equal(backbone(tokens).last_hidden_state, model.transformer(tokens).last_hidden_state)


def test_embeddings_in_place_of_ids(make_moe, tokens) -> None:
    by_id, by_position = make_moe(router="hash"), make_moe(router="round_robin")
    embeddings = by_id.transformer.wte(tokens)
    assert torch.equal(by_position(inputs_embeds=embeddings).logits, by_position(input_ids=tokens).logits)
    told = by_id(inputs_embeds=embeddings, routing_context=context(token_ids=tokens))
    assert torch.equal(told.logits, by_id(input_ids=tokens).logits)
    with pytest.raises(ModelError, match=r"a hash router goes by token_ids, and has none: call .* with input_ids"):
        by_id(inputs_embeds=embeddings)
    assert all(router.context is None for router in routers_of(by_id))


def test_in_a_stock_model_the_context_is_set_by_hand(make_dense, make_moe, tokens) -> None:
    dense = make_dense()
    moe = make_moe(router="hash").config.moe
    install_moe_layers(dense, moe, seed=3)
    with pytest.raises(ModelError, match=r"routing_context\(routers_of\(model\)"):
        dense(input_ids=tokens)
    with routing_context(routers_of(dense), context(token_ids=tokens)), record_routing(dense) as routes:
        dense(input_ids=tokens)
    assert torch.equal(routes[0].topk_indices, expected_experts("hash", tokens))


def test_the_losses_of_an_assignment(make_moe, tokens) -> None:
    """Round robin is balanced and its logits are 0: 1 and (ln E)²."""
    output = make_moe(router="round_robin")(input_ids=tokens)
    assert output.load_balancing_loss.item() == pytest.approx(1)
    assert output.router_z_loss.item() == pytest.approx(torch.tensor(4.0).log().item() ** 2)


def test_a_fresh_model_has_the_router_of_its_configuration(make_moe) -> None:
    fresh = GPT2MoEForCausalLM(make_moe(router="round_robin").config)
    assert [router.kind for router in routers_of(fresh)] == ["round_robin"] * 2
    assert not any(router.gate.weight.requires_grad for router in routers_of(fresh))
