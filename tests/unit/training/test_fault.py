"""Where a value stopped being finite, and what to do when memory runs out."""

from collections.abc import Callable

import pytest
import torch

from moe_emergence.config import RunConfig
from moe_emergence.errors import TrainingError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.training.engine import Engine
from moe_emergence.training.fault import memory_advice, source_of_fault

CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 123456 bytes."
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


@pytest.mark.parametrize(
    ("bad", "said", "layer"),
    [
        (["transformer.wte.weight"], "1 of 32 gradients, the last of transformer.wte.weight", None),
        (["transformer.wte.weight", "transformer.h.0.attn.c_attn.bias"], "the last of transformer.h.0.attn", 0),
        (["transformer.wpe.weight", "transformer.h.1.mlp.moe.router.gate.weight"], "the last of transformer.h.1", 1),
        ([], "all gradients are finite", None),
    ],
)
def test_the_source_is_the_last_bad_gradient(
    make_moe: Callable[..., GPT2MoEForCausalLM], bad: list[str], said: str, layer: int | None
) -> None:
    model = make_moe()
    for name, parameter in model.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        if name in bad:
            parameter.grad.view(-1)[-1] = torch.nan
    where, found = source_of_fault(model, Engine.start("cpu", "fp32", "ddp"))
    assert said.replace("32", str(len(list(model.parameters())))) in where
    assert found == layer


@pytest.mark.parametrize(("text", "asked"), [(CPU, "123456 bytes"), (CUDA, "20.00 GiB")])
@pytest.mark.parametrize(
    ("training", "advice"),
    [
        (
            {"batch_size": 8},
            r"holds 8 of the step's 8 sequences: .*--training\.micro_batch_size 4 --allow-inexact",
        ),
        ({"batch_size": 6, "micro_batch_size": 3}, r"holds 3 of the step's 6 .*--training\.micro_batch_size 1 "),
        ({"batch_size": 6, "micro_batch_size": 1}, r"One sequence of 32 tokens .*shorten data\.block_size"),
    ],
)
def test_out_of_memory_is_advice_with_numbers(
    toy_config: Callable[..., RunConfig], training: dict[str, int], advice: str, text: str, asked: str
) -> None:
    error = torch.OutOfMemoryError(text) if text == CUDA else RuntimeError(text)
    with (
        pytest.raises(TrainingError, match=rf"step 3, in the update: out of memory \(it asked for {asked}\).*{advice}"),
        memory_advice(toy_config(training=training), 3, "in the update"),
    ):
        raise error


def test_python_s_own_memory_error_too(toy_config: Callable[..., RunConfig]) -> None:
    with (
        pytest.raises(TrainingError, match=r"out of memory; this process held up to [\d,]+ MiB"),
        memory_advice(toy_config(), 3, "while saving"),
    ):
        raise MemoryError


def test_other_errors_stay_what_they_are(toy_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(toy_config(), 3, "in the update"):
        raise RuntimeError("shapes do not fit")
