"""Cutting a step into micro-batches changes neither loss nor gradient, for every balance window, with noise on."""

import pytest
import torch

from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.moe.balancing import sequence_counts, window_loads
from moe_emergence.moe.router import set_noise_annealing
from moe_emergence.routing import RoutingContext

SEED, STEP, E = 11, 3, 4
WINDOWS = {"sequence": 1, "blocks:2": 2, "blocks:3": 3, "blocks:4": 4, "global_batch": 8}


def model_with(make_moe, window: str, top_k: int) -> GPT2MoEForCausalLM:
    """Float64, noisy, with router losses as large as the LM loss."""
    model = make_moe(
        torch.float64, top_k=top_k, balance_window=window, balance_coef=1.0, z_coef=0.1, noise_std=1.0
    ).train()
    set_noise_annealing(model, 10)
    return model


def context(sequences: torch.Tensor, loads: list[torch.Tensor] | None = None) -> RoutingContext:
    rows = None if loads is None else tuple(layer[sequences] for layer in loads)
    return RoutingContext(seed=SEED, step=STEP, sequence_index=sequences + 8 * STEP, window_loads=rows)


@torch.no_grad()
def counted_beforehand(model: GPT2MoEForCausalLM, tokens: torch.Tensor, size: int) -> list[torch.Tensor]:
    """The count-only pass: every micro-batch once without graph, then the loads of each sequence's window."""
    counts = []
    for sequences in torch.arange(len(tokens)).split(size):
        routes = model(input_ids=tokens[sequences], routing_context=context(sequences), logits_to_keep=1).routes
        counts.append([sequence_counts(route, len(sequences), E) for route in routes])
    window = model.config.balance_window
    return [window_loads(torch.cat(layer), window, torch.float64) for layer in zip(*counts, strict=True)]


def gradients(model: GPT2MoEForCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def in_micro_batches(model: GPT2MoEForCausalLM, tokens: torch.Tensor, size: int, count_first: bool = True):
    """Loss and gradients of one step, accumulated over micro-batches of `size` sequences."""
    model.zero_grad()
    loads = counted_beforehand(model, tokens, size) if count_first else None
    total = 0.0
    pieces = torch.arange(len(tokens)).split(size)
    for sequences in pieces:
        batch = tokens[sequences]
        loss = model(input_ids=batch, labels=batch, routing_context=context(sequences, loads)).loss / len(pieces)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def by_definition(model: GPT2MoEForCausalLM, tokens: torch.Tensor, size: int):
    """The oracle: the concatenated batch, loads counted by loops over tokens, the losses written out."""
    model.zero_grad()
    output = model(input_ids=tokens, labels=tokens, routing_context=context(torch.arange(8)))
    length, layers = tokens.shape[1], []
    for route in output.routes:
        sequences = []
        for s in range(8):
            window = range(s // size * size, min((s // size + 1) * size, 8))
            f = [0.0] * E
            for token in (t for member in window for t in range(member * length, (member + 1) * length)):
                for expert in route.topk_indices[token].tolist():
                    f[expert] += 1
            mean = route.router_probs[s * length : (s + 1) * length].mean(0)
            sequences.append(sum(share / sum(f) * mean[i] for i, share in enumerate(f)))
        z = torch.stack([row.exp().sum().log() ** 2 for row in route.router_logits]).mean()
        layers.append(E * sum(sequences) / 8 + 0.1 * z)
    loss = output.lm_loss + sum(layers) / len(layers)
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("window", WINDOWS)
def test_any_micro_batching_is_the_concatenated_batch(make_moe, tokens, window, top_k) -> None:
    model = model_with(make_moe, window, top_k)
    expected_loss, expected = by_definition(model, tokens, WINDOWS[window])
    for size in (8, 4, 2, 1):
        loss, grads = in_micro_batches(model, tokens, size)
        assert loss == pytest.approx(expected_loss, abs=1e-10)
        for name, gradient in expected.items():
            assert (grads[name] - gradient).abs().max() <= 1e-10, (size, name)


def test_without_counting_first_a_whole_step_is_still_exact(make_moe, tokens) -> None:
    model = model_with(make_moe, "blocks:2", 1)
    expected_loss, expected = by_definition(model, tokens, 2)
    loss, grads = in_micro_batches(model, tokens, 8, count_first=False)
    assert loss == pytest.approx(expected_loss, abs=1e-10)
    assert all((grads[name] - gradient).abs().max() <= 1e-10 for name, gradient in expected.items())


def test_without_counting_first_small_micro_batches_are_not(make_moe, tokens) -> None:
    model = model_with(make_moe, "global_batch", 1)
    expected_loss, _ = by_definition(model, tokens, 8)
    assert abs(in_micro_batches(model, tokens, 1, count_first=False)[0] - expected_loss) > 1e-3


def test_windows_differ(make_moe, tokens) -> None:
    losses = {round(by_definition(model_with(make_moe, w, 1), tokens, n)[0], 6) for w, n in WINDOWS.items()}
    assert len(losses) == len(WINDOWS)


def test_running_alone_is_the_same_noise_as_running_together(make_moe, tokens) -> None:
    model = model_with(make_moe, "sequence", 1)
    together = model(input_ids=tokens, routing_context=context(torch.arange(8))).routes[0]
    alone = model(input_ids=tokens[5:6], routing_context=context(torch.tensor([5]))).routes[0]
    assert torch.allclose(together.router_probs[60:72], alone.router_probs, atol=1e-12)
