"""Experts from token ids and positions: published values of the hash, and equal shares."""

import pytest
import torch

from moe_emergence.moe.assignment import hash_experts, round_robin_experts, splitmix64


def reference(seed: int) -> int:
    """splitmix64's first number in Python's unbounded integers."""
    word = (seed + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def test_hash_is_the_published_generator_s_first_number() -> None:
    published = {0: 0xE220A8397B1DCDAF, 1234567: 6457827717110365317}
    assert [word % 2**64 for word in splitmix64(torch.tensor(list(published))).tolist()] == list(published.values())


def test_hash_is_that_of_unbounded_integers_for_every_id() -> None:
    ids = torch.cat([torch.arange(50_257), torch.tensor([2**31, 2**62, 2**63 - 1])])
    words = [reference(token) for token in ids.tolist()]
    assert [word % 2**64 for word in splitmix64(ids).tolist()] == words
    for experts in (1, 3, 8):
        assert hash_experts(ids, experts, 1)[:, 0].tolist() == [word % 2**63 % experts for word in words]


def test_known_experts() -> None:
    # A change here means that a hash router no longer routes as in runs made before.
    assert hash_experts(torch.arange(12), 8, 1)[:, 0].tolist() == [7, 1, 6, 5, 2, 2, 0, 7, 6, 4, 2, 5]


def test_ids_spread_evenly() -> None:
    counts = torch.bincount(hash_experts(torch.arange(50_257), 8, 1)[:, 0], minlength=8)
    expected = 50_257 / 8
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 24.3  # 0.999 quantile at 7 degrees of freedom


@pytest.mark.parametrize("experts_of", [hash_experts, round_robin_experts])
@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (4, 2), (3, 3)])
def test_slots_take_turns_from_the_first(experts_of, experts, top_k) -> None:
    chosen = experts_of(torch.arange(100), experts, top_k)
    assert torch.equal(chosen, (chosen[:, :1] + torch.arange(top_k)) % experts)
    assert all(len(set(row)) == top_k for row in chosen.tolist())


def test_round_robin_by_hand() -> None:
    assert round_robin_experts(torch.tensor([0, 1, 2, 3, 7]), 3, 2).tolist() == [[0, 1], [1, 2], [2, 0], [0, 1], [1, 2]]
