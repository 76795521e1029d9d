"""The LM loss alone trains the router: its gradient is that of the soft surrogate, and is not zero."""

import pytest
import torch

from moe_emergence.moe.reference import reference_experts
from moe_emergence.moe.router import Router, set_noise_annealing


@pytest.mark.parametrize("noise_std", [0.0, 0.5])
@pytest.mark.parametrize("block", [1, 2])
def test_top1_gradient_is_the_soft_surrogate_s(make_moe, tokens, block, noise_std) -> None:
    model = make_moe(torch.float64, noise_std=noise_std).train()
    set_noise_annealing(model, 10)
    layer = model.get_submodule(f"transformer.h.{block}.mlp.moe")
    seen = {}

    def keep(module, args, output) -> None:
        output[0].retain_grad()
        seen.update(x=args[0].detach().reshape(-1, 16), output=output[0], route=output[1])

    handle = layer.register_forward_hook(keep)
    model(input_ids=tokens, labels=tokens).lm_loss.backward()
    handle.remove()
    # The surrogate: were each token's output p × expert(x), with p the chosen expert's probability, then
    # dL/dp = <dL/d output, expert(x)>, taken where the layer in truth is: at weight 1.
    route, ones = seen["route"], torch.ones(96, 1, dtype=torch.float64)
    unweighted = reference_experts(layer.experts, seen["x"], route.topk_indices, ones).detach()
    pull = (seen["output"].grad.reshape(-1, 16) * unweighted).sum(-1)
    noise = (route.router_probs.log() - route.router_probs_clean.log()).detach()
    gate = layer.router.gate.weight.detach().requires_grad_()
    probs = (seen["x"] @ gate.T + noise).softmax(-1)
    surrogate = (pull * probs.gather(1, route.topk_indices).squeeze(1)).sum()
    (expected,) = torch.autograd.grad(surrogate, gate)
    assert expected.abs().max() > 1e-4
    assert torch.allclose(layer.router.gate.weight.grad, expected, atol=1e-12)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_lm_loss_alone_reaches_every_gate(make_moe, tokens, top_k) -> None:
    model = make_moe(top_k=top_k).train()
    model(input_ids=tokens, labels=tokens).lm_loss.backward()
    for block in (1, 2):
        gradient = model.get_parameter(f"transformer.h.{block}.mlp.moe.router.gate.weight").grad
        assert gradient.abs().max() > 1e-6


def test_top2_gradient_is_that_of_finite_differences(make_moe, tokens) -> None:
    model = make_moe(torch.float64, top_k=2, noise_std=0.0).train()
    gate = model.get_parameter("transformer.h.2.mlp.moe.router.gate.weight")
    model(input_ids=tokens, labels=tokens).lm_loss.backward()
    direction = torch.randn(gate.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    around = []
    with torch.no_grad():
        for sign in (1, -1):
            gate += sign * 1e-6 * direction
            around.append(float(model(input_ids=tokens, labels=tokens).lm_loss))
            gate -= sign * 1e-6 * direction
    assert float((gate.grad * direction).sum()) == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_gate_that_only_reads_learns_as_before_and_sends_nothing_back(top_k) -> None:
    hidden = torch.randn(12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = {}
    for detached in (False, True):
        router = Router(16, 4, top_k, noise_std=0.0, detach_input=detached).double().train()
        router.gate.weight.data.copy_(weight)
        given = hidden.clone().requires_grad_()
        route = router(given)
        (route.topk_weights[:, 0].sin().sum() + route.router_probs.square().sum()).backward()
        found[detached] = router.gate.weight.grad, given.grad
    assert torch.equal(found[True][0], found[False][0])
    assert found[True][0].abs().max() > 1e-3
    assert found[True][1] is None
    assert found[False][1].abs().max() > 1e-3
