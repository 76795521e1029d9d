"""Similarity of experts: against brute force over single parameters and tokens, and its values at both extremes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from moe_emergence.data.blocks import PreparedData
from moe_emergence.models.families import ancestor_stacks, family_of
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import ancestor_state
from moe_emergence.moe.layer import MoE
from moe_emergence.training.similarity import (
    cosines_of,
    delta_products,
    expert_outputs,
    expert_similarity,
    linear_cka,
    output_cosine,
    relative_drift,
    sampled_tokens,
)

MakeMoE = Callable[..., GPT2MoEForCausalLM]
D, INNER = 6, 10


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def ancestor() -> dict[str, Tensor]:
    shapes = {"up_proj": (D, INNER), "up_proj_bias": (INNER,), "down_proj": (INNER, D), "down_proj_bias": (D,)}
    return {name: drawn(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}


@pytest.fixture
def stacks(ancestor: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + 0.3 * drawn(10 + n, 3, *value.shape) for n, (name, value) in enumerate(ancestor.items())}


def deltas(stacks: dict[str, Tensor], ancestor: dict[str, Tensor]) -> list[list[float]]:
    return [[float(v) for n in ancestor for v in (stacks[n][i] - ancestor[n]).flatten()] for i in range(3)]


def test_drift_and_delta_cosine_are_those_of_plain_loops(
    stacks: dict[str, Tensor], ancestor: dict[str, Tensor]
) -> None:
    vectors = deltas(stacks, ancestor)
    origin = math.sqrt(sum(float(v) ** 2 for n in ancestor for v in ancestor[n].flatten()))
    lengths = [math.sqrt(sum(v * v for v in vector)) for vector in vectors]
    assert relative_drift(delta_products(stacks, ancestor), ancestor).tolist() == pytest.approx(
        [n / origin for n in lengths], abs=1e-10
    )
    cosines = cosines_of(delta_products(stacks, ancestor))
    for i in range(3):
        for j in range(3):
            product = sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
            assert float(cosines[i, j]) == pytest.approx(product / lengths[i] / lengths[j], abs=1e-10)


def test_by_hand() -> None:
    """W_0 = (3, 4); experts moved by (1, 0), (0, 2), (−2, 0) and not at all."""
    ancestor = {"w": torch.tensor([3.0, 4.0])}
    stacks = {"w": ancestor["w"] + torch.tensor([[1.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, 0.0]])}
    assert relative_drift(delta_products(stacks, ancestor), ancestor).tolist() == pytest.approx([0.2, 0.4, 0.4, 0])
    cosines = cosines_of(delta_products(stacks, ancestor))
    assert cosines[:3, :3].tolist() == [[1, 0, -1], [0, 1, 0], [-1, 0, 1]]
    assert cosines[3].isnan().all(), "what has not moved has no direction"
    assert cosines[:, 3].isnan().all()


def test_outputs_are_those_of_single_experts(stacks: dict[str, Tensor]) -> None:
    hidden = drawn(30, 5, D)
    outputs = expert_outputs(stacks, hidden, torch.tanh)
    for i in range(3):
        for t in range(5):
            inner = torch.tanh(hidden[t] @ stacks["up_proj"][i] + stacks["up_proj_bias"][i])
            expected = inner @ stacks["down_proj"][i] + stacks["down_proj_bias"][i]
            assert torch.allclose(outputs[i, t], expected, atol=1e-12)


def test_output_cosine_is_the_mean_over_tokens() -> None:
    one, other = drawn(1, 2, 7, 4), drawn(2, 3, 7, 4)
    found = output_cosine(one, other)
    for i in range(2):
        for j in range(3):
            each = [torch.nn.functional.cosine_similarity(one[i, t], other[j, t], dim=0).item() for t in range(7)]
            assert float(found[i, j]) == pytest.approx(sum(each) / 7, abs=1e-10)
    assert output_cosine(one, 2.5 * one).diagonal().tolist() == pytest.approx([1, 1])
    assert output_cosine(one, -one).diagonal().tolist() == pytest.approx([-1, -1])


def hsic(one: Tensor, other: Tensor) -> float:
    """tr(K H L H), as Gretton's empirical HSIC is written."""
    n = len(one)
    h = torch.eye(n, dtype=torch.float64) - torch.ones(n, n, dtype=torch.float64) / n
    return float(torch.trace(one @ one.T @ h @ other @ other.T @ h))


def test_cka_is_hsic_normalised_and_the_form_in_features() -> None:
    outputs = drawn(3, 3, 20, 5)
    outputs[1] += 0.7 * outputs[0]
    found = linear_cka(outputs)
    for i in range(3):
        for j in range(3):
            a, b = outputs[i], outputs[j]
            assert float(found[i, j]) == pytest.approx(hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b)), abs=1e-10)
            x, y = a - a.mean(0), b - b.mean(0)
            cross, own = (y.T @ x).norm() ** 2, (x.T @ x).norm() * (y.T @ y).norm()
            assert float(found[i, j]) == pytest.approx(float(cross / own), abs=1e-10)


def test_cka_knows_neither_rotation_nor_scale_nor_constant() -> None:
    outputs = drawn(4, 1, 30, 4)[0]
    turn = torch.linalg.qr(drawn(5, 4, 4)).Q
    flat = torch.ones(30, 4, dtype=torch.float64)
    found = linear_cka(torch.stack([outputs, 3 * outputs @ turn + 7, flat]))
    assert float(found[0, 1]) == pytest.approx(1)
    assert found[2].isnan().all(), "an output that no token moves"
    unrelated = linear_cka(torch.stack([drawn(6, 1000, 2), drawn(7, 1000, 2)]))
    assert float(unrelated[0, 1]) < 0.01


def parts(model: GPT2MoEForCausalLM, dense: object) -> tuple[dict[str, Tensor], dict[str, Tensor], MoE]:
    (layer,) = (module for module in model.modules() if isinstance(module, MoE))
    stacks = {name: p.detach() for name, p in layer.experts.named_parameters()}
    return stacks, ancestor_stacks(model, ancestor_state(dense, (1,)), 1), layer


def test_the_clock_starts_where_it_is_said_to(make_moe: MakeMoE, dense: object) -> None:
    """Perturbed by 1e-3 of a parameter's deviation, each by noise of its own."""
    stacks, ancestor, layer = parts(make_moe(perturbation=1e-3), dense)
    hidden = drawn(8, 64, 32).float()
    found = expert_similarity(stacks, ancestor, hidden, layer.experts.act_fn)
    assert ((found["drift"] > 5e-4) & (found["drift"] < 1.02e-3)).all()
    others = ~torch.eye(4, dtype=torch.bool)
    assert found["delta_cosine"][others].abs().max() < 5 / math.sqrt(sum(p.numel() for p in ancestor.values()))
    for name in ("output_cosine", "output_cka", "ancestor_cosine"):
        assert found[name].min() > 0.9999, name
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(found, torch.float32)


def test_exact_copies_have_no_direction_and_are_one_function(make_moe: MakeMoE, dense: object) -> None:
    stacks, ancestor, layer = parts(make_moe(perturbation=0.0), dense)
    found = expert_similarity(stacks, ancestor, drawn(9, 16, 32).float(), layer.experts.act_fn)
    assert found["drift"].tolist() == [0, 0, 0, 0]
    assert found["delta_cosine"].isnan().all()
    assert found["ancestor_cosine"].tolist() == pytest.approx([1] * 4)


def test_experts_that_move_apart_are_told_apart(make_moe: MakeMoE, dense: object) -> None:
    stacks, ancestor, layer = parts(make_moe(perturbation=1.0), dense)
    found = expert_similarity(stacks, ancestor, drawn(9, 64, 32).float(), layer.experts.act_fn)
    others = ~torch.eye(4, dtype=torch.bool)
    assert found["drift"].min() > 0.5
    assert found["output_cosine"][others].max() < 0.95
    same = {name: value[[0, 0]] for name, value in stacks.items()}
    again = expert_similarity(same, ancestor, drawn(9, 64, 32).float(), layer.experts.act_fn)
    assert again["delta_cosine"].tolist() == [pytest.approx([1, 1])] * 2


def test_the_ancestor_of_each_block_is_its_own(dense: object, make_moe: MakeMoE) -> None:
    model = make_moe(layers=(0, 1), perturbation=0.0)
    kept = ancestor_state(dense, (0, 1))
    blocks = family_of(model.config).blocks_of(model)
    for layer in (0, 1):
        for name, value in ancestor_stacks(model, kept, layer).items():
            assert torch.equal(value, blocks[layer].mlp.moe.experts.get_parameter(name)[2])


def test_tokens_are_sampled_evenly_and_none_is_padding(toy_data: PreparedData) -> None:
    probe = toy_data.probe
    sampled = sampled_tokens(probe, 100)
    rows, columns = np.divmod(sampled, probe.tokens.shape[1])
    assert np.bincount(probe.domain[rows]).tolist() == [33, 33, 33]
    assert (columns < probe.length[rows]).all()
    assert (np.diff(sampled) > 0).all()
    assert np.array_equal(sampled, sampled_tokens(probe, 100))
    assert len(sampled_tokens(probe, 10**6)) == probe.length.sum(), "all there are"
