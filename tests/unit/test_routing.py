"""Every quantity on a routing record, at the values its docstring states and on loads worked by hand."""

import math

import numpy as np
import pytest
import torch

from moe_emergence import routing as r

BALANCED = torch.full((8,), 1 / 8)
ONE_TAKES_ALL = torch.eye(8)[3]
TWO_TAKE_ALL = torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
UNEVEN = torch.tensor([0.5, 0.25, 0.25, 0.0])


def record(tokens: int = 6, experts: int = 4) -> r.RouterOutput:
    probs = torch.rand(tokens, experts, requires_grad=True).softmax(-1)
    return r.RouterOutput(
        topk_weights=probs[:, :1],
        topk_indices=probs.argmax(-1, keepdim=True),
        router_probs=probs,
        router_probs_clean=probs,
        router_logits=probs.log(),
        entropy=r.entropy_of(probs),
        layer_idx=2,
    )


def test_detach_keeps_values_and_drops_the_graph() -> None:
    before = record()
    after = before.detach()
    assert before.router_probs.requires_grad
    assert not any(v.requires_grad for v in vars(after).values() if isinstance(v, torch.Tensor))
    assert torch.equal(after.router_probs, before.router_probs)
    assert after.layer_idx == 2


def test_counts_and_load_by_hand() -> None:
    indices = torch.tensor([[0], [0], [2], [1]])
    assert r.expert_counts(indices, 4).tolist() == [[2, 1, 1, 0]]
    assert torch.equal(r.expert_load(indices, 4), UNEVEN)


def test_load_counts_every_slot_and_sums_to_one() -> None:
    indices = torch.tensor([[0, 1], [0, 2], [0, 1]])
    load = r.expert_load(indices, 4)
    assert torch.allclose(load, torch.tensor([3, 2, 1, 0]) / 6)
    assert load.sum() == 1


def test_masked_tokens_are_not_counted_not_even_in_the_denominator() -> None:
    indices = torch.tensor([[0], [3], [3], [1]])
    mask = torch.tensor([True, False, False, True])
    assert r.expert_load(indices, 4, mask).tolist() == [0.5, 0.5, 0, 0]


def test_load_of_no_tokens_is_zero() -> None:
    assert r.expert_load(torch.tensor([[1]]), 2, torch.tensor([False])).tolist() == [0, 0]


def test_counts_by_group_are_the_sequences_own() -> None:
    indices = torch.tensor([[0], [1], [1], [1], [2], [0]])
    mask = torch.tensor([True, True, True, True, True, False])
    assert r.expert_counts(indices, 3, groups=3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert r.expert_counts(indices, 3, mask, groups=3).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("quantity", "balanced", "top1_collapse", "top2_collapse"),
    [
        (r.routing_entropy_of_load, math.log(8), 0, math.log(2)),
        (r.effective_experts, 8, 1, 2),
        (r.max_violation, 0, 7, 3),
        (r.load_variation, 0, math.sqrt(7), math.sqrt(3)),
        (lambda load: r.overflow_share(load, 1.25), 0, 1 - 1.25 / 8, 1 - 2 * 1.25 / 8),
    ],
)
def test_quantities_at_balance_and_collapse(quantity, balanced, top1_collapse, top2_collapse) -> None:
    assert float(quantity(BALANCED)) == pytest.approx(balanced, abs=1e-5)
    assert float(quantity(ONE_TAKES_ALL)) == pytest.approx(top1_collapse, abs=1e-6)
    assert float(quantity(TWO_TAKE_ALL)) == pytest.approx(top2_collapse, abs=1e-6)


def test_excess_is_on_the_scale_of_what_k_slots_allow() -> None:
    assert float(r.load_excess(BALANCED)) == pytest.approx(0)
    assert float(r.load_excess(ONE_TAKES_ALL, 1)) == pytest.approx(1)
    assert float(r.load_excess(TWO_TAKE_ALL, 2)) == pytest.approx(1)
    assert float(r.load_excess(UNEVEN, 1)) == pytest.approx((0.5 - 0.25) / 0.75)
    assert float(r.load_excess(torch.full((3,), 1 / 3), 3)) == 0


def test_hot_begins_above_a_load_of_one_half_at_eight_experts() -> None:
    below = torch.tensor([0.49, 0.51, 0, 0, 0, 0, 0, 0])
    assert r.hot_experts(below).tolist() == [False, True] + [False] * 6
    assert r.hot_experts(TWO_TAKE_ALL, 2).sum() == 2
    assert r.hot_experts(BALANCED).sum() == 0


def test_dead_is_below_a_tenth_of_the_balanced_load() -> None:
    load = torch.tensor([0.0124, 0.0126, 0.975])
    assert r.dead_experts(torch.cat([load, torch.zeros(5)])).tolist() == [True, False, False] + [True] * 5
    assert r.dead_experts(ONE_TAKES_ALL).sum() == 7
    assert r.dead_experts(BALANCED).sum() == 0


@pytest.mark.parametrize("quantity", [r.max_violation, r.load_excess, r.effective_experts, r.dead_experts])
def test_numpy_loads_give_the_same(quantity) -> None:
    assert torch.allclose(quantity(UNEVEN.numpy().astype(np.float64)).double(), quantity(UNEVEN).double())


def test_confident_and_uniformly_spread_routing() -> None:
    one_hot = torch.eye(8).repeat(4, 1)
    load = r.expert_load(one_hot.argmax(-1, keepdim=True), 8)
    assert float(r.routing_entropy_per_token(one_hot)) == 0
    assert float(r.routing_entropy_of_load(load)) == pytest.approx(math.log(8))
    assert float(r.routing_entropy_of_mean(one_hot)) == pytest.approx(math.log(8))


def test_undecided_routing() -> None:
    uniform = torch.full((5, 8), 1 / 8)
    assert float(r.routing_entropy_per_token(uniform)) == pytest.approx(math.log(8))
    assert float(r.routing_entropy_of_mean(uniform)) == pytest.approx(math.log(8))


def test_entropies_leave_padding_out() -> None:
    probs = torch.stack([torch.eye(4)[0], torch.full((4,), 0.25)])
    mask = torch.tensor([False, True])
    assert float(r.routing_entropy_per_token(probs, mask)) == pytest.approx(math.log(4))
    assert float(r.routing_entropy_of_mean(probs, mask)) == pytest.approx(math.log(4))


def test_the_margin_is_the_lead_of_the_first_expert() -> None:
    probs = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert r.margin_of(probs).tolist() == pytest.approx([0.5, 0, 1])
    assert r.margin_of(torch.ones(4, 1)).tolist() == [1] * 4, "nobody else comes second"
