"""The gate: shapes, precision, weights, options, and what it refuses."""

import math

import pytest
import torch

from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.moe.router import Router, routing_context, set_noise_annealing
from moe_emergence.routing import RoutingContext


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
