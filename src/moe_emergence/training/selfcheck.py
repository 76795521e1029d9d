"""A second before the first step: whether this machine computes experts and their gradients as it should.

Grouped products have returned wrong values and gradients for experts without tokens on some devices and versions
(docs/reliability.md), with loss curves that still fall.
"""

from typing import Any

import torch
from torch import Tensor, nn

from moe_emergence.errors import TrainingError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.moe.experts import Experts
from moe_emergence.moe.router import routers_of
from moe_emergence.routing import RoutingContext
from moe_emergence.training.runtime import random_key

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference, as a share of the largest value, between two ways of computing the same; under bf16 `COARSE`."""
COARSE = 5e-2
_TOKENS = 64


def check_model(model: nn.Module, *, seed: int) -> None:
    """Compare the experts' implementation with the plain one, and see that the balance loss reaches the routers.

    Leaves parameters, gradients and torch's generator as they were. Does nothing for a model without experts.

    Raises:
        TrainingError: they differ, or it does not; names the implementation and by how much.
    """
    if not isinstance(model, GPT2MoEForCausalLM):
        return
    with torch.random.fork_rng():
        torch.manual_seed(random_key("self-check", seed))
        _check_experts(next(module for module in model.modules() if isinstance(module, Experts)))
        _check_balance(model)


def _check_experts(experts: Experts) -> None:
    """Forward and every gradient of one layer, on tokens of which the last expert gets none."""
    config: Any = experts.config
    chosen = config._experts_implementation
    like = experts.up_proj
    hidden = torch.randn(_TOKENS, like.shape[1], device=like.device, dtype=like.dtype)
    index = torch.randint(max(1, experts.num_experts - 1), (_TOKENS, 1), device=like.device)
    found = _outcome(experts, hidden, index)
    config._experts_implementation = "eager"
    try:
        expected = _outcome(experts, hidden, index)
    finally:
        config._experts_implementation = chosen
    limit = COARSE if torch.is_autocast_enabled(like.device.type) else TOLERANCE.get(like.dtype, COARSE)
    for name, value in expected.items():
        difference = _relative(found[name], value)
        if not difference <= limit:
            raise TrainingError(
                f"self-check: experts_implementation {chosen!r} gives another {name} than eager on this machine (by "
                f"{difference:.1e} of the largest value; at most {limit:.0e} is rounding): choose "
                "--execution.experts_implementation eager"
            )
    if experts.num_experts > 1:
        _refuse_idle_gradient(found, chosen)


def _outcome(experts: Experts, hidden: Tensor, index: Tensor) -> dict[str, Tensor]:
    inputs = hidden.clone().requires_grad_()
    weights = torch.ones(index.shape, device=hidden.device, dtype=hidden.dtype, requires_grad=True)
    output = experts(inputs, index, weights)
    named = dict(experts.named_parameters())
    gradients = torch.autograd.grad(output.float().square().sum(), [inputs, weights, *named.values()])
    names = ["gradient of the tokens", "gradient of the weights", *(f"gradient of {name}" for name in named)]
    return {"output": output.detach()} | dict(zip(names, gradients, strict=True))


def _refuse_idle_gradient(found: dict[str, Tensor], chosen: str) -> None:
    for name, value in found.items():
        if name.endswith(("proj", "bias")) and bool(value[-1].ne(0).any()):
            raise TrainingError(
                f"self-check: experts_implementation {chosen!r} has a {name} for an expert without tokens (up to "
                f"{float(value[-1].abs().max()):.1e}, must be 0): choose --execution.experts_implementation eager"
            )


def _relative(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.abs().max())
    return float((found - expected).abs().max()) / (scale or 1.0)


def _check_balance(model: GPT2MoEForCausalLM) -> None:
    """The balance coefficient must move a gate's gradient; that it silently does not is a known mistake elsewhere."""
    config: Any = model.config
    coefficient = config.router_aux_loss_coef
    gates = [router.gate.weight for router in routers_of(model) if router.gate.weight.requires_grad]
    if coefficient == 0 or not gates or config.num_experts == config.num_experts_per_tok:
        return
    with_it = _gate_gradients(model, gates)
    config.router_aux_loss_coef = 0.0
    try:
        without = _gate_gradients(model, gates)
    finally:
        config.router_aux_loss_coef = coefficient
    if all(torch.equal(one, other) for one, other in zip(with_it, without, strict=True)):
        raise TrainingError(
            f"self-check: the balance loss does not reach the routers: their gradients are the same with coefficient "
            f"{coefficient} and with 0"
        )


def _gate_gradients(model: GPT2MoEForCausalLM, gates: list[Tensor]) -> tuple[Tensor, ...]:
    length = min(16, model.config.n_positions)
    tokens = torch.arange(length, device=gates[0].device).remainder(model.config.vocab_size).expand(2, -1)
    context = RoutingContext(seed=0, step=0, sequence_index=torch.arange(2))
    before = model.training
    model.train()
    torch.manual_seed(0)  # the same dropout both times
    output = model(input_ids=tokens, labels=tokens, use_cache=False, routing_context=context)
    model.train(before)
    return torch.autograd.grad(output.loss, gates)
