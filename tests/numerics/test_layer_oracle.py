"""The layer against one token at a time in plain loops, outputs and all gradients; implementations too."""

import pytest
import torch
from transformers import GPT2Config

from moe_emergence.moe.layer import MoE, MoESpec
from moe_emergence.moe.reference import reference_layer

EXPERTS, WIDTH = 8, 8  # grouped_mm wants rows of a multiple of 16 bytes
USED = {"all": range(EXPERTS), "half": (0, 3, 4, 6), "three": (1, 2, 7), "one": (5,)}


def layer(
    used: str,
    top_k: int,
    dtype=torch.float64,
    implementation: str = "eager",
    scale: str = "renormalised",
    loss_free_bias: bool = False,
) -> MoE:
    """A layer whose router sends tokens with a 1 in the last place to the experts in `used` alone."""
    torch.manual_seed(top_k)
    spec = MoESpec(
        hidden_size=WIDTH,
        intermediate_size=12,
        num_experts=EXPERTS,
        top_k=top_k,
        gate_scale=scale,
        loss_free_bias=loss_free_bias,
        activation="gelu_new",
    )
    made = MoE(spec, dispatch=GPT2Config(experts_implementation=implementation)).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.7)
        made.router.gate.weight[:, -1] = -30.0
        made.router.gate.weight[list(USED[used]), -1] = 0.0
    return made


def inputs(shape: tuple[int, ...], dtype=torch.float64) -> torch.Tensor:
    """Random hidden states, 1 in the last place."""
    x = torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x[..., -1] = 1
    return x


def gradients(made: MoE, x: torch.Tensor, forward) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output and the gradient of a fixed random projection of it for the input and every parameter."""
    x = x.detach().requires_grad_()
    output = forward(x)
    projection = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(2))
    named = {"input": x} | dict(made.named_parameters())
    grads = torch.autograd.grad((output * projection).sum(), list(named.values()), allow_unused=True)
    kept = {name: g if g is not None else torch.zeros_like(named[name]) for name, g in zip(named, grads, strict=True)}
    return output.detach(), kept


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("top_k", "used"),
    [(1, "all"), (1, "half"), (1, "one"), (2, "all"), (2, "half"), (3, "all"), (3, "three"), (8, "all")],
)
def test_layer_is_the_oracle(top_k, used, mode) -> None:
    made = layer(used, top_k).train(mode == "train")
    x = inputs((2, 9, WIDTH))
    ours, our_grads = gradients(made, x, lambda x: made(x)[0])
    theirs, their_grads = gradients(made, x, lambda x: reference_layer(made, x))
    assert torch.allclose(ours, theirs, atol=1e-12)
    for name, gradient in their_grads.items():
        assert torch.allclose(our_grads[name], gradient, atol=1e-11), name
    hit = set(made(x)[1].topk_indices.flatten().tolist())
    assert hit <= set(USED[used])
    assert used != "one" or hit == {5}


@pytest.mark.parametrize("scale", ["probability", "sigmoid"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_other_gate_scales_are_the_oracle_s(top_k, scale) -> None:
    made = layer("all", top_k, scale=scale)
    x = inputs((11, WIDTH))
    ours, our_grads = gradients(made, x, lambda x: made(x)[0])
    theirs, their_grads = gradients(made, x, lambda x: reference_layer(made, x))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert all(torch.allclose(our_grads[name], g, atol=1e-11) for name, g in their_grads.items())


@pytest.mark.parametrize("top_k", [1, 2])
def test_with_a_loss_free_bias_it_is_the_oracle(top_k) -> None:
    made = layer("all", top_k, loss_free_bias=True)
    x = inputs((40, WIDTH))
    unbiased = made(x)[1].topk_indices
    made.router.expert_bias.copy_(torch.linspace(-0.3, 0.3, EXPERTS))
    assert not torch.equal(made(x)[1].topk_indices, unbiased)
    ours, our_grads = gradients(made, x, lambda x: made(x)[0])
    theirs, their_grads = gradients(made, x, lambda x: reference_layer(made, x))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert all(torch.allclose(our_grads[name], g, atol=1e-11) for name, g in their_grads.items())


def test_two_dimensional_and_strided_input() -> None:
    made = layer("all", 2)
    x = inputs((3, 5, WIDTH))
    strided = x.transpose(0, 1)
    assert not strided.is_contiguous()
    expected = reference_layer(made, x)
    assert torch.allclose(made(x.reshape(15, WIDTH))[0], expected.reshape(15, WIDTH), atol=1e-12)
    assert torch.allclose(made(strided)[0], expected.transpose(0, 1), atol=1e-12)
    _, straight = gradients(made, x, lambda x: made(x)[0])
    _, through = gradients(made, x, lambda x: made(x.transpose(0, 1))[0].transpose(0, 1))
    assert all(torch.allclose(straight[name], through[name], atol=1e-11) for name in straight)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
@pytest.mark.parametrize(("top_k", "used"), [(1, "all"), (1, "half"), (1, "one"), (2, "all"), (2, "half"), (8, "all")])
def test_implementations_agree(top_k, used, implementation) -> None:
    eager = layer(used, top_k, torch.float32)
    other = layer(used, top_k, torch.float32, implementation)
    x = inputs((4, 16, WIDTH), torch.float32)
    ours, our_grads = gradients(eager, x, lambda x: eager(x)[0])
    theirs, their_grads = gradients(other, x, lambda x: other(x)[0])
    assert torch.allclose(ours, theirs, atol=1e-5)
    for name, gradient in their_grads.items():
        assert torch.allclose(our_grads[name], gradient, atol=1e-4, rtol=1e-4), name


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("used", ["half", "one"])
def test_experts_without_tokens_have_gradients_of_exactly_zero(used, implementation) -> None:
    made = layer(used, 1, torch.float32, implementation)
    _, grads = gradients(made, inputs((4, 16, WIDTH), torch.float32), lambda x: made(x)[0])
    empty = [expert for expert in range(EXPERTS) if expert not in USED[used]]
    for name in ("up_proj", "up_proj_bias", "down_proj", "down_proj_bias"):
        gradient = grads[f"experts.{name}"]
        assert torch.count_nonzero(gradient[empty]) == 0
        assert torch.count_nonzero(gradient[next(iter(USED[used]))]) > 0
