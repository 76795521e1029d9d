"""The layer's surface: what it returns, its drop-in form, and scoped recording."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from moe_emergence.errors import ModelError
from moe_emergence.moe.experts import EagerDispatch
from moe_emergence.moe.layer import MoE, MoESpec, MoEWrapper, record_routing
from moe_emergence.routing import RouterOutput

SPEC = MoESpec(hidden_size=8, intermediate_size=12, num_experts=4)


def filled(layer: MoE) -> MoE:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_returns_the_input_s_shape_and_a_record() -> None:
    layer = filled(MoE(SPEC, layer_idx=5))
    for shape in ((6, 8), (2, 3, 8)):
        output, route = layer(torch.randn(*shape))
        assert output.shape == shape
        assert isinstance(route, RouterOutput)
        assert route.layer_idx == 5


def test_wrapper_returns_the_output_alone_under_fixed_parameter_names() -> None:
    layer = filled(MoE(SPEC))
    wrapper = MoEWrapper(layer).eval()
    x = torch.randn(2, 3, 8)
    assert torch.equal(wrapper(x), layer(x)[0])
    assert set(wrapper.state_dict()) == {
        "moe.router.gate.weight",
        "moe.experts.up_proj",
        "moe.experts.up_proj_bias",
        "moe.experts.down_proj",
        "moe.experts.down_proj_bias",
    }


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_output_dropout_is_the_dense_mlp_s(implementation) -> None:
    mlp = GPT2MLP(12, GPT2Config(n_embd=8, resid_pdrop=0.5))
    dispatch = GPT2Config(experts_implementation=implementation)
    layer = MoE(MoESpec(hidden_size=8, intermediate_size=12, num_experts=4, dropout=0.5), dispatch=dispatch)
    with torch.no_grad():
        for stack, name in (("up_proj", "c_fc.weight"), ("down_proj", "c_proj.weight")):
            stacked = layer.experts.get_parameter(stack)
            stacked.copy_(mlp.get_parameter(name).expand_as(stacked))
    x = torch.randn(2, 30, 8)
    torch.manual_seed(1)
    dense = mlp(x)
    torch.manual_seed(1)
    ours = layer(x)[0]
    assert (dense == 0).float().mean() > 0.3
    assert torch.allclose(ours, dense, atol=1e-6)


def test_recording_keeps_order_appends_and_ends() -> None:
    model = nn.Sequential(MoEWrapper(filled(MoE(SPEC, layer_idx=0))), MoEWrapper(filled(MoE(SPEC, layer_idx=7))))
    with record_routing(model) as routes:
        model(torch.randn(2, 3, 8))
        model(torch.randn(4, 8))
    model(torch.randn(2, 3, 8))
    assert [(route.layer_idx, len(route.entropy)) for route in routes] == [(0, 6), (7, 6), (0, 4), (7, 4)]


def test_recording_ends_on_error() -> None:
    model = filled(MoE(SPEC))
    with pytest.raises(ModelError), record_routing(model) as routes:
        model(torch.randn(3))
    model(torch.randn(3, 8))
    assert routes == []
    assert not model.router._forward_hooks


def test_recording_a_model_without_router_is_an_error() -> None:
    with pytest.raises(ModelError, match="Linear has no router"), record_routing(nn.Linear(2, 2)):
        pass


def test_under_autocast_experts_compute_in_its_type_and_gradients_stay_in_the_weights_own() -> None:
    """Grouped products know nothing of autocast: with weights in fp32 they would run in fp32."""
    seen = []

    class Grouped:
        _experts_implementation = "grouped_mm"

    for dispatch in (EagerDispatch(), Grouped()):
        moe = filled(MoE(MoESpec(hidden_size=16, intermediate_size=32, num_experts=4, top_k=2), dispatch=dispatch))
        moe.experts.act_fn.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        tokens = torch.randn(12, 16)
        exact, _ = moe(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, _ = moe(tokens)
        mixed.float().sum().backward()
        assert mixed.dtype == torch.bfloat16
        assert (mixed.float() - exact).norm() < 0.02 * exact.norm()
        assert {parameter.grad.dtype for parameter in moe.experts.parameters()} == {torch.float32}
    assert torch.float32 in seen
    assert seen[-1] == torch.bfloat16
