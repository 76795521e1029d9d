"""The balance and z losses on batches worked by hand, and what they do and do not depend on."""

import math

import pytest
import torch

from moe_emergence.errors import ModelError
from moe_emergence.moe.losses import compute_load_balance_loss, compute_z_loss
from moe_emergence.routing import RouterOutput, entropy_of, expert_load


def route(probs: torch.Tensor, indices: torch.Tensor, logits: torch.Tensor | None = None) -> RouterOutput:
    return RouterOutput(
        topk_weights=torch.ones_like(indices, dtype=probs.dtype),
        topk_indices=indices,
        router_probs=probs,
        router_probs_clean=probs,
        router_logits=probs.clamp(min=1e-9).log() if logits is None else logits,
        entropy=entropy_of(probs),
    )


def collapsed(experts: int, top_k: int, tokens: int = 12) -> RouterOutput:
    """The same k experts take every token, with all the probability between them."""
    probs = torch.zeros(tokens, experts)
    probs[:, :top_k] = 1 / top_k
    return route(probs, torch.arange(top_k).repeat(tokens, 1))


def spread(experts: int, top_k: int, rounds: int = 3) -> RouterOutput:
    """Uniform probabilities, assignments in turn."""
    tokens = experts * rounds
    indices = (torch.arange(tokens)[:, None] + torch.arange(top_k)) % experts
    return route(torch.full((tokens, experts), 1 / experts), indices)


@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (8, 2), (4, 3), (2, 1)])
def test_uniform_is_one_and_total_collapse_e_over_k(experts, top_k) -> None:
    assert float(compute_load_balance_loss([spread(experts, top_k)])) == pytest.approx(1)
    assert float(compute_load_balance_loss([collapsed(experts, top_k)])) == pytest.approx(experts / top_k)


def test_it_can_fall_below_one() -> None:
    probs = torch.tensor([[0.6, 0.4]]).repeat(5, 1)
    assert float(compute_load_balance_loss([route(probs, torch.tensor([[0], [1], [1], [1], [1]]))])) == pytest.approx(
        0.88
    )


def test_it_is_one_for_any_load_when_probabilities_are_uniform() -> None:
    probs = torch.full((4, 4), 0.25)
    assert float(compute_load_balance_loss([route(probs, torch.zeros(4, 1, dtype=torch.long))])) == pytest.approx(1)


def test_shares_of_assignments_sum_to_one_for_two_slots() -> None:
    assert float(expert_load(spread(8, 2).topk_indices, 8).sum()) == pytest.approx(1)


def test_layers_are_averaged_and_never_pooled() -> None:
    left = route(torch.tensor([[1.0, 0.0]] * 4), torch.zeros(4, 1, dtype=torch.long))
    right = route(torch.tensor([[0.0, 1.0]] * 4), torch.ones(4, 1, dtype=torch.long))
    assert float(compute_load_balance_loss([left, right])) == pytest.approx(2)  # pooled first it would be 1


def test_probabilities_carry_the_gradient_and_loads_none() -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    probs = logits.softmax(-1)
    indices = probs.argmax(-1, keepdim=True)
    loads = expert_load(indices, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(compute_load_balance_loss([route(probs, indices)]), logits)
    by_hand = 4 * (expert_load(indices, 4) * logits.softmax(-1).mean(0)).sum()
    assert torch.allclose(gradient, torch.autograd.grad(by_hand, logits)[0], atol=1e-7)
    assert not compute_load_balance_loss([route(probs.detach(), indices)], [loads[None]]).requires_grad


def test_padding_counts_nowhere() -> None:
    torch.manual_seed(0)
    probs = torch.randn(6, 4).softmax(-1)
    whole = route(probs, probs.topk(2).indices)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    kept = mask.flatten()
    alone = route(probs[kept], probs[kept].topk(2).indices)
    assert float(compute_load_balance_loss([whole], mask=mask)) == pytest.approx(
        float(compute_load_balance_loss([alone]))
    )
    assert float(compute_z_loss([whole], mask)) == pytest.approx(float(compute_z_loss([alone])))


def test_sequences_weigh_as_they_have_tokens() -> None:
    torch.manual_seed(0)
    probs = torch.randn(8, 4).softmax(-1)
    whole = route(probs, probs.argmax(-1, keepdim=True))
    mask = torch.tensor([[True] * 4, [True] + [False] * 3])
    load = expert_load(whole.topk_indices, 4, mask.flatten())
    windowed = compute_load_balance_loss([whole], [load.repeat(2, 1)], mask)
    concatenated = 4 * (load * probs[mask.flatten()].mean(0)).sum()
    assert float(windowed) == pytest.approx(float(concatenated))


def test_each_sequence_meets_its_own_window_s_load() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    both = route(probs, torch.tensor([[0], [0], [1], [1]]))
    loads = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    by_hand = 2 * (0.9 + (0.25 * 0.2 + 0.75 * 0.8)) / 2
    assert float(compute_load_balance_loss([both], [loads])) == pytest.approx(by_hand)


def test_z_loss_of_zero_logits() -> None:
    zero = route(torch.full((5, 8), 1 / 8), torch.zeros(5, 1, dtype=torch.long), torch.zeros(5, 8))
    assert float(compute_z_loss([zero])) == pytest.approx(math.log(8) ** 2)


def test_z_loss_of_a_layer_by_hand_and_over_layers() -> None:
    first, second = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 3.0]])
    one = route(first.softmax(-1), torch.zeros(2, 1, dtype=torch.long), first)
    two = route(second.softmax(-1), torch.zeros(1, 1, dtype=torch.long), second)
    layers = [(math.log(math.e + math.e**2) ** 2 + math.log(2) ** 2) / 2, math.log(2 * math.e**3) ** 2]
    assert float(compute_z_loss([one, two])) == pytest.approx(sum(layers) / 2)


def test_missing_or_mismatched_records_are_errors() -> None:
    with pytest.raises(ModelError, match="no routing records"):
        compute_load_balance_loss([])
    with pytest.raises(ModelError, match="no routing records"):
        compute_z_loss([])
    with pytest.raises(ModelError, match="for 2 layers do not fit 1"):
        compute_load_balance_loss([spread(4, 1)], [torch.ones(1, 4)] * 2)
    with pytest.raises(ModelError, match="12 routed tokens do not divide into the 5"):
        compute_load_balance_loss([spread(4, 1)], [torch.ones(5, 4)])
