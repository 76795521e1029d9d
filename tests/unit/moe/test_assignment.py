"""Experts from token ids and positions: published values of the hash, and equal shares."""

import pytest
import torch

from moe_emergence.errors import ModelError
from moe_emergence.moe.assignment import check_oracle, domain_experts, hash_experts, round_robin_experts, splitmix64
from moe_emergence.moe.router import Router, routing_context, told_domains
from moe_emergence.routing import RoutingContext


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


# The oracle


@pytest.mark.parametrize(
    ("domains", "experts", "own"),
    [(3, 8, [[0, 1], [2, 3, 4], [5, 6, 7]]), (2, 8, [[0, 1, 2, 3], [4, 5, 6, 7]]), (3, 3, [[0], [1], [2]])],
)
def test_an_oracle_divides_the_experts_as_evenly_as_may_be(domains, experts, own) -> None:
    """Every expert of a domain is used, by that domain alone, and the token's id decides which."""
    ids = torch.arange(4096)
    for domain in range(domains):
        chosen = domain_experts(ids, torch.full_like(ids, domain), domains, experts, 1)[:, 0]
        assert sorted(set(chosen.tolist())) == own[domain]
        first, count = own[domain][0], len(own[domain])
        assert chosen[:50].tolist() == [first + reference(token) % 2**63 % count for token in range(50)]


def test_an_oracle_s_slots_are_different_experts_of_the_domain() -> None:
    ids = torch.arange(500)
    chosen = domain_experts(ids, ids % 3, 3, 8, 2)
    assert all(len(set(row)) == 2 for row in chosen.tolist())
    bounds = torch.tensor([0, 2, 5, 8])
    inside = (chosen >= bounds[ids % 3][:, None]) & (chosen < bounds[ids % 3 + 1][:, None])
    assert bool(inside.all())


def test_too_few_experts_for_the_domains_are_refused() -> None:
    check_oracle(3, 6, 2)
    with pytest.raises(ModelError, match=r"5 experts divided among 3 domains leave 1 .* at least 6"):
        check_oracle(3, 5, 2)
    with pytest.raises(ModelError, match="2 experts divided among 3 domains leave 0"):
        domain_experts(torch.arange(4), torch.zeros(4, dtype=torch.int64), 3, 2, 1)


def test_a_domain_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match=r"between 0 and 2; got \[0, 3\]"):
        domain_experts(torch.arange(2), torch.tensor([0, 3]), 3, 8, 1)


def test_an_oracle_is_told_the_domains_of_sequences() -> None:
    """Two sequences of two tokens; without domains it says what it lacks."""
    router = Router(16, 8, 1, kind="domain")
    context = RoutingContext(
        seed=0,
        step=0,
        sequence_index=torch.arange(2),
        token_ids=torch.tensor([[5, 6], [5, 6]]),
        domains=torch.tensor([2, 0]),
        num_domains=3,
    )
    with routing_context([router], context):
        found = router(torch.randn(2, 2, 16)).topk_indices
    expected = domain_experts(torch.tensor([5, 6, 5, 6]), torch.tensor([2, 2, 0, 0]), 3, 8, 1)
    assert torch.equal(found, expected)
    bare = RoutingContext(seed=0, step=0, sequence_index=torch.arange(1), token_ids=torch.tensor([[5, 6]]))
    with routing_context([router], bare), pytest.raises(ModelError, match="whose domain is stated"):
        router(torch.randn(1, 2, 16))


def test_other_routers_are_not_told_domains() -> None:
    learned, oracle = Router(16, 8, 1), Router(16, 8, 1, kind="domain")
    model = torch.nn.ModuleList([learned, oracle])
    with told_domains(model, torch.tensor([1]), 3):
        assert learned.context is None
        assert oracle.context is not None
        assert (oracle.context.domains.tolist(), oracle.context.num_domains) == ([1], 3)
    assert oracle.context is None
