"""The loss-free bias: its arithmetic in single precision, that it balances, and that it travels with the model."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.moe.balancing import BalanceStatistics, sequence_counts
from moe_emergence.moe.router import Router, routers_of
from moe_emergence.routing import expert_load, max_violation

RATE = 1e-3
BIAS = "transformer.h.{}.mlp.moe.router.expert_bias"


def with_bias(make_moe, dtype: torch.dtype = torch.float32, **options) -> GPT2MoEForCausalLM:
    """Biases large enough to change choices, with all the digits that fp32 has."""
    model = make_moe(dtype, bias_rate=RATE, **options)
    for number, router in enumerate(routers_of(model)):
        router.expert_bias.copy_(torch.randn(4, generator=torch.Generator().manual_seed(number)) / 3)
    return model


def steps_of_counts(steps: int) -> torch.Tensor:
    """[steps, experts] uneven assignments with ties and balanced experts among them."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 4, (steps, 8), generator=draw) * torch.randint(1, 4, (steps, 1), generator=draw)


def by_definition(bias: np.ndarray, counts: torch.Tensor) -> np.ndarray:
    """b += u · sign(mean c − c), each in float64, then rounded to what fp32 holds."""
    for row in counts.tolist():
        sign = np.array([np.sign(sum(row) - len(row) * c) for c in row])
        bias = (bias + np.float64(np.float32(RATE)) * sign).astype(np.float32).astype(np.float64)
    return bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_300_updates_are_the_oracle_s_to_the_last_bit(dtype) -> None:
    """Whatever the model's precision; begins where a step is less than half of bf16's spacing."""
    router = torch.nn.Sequential(Router(16, 8, 1, loss_free_bias=True)).to(dtype)[0]
    start = torch.linspace(0.5, 0.9, 8)
    router.expert_bias.copy_(start)
    statistics, counts = BalanceStatistics("global_batch", 0.9, RATE), steps_of_counts(300)
    assert ((counts * 8 == counts.sum(1, keepdim=True)).sum(), (counts == 0).sum()) > (0, 0)
    for row in counts:
        statistics.advance([row.view(2, 4, 1).sum(-1).view(1, 8)], [router])
    expected = by_definition(start.double().numpy(), counts)
    assert router.expert_bias.double().tolist() == expected.tolist()
    in_half = start.bfloat16()
    for row in counts:
        in_half += RATE * (row.sum() - 8 * row).sign()
    assert (in_half.double() - torch.tensor(expected)).abs().max() > 10 * RATE


def test_a_collapsed_router_becomes_balanced() -> None:
    """One expert has all tokens, with 0.86 of the probability; steps of 1e-3 even it out up to their own swing."""
    torch.manual_seed(0)
    router = Router(16, 8, 1, loss_free_bias=True).eval()
    x = torch.randn(4096, 16)
    x[:, -1] = 1
    with torch.no_grad():
        router.gate.weight[:, -1] = torch.tensor([4.0, 0, 0, 0, 0, 0, 0, 0])
    violations = []
    for _ in range(600):
        route = router(x)
        violations.append(float(max_violation(expert_load(route.topk_indices, 8))))
        router.update_bias(sequence_counts(route, 1, 8).sum(0), RATE)
    assert violations[0] == pytest.approx(7)
    assert violations[200] > 1
    assert max(violations[-20:]) < 0.25


def test_the_bias_is_saved_and_loaded_with_the_model(make_moe, tokens, tmp_path) -> None:
    model = with_bias(make_moe, top_k=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert loaded.config.loss_free_bias
    for block in (1, 2):
        assert torch.equal(loaded.get_buffer(BIAS.format(block)), model.get_buffer(BIAS.format(block)))
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    model.get_buffer(BIAS.format(1)).zero_()
    assert not torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_loading_in_half_precision_leaves_the_bias_in_single(make_moe, tokens, tmp_path) -> None:
    model = with_bias(make_moe)
    model.save_pretrained(tmp_path)
    loaded = GPT2MoEForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.transformer.h[1].mlp.moe.experts.up_proj.dtype == torch.bfloat16
    for candidate in (loaded, model.to(torch.bfloat16)):
        for block, number in ((1, 0), (2, 1)):
            bias = candidate.get_buffer(BIAS.format(block))
            assert bias.dtype == torch.float32
            assert torch.equal(bias, torch.randn(4, generator=torch.Generator().manual_seed(number)) / 3)
        assert torch.isfinite(candidate(input_ids=tokens).logits).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_model_s_bias_is_0(make_moe, dtype) -> None:
    upcycled = make_moe(dtype, bias_rate=RATE)
    fresh = GPT2MoEForCausalLM(upcycled.config).to(dtype)
    for model in (upcycled, fresh):
        for router in routers_of(model):
            assert router.expert_bias.dtype == torch.float32
            assert torch.equal(router.expert_bias, torch.zeros(4))


def test_off_it_leaves_no_trace_and_at_0_it_changes_no_bit(make_moe, tokens) -> None:
    off, on = make_moe(top_k=2).train(), make_moe(top_k=2, bias_rate=RATE).train()
    extra = set(on.state_dict()) - set(off.state_dict())
    assert extra == {BIAS.format(1), BIAS.format(2)}
    assert set(off.state_dict()) == {n for n, _ in off.named_parameters(remove_duplicate=False)}
    gradients = []
    for model in (off, on):
        torch.manual_seed(0)
        model(input_ids=tokens, labels=tokens).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert torch.equal(off.eval()(input_ids=tokens).logits, on.eval()(input_ids=tokens).logits)


def test_it_balances_beside_the_balance_loss_or_without(make_moe, tokens) -> None:
    """The bias has no gradient, and its rate is not in the loss."""
    for coefficient in (0.0, 1.0):
        model = with_bias(make_moe, balance_coef=coefficient, z_coef=0.0, noise_std=0.0).train()
        output = model(input_ids=tokens, labels=tokens)
        expected = output.lm_loss + coefficient * output.load_balancing_loss
        assert output.loss.item() == pytest.approx(expected.item())
        output.loss.backward()
        assert model.get_buffer(BIAS.format(1)).grad is None
