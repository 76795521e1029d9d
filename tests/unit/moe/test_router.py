"""The gate: shapes, precision, weights, options, and what it refuses."""

import math

import pytest
import torch

from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.moe.router import Router, routing_context, set_noise_annealing
from moe_emergence.routing import RouterOutput, RoutingContext


def router(experts: int = 8, top_k: int = 1, **options) -> Router:
    torch.manual_seed(0)
    return Router(16, experts, top_k, **options)


def test_two_and_three_dimensional_and_strided_inputs_route_alike() -> None:
    gate, x = router(top_k=2), torch.randn(3, 5, 16)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    flat, batched, again = gate(x.reshape(15, 16)), gate(x), gate(strided)
    assert batched.topk_indices.shape == (15, 2)
    assert torch.equal(flat.router_logits, batched.router_logits)
    assert torch.equal(again.topk_indices, batched.topk_indices)


@pytest.mark.parametrize("shape", [(16,), (2, 2, 2, 16), (4, 15)])
def test_other_shapes_are_refused_with_the_shape(shape) -> None:
    with pytest.raises(ModelError, match=r"\[tokens, 16\].*got \[" + str(shape[0])):
        router()(torch.randn(*shape))


@pytest.mark.parametrize("top_k", [0, 9])
def test_top_k_out_of_range_names_both_values(top_k) -> None:
    with pytest.raises(ConfigError, match=rf"num_experts \(8\); got {top_k}"):
        router(top_k=top_k)


def test_unknown_gate_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match="renormalised, probability, sigmoid; got 'softmax'"):
        router(gate_scale="softmax")


def test_quantities_follow_from_the_raw_logits() -> None:
    gate, x = router(top_k=3), torch.randn(7, 16)
    route = gate.eval()(x)
    logits = x @ gate.gate.weight.T
    assert torch.allclose(route.router_logits, logits, atol=1e-6)
    assert torch.allclose(route.router_probs_clean, logits.softmax(-1), atol=1e-6)
    assert torch.allclose(route.entropy, -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1), atol=1e-6)
    assert torch.equal(route.topk_indices, logits.topk(3).indices)


def test_zero_gate_has_the_entropy_of_a_uniform_choice() -> None:
    gate = router()
    torch.nn.init.zeros_(gate.gate.weight)
    assert gate(torch.randn(3, 16)).entropy.tolist() == pytest.approx([math.log(8)] * 3)


def test_single_expert_weights_are_one_in_eval_without_graph() -> None:
    route = router().eval()(torch.randn(4, 16, requires_grad=True))
    assert torch.equal(route.topk_weights, torch.ones(4, 1))
    assert not route.topk_weights.requires_grad


def test_single_expert_weights_are_one_in_training_with_the_probability_s_gradient() -> None:
    gate = router(noise_std=0.5)
    route = gate(torch.randn(4, 16))
    assert torch.equal(route.topk_weights, torch.ones(4, 1))
    (through,) = torch.autograd.grad(route.topk_weights.sum(), gate.gate.weight, retain_graph=True)
    (soft,) = torch.autograd.grad(route.router_probs.amax(-1).sum(), gate.gate.weight)
    assert torch.allclose(through, soft)
    assert through.abs().max() > 0


def test_several_weights_are_renormalised() -> None:
    route = router(top_k=3)(torch.randn(4, 16))
    assert torch.allclose(route.topk_weights.sum(-1), torch.ones(4))
    assert torch.allclose(
        route.topk_weights[:, 0] / route.topk_weights[:, 1],
        route.router_probs.sort(descending=True).values[:, 0] / route.router_probs.sort(descending=True).values[:, 1],
    )


@pytest.mark.parametrize("top_k", [1, 2])
def test_other_gate_scales(top_k) -> None:
    x = torch.randn(4, 16)
    raw = router(top_k=top_k, gate_scale="probability")(x)
    assert torch.equal(raw.topk_weights, raw.router_probs.gather(1, raw.topk_indices))
    squashed = router(top_k=top_k, gate_scale="sigmoid")(x)
    assert torch.allclose(squashed.topk_weights, squashed.router_logits.gather(1, squashed.topk_indices).sigmoid())


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="learned, frozen, hash, round_robin, domain; got 'random'"):
        router(kind="random")


def test_frozen_gate_takes_no_gradient_and_still_routes() -> None:
    gate = router(kind="frozen")
    x = torch.randn(4, 16, requires_grad=True)
    gate(x).router_logits.sum().backward()
    assert gate.gate.weight.grad is None
    assert x.grad is not None


def test_autocast_does_not_lower_the_router() -> None:
    gate, x = router(), torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        route = gate(x)
    assert route.router_logits.dtype == torch.float32
    assert torch.equal(route.router_logits, gate(x).router_logits)


def test_half_precision_input_and_weights_are_lifted_and_double_stays() -> None:
    assert router()(torch.randn(4, 16, dtype=torch.bfloat16)).router_logits.dtype == torch.float32
    assert router().bfloat16()(torch.randn(4, 16, dtype=torch.bfloat16)).router_logits.dtype == torch.float32
    assert router().double()(torch.randn(4, 16, dtype=torch.float64)).entropy.dtype == torch.float64


def test_context_is_reset_also_on_error() -> None:
    gates = [router(), router()]
    context = RoutingContext(seed=1, step=0, sequence_index=torch.arange(2))
    with routing_context(gates, context):
        assert all(gate.context is context for gate in gates)
    assert all(gate.context is None for gate in gates)
    with pytest.raises(ModelError), routing_context(gates, context):
        gates[0](torch.randn(3))
    assert all(gate.context is None for gate in gates)


def test_context_that_does_not_fit_the_batch_is_refused() -> None:
    gate = router(noise_std=0.1)
    context = RoutingContext(seed=1, step=0, sequence_index=torch.arange(2))
    with (
        routing_context([gate], context),
        pytest.raises(ModelError, match="5 tokens do not divide into the routing context's 2 sequences"),
    ):
        gate(torch.randn(5, 16))


def test_negative_annealing_is_refused() -> None:
    with pytest.raises(ConfigError, match="must not be negative; got -1"):
        set_noise_annealing(router(), -1)


# Loss-free bias


def with_logits(*logits: float, bias: list[float], top_k: int = 1, **options) -> RouterOutput:
    """One token whose logits are these, through a router with this bias."""
    gate = Router(1, len(logits), top_k, loss_free_bias=True, **options).double()
    with torch.no_grad():
        gate.gate.weight.copy_(torch.tensor(logits).double().unsqueeze(1))
        gate.expert_bias.copy_(torch.tensor(bias))
    return gate(torch.ones(1, 1, dtype=torch.float64))


def test_biased_scores_choose_and_unbiased_ones_weigh() -> None:
    """Probabilities ½, ⅓, ⅙ and biases 0, ¼, −1: scores 0.5, 0.583, −0.833 put the second expert first."""
    probs, bias = [1 / 2, 1 / 3, 1 / 6], [0.0, 0.25, -1.0]
    logits = [math.log(p) for p in probs]
    one = with_logits(*logits, bias=bias, gate_scale="probability")
    assert one.topk_indices.tolist() == [[1]]
    assert one.topk_weights[0].tolist() == pytest.approx([1 / 3], abs=1e-7)
    two = with_logits(*logits, bias=bias, top_k=2)
    assert two.topk_indices.tolist() == [[1, 0]]
    assert two.topk_weights[0].tolist() == pytest.approx([2 / 5, 3 / 5], abs=1e-7)
    assert two.router_probs[0].tolist() == pytest.approx(probs, abs=1e-7)
    away = with_logits(*logits, bias=[-1.0, -1.0, 0.0], gate_scale="sigmoid")
    assert away.topk_indices.tolist() == [[2]]
    assert away.topk_weights.item() == pytest.approx(1 / 7)  # sigmoid(ln ⅙)


def test_a_single_biased_choice_stays_straight_through() -> None:
    gate = router(loss_free_bias=True, noise_std=0.5)
    gate.expert_bias.copy_(torch.linspace(-0.2, 0.2, 8))
    route = gate(torch.randn(40, 16))
    assert not torch.equal(route.topk_indices, route.router_probs.topk(1).indices)
    assert torch.equal(route.topk_indices, (route.router_probs + gate.expert_bias).topk(1).indices)
    assert torch.equal(route.topk_weights, torch.ones(40, 1))
    (through,) = torch.autograd.grad(route.topk_weights.sum(), gate.gate.weight, retain_graph=True)
    soft = route.router_probs.gather(1, route.topk_indices)
    assert torch.allclose(through, torch.autograd.grad(soft.sum(), gate.gate.weight)[0])
    assert not gate.expert_bias.requires_grad


def test_without_a_bias_nothing_is_added_and_a_bias_of_0_changes_no_bit() -> None:
    x = torch.randn(40, 16)
    off, on = router(top_k=2), router(top_k=2, loss_free_bias=True)
    assert list(off.state_dict()) == ["gate.weight"]
    assert off.expert_bias is None
    assert list(on.state_dict()) == ["expert_bias", "gate.weight"]
    assert [name for name, _ in on.named_parameters()] == ["gate.weight"]
    for name, value in vars(off(x)).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(on(x), name)), name


@pytest.mark.parametrize(
    ("counts", "signs"), [([3, 1, 2, 2], [-1, 1, 0, 0]), ([0, 0, 0, 8], [1, 1, 1, -1]), ([1, 1, 1, 2], [1, 1, 1, -1])]
)
def test_bias_moves_towards_the_mean_count(counts, signs) -> None:
    gate = router(experts=4, loss_free_bias=True)
    gate.update_bias(torch.tensor(counts), 0.125)
    assert gate.expert_bias.tolist() == [0.125 * sign for sign in signs]


def test_the_mean_is_compared_in_integers() -> None:
    """One assignment more than 2^60 is no difference to a float."""
    gate = router(experts=2, loss_free_bias=True)
    gate.update_bias(torch.tensor([2**60, 2**60 + 1]), 0.5)
    assert gate.expert_bias.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_bias_keeps_its_type_and_bits_whatever_the_rest_is_cast_to(dtype) -> None:
    gate = router(loss_free_bias=True)
    bias = torch.linspace(-0.7, 0.9, 8)
    gate.expert_bias.copy_(bias)
    wrapped = torch.nn.Sequential(gate).to(dtype)
    assert gate.gate.weight.dtype == dtype
    assert gate.expert_bias.dtype == torch.float32
    assert torch.equal(gate.expert_bias, bias)
    assert torch.equal(wrapped.float()[0].expert_bias, bias)
    assert gate.to("meta", dtype).expert_bias.is_meta
    assert gate.to_empty(device="cpu").expert_bias.dtype == torch.float32


# Null routers


@pytest.mark.parametrize("kind", ["hash", "round_robin"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_assigning_routers_say_what_they_do_and_no_more(kind, top_k) -> None:
    gate = router(top_k=top_k, kind=kind, noise_std=1.0, gate_scale="sigmoid")
    ids = torch.arange(40).view(2, 20)
    context = RoutingContext(seed=1, step=0, sequence_index=torch.arange(2), token_ids=ids, positions=ids % 20)
    before = torch.get_rng_state()
    with routing_context([gate], context):
        route = gate(torch.full((2, 20, 16), math.nan, requires_grad=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(len(set(experts)) == top_k for experts in route.topk_indices.tolist())
    assert route.topk_weights.tolist() == [[pytest.approx(1 / top_k)] * top_k] * 40
    if top_k == 1:
        assert torch.equal(route.topk_weights, torch.ones(40, 1))
    chosen = torch.zeros(40, 8).scatter(1, route.topk_indices, 1 / top_k)
    assert torch.equal(route.router_probs, chosen)
    assert torch.equal(route.router_probs_clean, chosen)
    assert torch.equal(route.router_logits, torch.zeros(40, 8))
    assert route.entropy.tolist() == pytest.approx([math.log(top_k)] * 40, abs=1e-6)
    assert not any(value.requires_grad for value in vars(route).values() if isinstance(value, torch.Tensor))
    assert not gate.gate.weight.requires_grad
    assert gate.gate.weight.shape == (8, 16)


@pytest.mark.parametrize(("kind", "name"), [("hash", "token_ids"), ("round_robin", "positions")])
def test_assigning_routers_alone_say_what_they_need(kind, name) -> None:
    gate = router(kind=kind)
    bare = RoutingContext(seed=1, step=0, sequence_index=torch.arange(1))
    for context in (None, bare):
        with (
            routing_context([gate], context),
            pytest.raises(ModelError, match=rf"a {kind} router goes by {name}.*RoutingContext\(…, {name}=…\)"),
        ):
            gate(torch.randn(4, 16))
    short = RoutingContext(seed=1, step=0, sequence_index=torch.arange(1), **{name: torch.arange(3).view(1, 3)})
    with routing_context([gate], short), pytest.raises(ModelError, match="3 token ids or positions for 4 tokens"):
        gate(torch.randn(4, 16))


def test_assigning_routers_have_no_bias() -> None:
    with pytest.raises(ConfigError, match="learned or frozen; got 'hash'"):
        router(kind="hash", loss_free_bias=True)


def test_a_context_has_one_source_of_loads() -> None:
    loads, counts = (torch.ones(2, 4),), (torch.ones(4, dtype=torch.long),)
    with pytest.raises(ModelError, match="got window_loads and earlier_counts"):
        RoutingContext(seed=1, step=0, sequence_index=torch.arange(2), window_loads=loads, earlier_counts=counts)
