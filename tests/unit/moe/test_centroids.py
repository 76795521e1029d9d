"""A gate from centroids: planted clusters told apart, its scale as stated, the same for the same seed."""

import os

import pytest
import torch
from threadpoolctl import threadpool_limits

from moe_emergence.errors import ConfigError
from moe_emergence.moe.centroids import centroid_gate

EXPERTS, TOKENS, WIDTH = 4, 200, 16


def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states about four far corners, and which corner each is of."""
    generator = torch.Generator().manual_seed(0)
    corners = 5 * torch.eye(EXPERTS, WIDTH) + 1
    label = torch.arange(EXPERTS).repeat_interleave(TOKENS)
    return corners[label] + 0.3 * torch.randn(len(label), WIDTH, generator=generator), label


def test_planted_clusters_go_to_an_expert_each() -> None:
    hidden, label = clusters()
    choice = (hidden @ centroid_gate(hidden, EXPERTS, seed=(42, 1, 2)).T).argmax(-1)
    assert sorted(choice[::TOKENS].tolist()) == [0, 1, 2, 3]
    assert torch.equal(choice, choice[::TOKENS][label]), "each cluster as one"


def test_rows_are_centred_and_logits_of_unit_spread() -> None:
    hidden, _ = clusters()
    for scale in (1.0, 1e-3, 300.0):
        gate = centroid_gate(scale * hidden, EXPERTS, seed=(42, 1, 2))
        assert gate.dtype == torch.float32
        assert gate.mean(0).abs().max() < 1e-6 * gate.abs().max()
        assert float((scale * hidden @ gate.T).std(correction=0)) == pytest.approx(1, rel=1e-5)


def test_the_same_inputs_and_seed_give_the_same_gate_whatever_the_threads() -> None:
    noise = torch.randn(3_000, WIDTH, generator=torch.Generator().manual_seed(1))  # no clusters: starts matter
    one = centroid_gate(noise, EXPERTS, seed=(42, 1, 2))
    with threadpool_limits(os.cpu_count()):
        assert torch.equal(centroid_gate(noise, EXPERTS, seed=(42, 1, 2)), one)
    for other in ((43, 1, 2), (42, 2, 2), (42, 1, 3)):
        assert not torch.equal(centroid_gate(noise, EXPERTS, seed=other), one)


def test_generators_and_inputs_are_left_alone() -> None:
    hidden, _ = clusters()
    before, state = hidden.clone(), torch.get_rng_state()
    centroid_gate(hidden, EXPERTS, seed=(0,))
    assert torch.equal(hidden, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_all_alike_give_a_gate_of_zeros() -> None:
    with pytest.warns(match="distinct clusters"):
        assert torch.equal(centroid_gate(torch.ones(10, WIDTH), EXPERTS, seed=(0,)), torch.zeros(EXPERTS, WIDTH))


def test_fewer_tokens_than_experts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"each of moe.num_experts \(4\); got 3: give more text"):
        centroid_gate(torch.ones(3, WIDTH), EXPERTS, seed=(0,))
