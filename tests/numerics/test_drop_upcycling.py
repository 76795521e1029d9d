"""Drop-upcycling and given gates: what changes, by how much, and that nothing else does."""

from dataclasses import replace

import pytest
import torch

from moe_emergence.config import MoEConfig
from moe_emergence.errors import ConfigError
from moe_emergence.models.upcycle import ancestor_state, install_moe_layers, upcycle, upcycle_receipt

MOE = MoEConfig(layers=(1, 2), num_experts=4, perturbation=0.0)
MLP = {"up_proj": "c_fc.weight", "up_proj_bias": "c_fc.bias", "down_proj": "c_proj.weight"}
STACK = "transformer.h.{}.mlp.moe.experts.{}"
GATE = "transformer.h.{}.mlp.moe.router.gate.weight"


def units(model, block: int, name: str) -> torch.Tensor:
    """[experts, units, …] of one parameter."""
    stack = model.get_parameter(STACK.format(block, name)).detach()
    return stack.transpose(1, 2) if name == "up_proj" else stack


def dropped(model, dense, block: int, name: str) -> torch.Tensor:
    """[experts, units] whether any number of a unit's part is other than the MLP's."""
    parameter = dense.get_parameter(f"transformer.h.{block}.mlp.{MLP[name]}").detach()
    origin = parameter.T if name == "up_proj" else parameter
    return (units(model, block, name) != origin).reshape(4, len(origin), -1).any(-1)


@pytest.mark.parametrize(("share", "count"), [(0.5, 32), (0.25, 16), (0.3, 19), (1.0, 64)])
def test_a_share_of_the_units_changes_as_a_whole_and_the_others_are_bit_equal(make_dense, share, count) -> None:
    dense = make_dense()
    model = upcycle(dense, replace(MOE, reinit_share=share), seed=1)
    for block in (1, 2):
        found = [dropped(model, dense, block, name) for name in MLP]
        assert found[0].sum(1).tolist() == [count] * 4
        assert all(torch.equal(found[0], other) for other in found[1:]), "column, bias entry and row of one unit"
        bias = model.get_parameter(STACK.format(block, "down_proj_bias"))
        assert torch.equal(bias, dense.get_parameter(f"transformer.h.{block}.mlp.c_proj.bias").expand(4, -1))


def test_each_expert_and_block_draws_its_own_units_and_values(make_dense) -> None:
    dense = make_dense()
    model = upcycle(dense, replace(MOE, reinit_share=0.5), seed=1)
    chosen = torch.cat([dropped(model, dense, block, "up_proj") for block in (1, 2)])
    assert len({tuple(row.tolist()) for row in chosen}) == 8
    everything = upcycle(dense, replace(MOE, reinit_share=1.0), seed=1)
    values = torch.cat([units(everything, block, "down_proj") for block in (1, 2)])
    assert len({tuple(row.flatten()[:4].tolist()) for row in values}) == 8


def test_the_values_have_mean_and_spread_of_the_weights_they_replace(make_dense) -> None:
    """Of the dropped part, not of all: here the dropped units' weights lie about 5, the others' about 0."""
    dense = make_dense(n_embd=64)
    wanted = replace(MOE, layers=(2,), num_experts=1, reinit_share=0.5)
    first = upcycle(dense, wanted, seed=1)
    mask = dropped_of_one(first, dense)
    with torch.no_grad():
        for name, axis in (("c_fc.weight", 1), ("c_fc.bias", 0), ("c_proj.weight", 0)):
            parameter = dense.get_parameter(f"transformer.h.2.mlp.{name}")
            parameter.index_add_(
                axis, mask.nonzero()[:, 0], torch.full_like(parameter.index_select(axis, mask.nonzero()[:, 0]), 5.0)
            )
    model = upcycle(dense, wanted, seed=1)
    for name, tolerance in (("up_proj", 0.03), ("down_proj", 0.03), ("up_proj_bias", 0.15)):
        parameter = dense.get_parameter(f"transformer.h.2.mlp.{MLP[name]}").detach()
        origin = (parameter.T if name == "up_proj" else parameter)[mask]
        drawn = units(model, 2, name)[0][mask]
        assert not torch.equal(drawn, origin)
        assert float(drawn.mean()) == pytest.approx(float(origin.mean()), abs=tolerance)
        assert float(drawn.std() / origin.std()) == pytest.approx(1, abs=tolerance)


def dropped_of_one(model, dense) -> torch.Tensor:
    origin = dense.get_parameter("transformer.h.2.mlp.c_fc.weight").detach().T
    return (units(model, 2, "up_proj")[0] != origin).any(-1)


def test_share_zero_draws_nothing_and_a_share_moves_no_other_stream(make_dense) -> None:
    dense = make_dense()
    perturbed = replace(MOE, perturbation=1e-3)
    plain, again, half = (upcycle(dense, replace(perturbed, reinit_share=r), seed=1) for r in (0.0, 0.0, 0.5))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), again.parameters(), strict=True))
    for block in (1, 2):
        assert torch.equal(half.get_parameter(GATE.format(block)), plain.get_parameter(GATE.format(block)))
        kept = ~dropped(upcycle(dense, replace(MOE, reinit_share=0.5), seed=1), dense, block, "up_proj")
        assert torch.equal(units(half, block, "up_proj")[kept], units(plain, block, "up_proj")[kept])


def test_constant_part_stays_constant_and_one_unit_can_be_drawn(make_dense) -> None:
    dense = make_dense()
    torch.nn.init.constant_(dense.transformer.h[2].mlp.c_fc.bias, 0.25)
    for share in (1 / 64, 1.0):
        model = upcycle(dense, replace(MOE, reinit_share=share), seed=1)
        assert torch.equal(units(model, 2, "up_proj_bias"), torch.full((4, 64), 0.25))
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_receipt_shows_it_and_the_ancestor_is_the_mlp(make_dense, tokens) -> None:
    dense = make_dense()
    differences = [
        upcycle_receipt(dense, upcycle(dense, replace(MOE, reinit_share=r), seed=1), tokens).relative_logit_difference
        for r in (0.0, 0.1, 0.5)
    ]
    assert differences[0] <= 1e-5 < 1e-3 < differences[1] < differences[2]
    mlp = dense.get_parameter("transformer.h.2.mlp.c_fc.weight")
    assert torch.equal(ancestor_state(dense, (2,))["transformer.h.2.mlp.c_fc.weight"], mlp)


def test_half_precision_keeps_its_type(make_dense) -> None:
    model = upcycle(make_dense(torch.bfloat16), replace(MOE, reinit_share=0.5), seed=1)
    assert model.get_parameter(STACK.format(2, "up_proj")).dtype == torch.bfloat16


def test_given_gates_are_where_the_routers_start(make_dense) -> None:
    dense = make_dense()
    gates = {block: torch.full((4, 16), float(block)) for block in (1, 2)}
    model = upcycle(dense, replace(MOE, gate_init="centroids"), seed=1, gates=gates)
    plain = upcycle(dense, MOE, seed=1)
    for block in (1, 2):
        assert torch.equal(model.get_parameter(GATE.format(block)), gates[block])
        for name in MLP:
            assert torch.equal(units(model, block, name), units(plain, block, name))


def test_centroids_without_gates_are_refused(make_dense) -> None:
    for act in (upcycle, install_moe_layers):
        with pytest.raises(ConfigError, match="fitted on a run's training tokens, which `train` and `suite` read"):
            act(make_dense(), replace(MOE, gate_init="centroids"), seed=1)
