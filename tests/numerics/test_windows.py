"""Cutting a step into micro-batches changes neither loss nor gradient, for every balance window, with noise on."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch

from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.moe.balancing import BalanceStatistics, sequence_counts
from moe_emergence.moe.router import routers_of, set_noise_annealing
from moe_emergence.routing import RouterOutput, RoutingContext

SEED, STEP, E = 11, 3, 4
WINDOWS = {"sequence": 1, "blocks:2": 2, "blocks:3": 3, "blocks:4": 4, "global_batch": 8, "ema": 8}
PAST = [[0.4, 0.3, 0.2, 0.1], [0.05, 0.15, 0.3, 0.5]]  # load averages of the two layers, in the window ema
BIAS = [[0.02, -0.01, 0.0, 0.03], [-0.05, 0.0, 0.04, 0.0]]

Shares = list[float]
LoadOf = Callable[[list[list[int]], int, int], Shares]
"""[sequences, experts] counts of a step, layer, sequence → the load of the sequence's window."""


def model_with(make_moe, window: str, top_k: int, bias_rate: float = 0.0) -> GPT2MoEForCausalLM:
    """Float64, noisy, with router losses as large as the LM loss, and biases that already changed choices."""
    model = make_moe(
        torch.float64,
        top_k=top_k,
        balance_window=window,
        balance_coef=1.0,
        z_coef=0.1,
        noise_std=1.0,
        bias_rate=bias_rate,
    ).train()
    set_noise_annealing(model, 10)
    for router, bias in zip(routers_of(model), BIAS if bias_rate else [], strict=bool(bias_rate)):
        router.expert_bias.copy_(torch.tensor(bias))
    return model


def statistics_of(model: GPT2MoEForCausalLM, decay: float = 0.9, bias_rate: float = 0.0) -> BalanceStatistics:
    """As a run holds them after some steps."""
    statistics = BalanceStatistics(model.config.balance_window, decay, bias_rate)
    statistics.restore({"load_average": PAST if model.config.balance_window == "ema" else None})
    return statistics


def context(sequences: torch.Tensor, step: int = STEP, **extra: object) -> RoutingContext:
    return RoutingContext(seed=SEED, step=step, sequence_index=sequences + 8 * step, **extra)


def counts_of(routes: Sequence[RouterOutput], batch: int) -> list[torch.Tensor]:
    return [sequence_counts(route, batch, E) for route in routes]


def concatenated(parts: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def gradients(model: GPT2MoEForCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@torch.no_grad()
def counted_beforehand(model: GPT2MoEForCausalLM, tokens: torch.Tensor, size: int, step: int) -> list[torch.Tensor]:
    """The count-only pass: every micro-batch once without graph."""
    counts = []
    for sequences in torch.arange(len(tokens)).split(size):
        output = model(input_ids=tokens[sequences], routing_context=context(sequences, step), logits_to_keep=1)
        counts.append(counts_of(output.routes, len(sequences)))
    return concatenated(counts)


def in_micro_batches(
    model: GPT2MoEForCausalLM,
    tokens: torch.Tensor,
    size: int,
    statistics: BalanceStatistics | None = None,
    step: int = STEP,
) -> tuple[float, list[torch.Tensor]]:
    """Loss and counts of one exact step, its gradient accumulated over micro-batches of `size` sequences."""
    model.zero_grad()
    statistics = statistics or statistics_of(model)
    loads = statistics.loads(counted_beforehand(model, tokens, size, step), torch.float64)
    total, counts, pieces = 0.0, [], torch.arange(len(tokens)).split(size)
    for sequences in pieces:
        rows = context(sequences, step, window_loads=tuple(layer[sequences] for layer in loads))
        output = model(input_ids=tokens[sequences], labels=tokens[sequences], routing_context=rows)
        (output.loss / len(pieces)).backward()
        counts.append(counts_of(output.routes, len(sequences)))
        total += output.loss.item() / len(pieces)
    return total, concatenated(counts)


def with_running_counts(model: GPT2MoEForCausalLM, tokens: torch.Tensor, size: int) -> float:
    """Loss of one step that counts as it goes, its gradient accumulated."""
    model.zero_grad()
    total, pieces = 0.0, torch.arange(len(tokens)).split(size)
    earlier = (torch.zeros(E, dtype=torch.long),) * 2
    for sequences in pieces:
        running = context(sequences, earlier_counts=earlier)
        output = model(input_ids=tokens[sequences], labels=tokens[sequences], routing_context=running)
        (output.loss / len(pieces)).backward()
        own = counts_of(output.routes, len(sequences))
        earlier = tuple(before + layer.sum(0) for before, layer in zip(earlier, own, strict=True))
        total += output.loss.item() / len(pieces)
    return total


def by_definition(model: GPT2MoEForCausalLM, tokens: torch.Tensor, load_of: LoadOf) -> float:
    """The oracle: the concatenated batch, assignments counted by loops over tokens, the losses written out."""
    model.zero_grad()
    output = model(input_ids=tokens, labels=tokens, routing_context=context(torch.arange(8)))
    length, layers = tokens.shape[1], []
    for layer, route in enumerate(output.routes):
        counts = [[0] * E for _ in range(8)]
        for token, experts in enumerate(route.topk_indices.tolist()):
            for expert in experts:
                counts[token // length][expert] += 1
        sequences = []
        for s in range(8):
            mean = route.router_probs[s * length : (s + 1) * length].mean(0)
            sequences.append(sum(f * mean[i] for i, f in enumerate(load_of(counts, layer, s))))
        z = torch.stack([row.exp().sum().log() ** 2 for row in route.router_logits]).mean()
        layers.append(E * sum(sequences) / 8 + 0.1 * z)
    loss = output.lm_loss + sum(layers) / len(layers)
    loss.backward()
    return loss.item()


def share(counts: list[list[int]]) -> Shares:
    summed = [sum(row[i] for row in counts) for i in range(E)]
    return [count / sum(summed) for count in summed]


def load_in(window: str) -> LoadOf:
    size = WINDOWS[window]

    def load_of(counts: list[list[int]], layer: int, s: int) -> Shares:
        own = share(counts[s // size * size : (s // size + 1) * size])
        if window != "ema":
            return own
        return [0.9 * past + 0.1 * now for past, now in zip(PAST[layer], own, strict=True)]

    return load_of


def load_so_far(size: int) -> LoadOf:
    """Running counts: the micro-batches of `size` sequences up to and with the sequence's own."""
    return lambda counts, layer, s: share(counts[: (s // size + 1) * size])


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


# The loss and every parameter's gradient


@pytest.mark.parametrize(("top_k", "bias_rate"), [(1, 0.0), (2, 0.0), (1, 1e-3)])
@pytest.mark.parametrize("window", WINDOWS)
def test_any_micro_batching_is_the_concatenated_batch(make_moe, tokens, window, top_k, bias_rate) -> None:
    model = model_with(make_moe, window, top_k, bias_rate)
    expected_loss = by_definition(model, tokens, load_in(window))
    expected = gradients(model)
    for size in (8, 4, 2, 1):
        loss, _ = in_micro_batches(model, tokens, size)
        assert loss == pytest.approx(expected_loss, abs=1e-10)
        assert largest_difference(gradients(model), expected) <= 1e-10, size


@pytest.mark.parametrize("window", ["blocks:2", "global_batch", "ema"])
def test_without_counting_first_a_whole_step_is_still_exact(make_moe, tokens, window) -> None:
    model = model_with(make_moe, window, 1)
    expected_loss = by_definition(model, tokens, load_in(window))
    expected = gradients(model)
    model.zero_grad()
    whole = context(torch.arange(8), loads_of=statistics_of(model).loads)
    loss = model(input_ids=tokens, labels=tokens, routing_context=whole).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, abs=1e-10)
    assert largest_difference(gradients(model), expected) <= 1e-10


def test_without_counting_first_small_micro_batches_are_not(make_moe, tokens) -> None:
    model = model_with(make_moe, "global_batch", 1)
    expected = by_definition(model, tokens, load_in("global_batch"))
    alone = [
        model(input_ids=tokens[i : i + 1], labels=tokens[i : i + 1], routing_context=context(torch.tensor([i]))).loss
        for i in range(8)
    ]
    assert abs(sum(alone).item() / 8 - expected) > 1e-3


def test_windows_differ(make_moe, tokens) -> None:
    losses = {round(by_definition(model_with(make_moe, w, 1), tokens, load_in(w)), 6) for w in WINDOWS}
    assert len(losses) == len(WINDOWS)


def test_the_bias_of_these_tests_changes_choices(make_moe, tokens) -> None:
    routes = [
        model_with(make_moe, "sequence", 1, rate)(input_ids=tokens, routing_context=context(torch.arange(8))).routes
        for rate in (0.0, 1e-3)
    ]
    assert not torch.equal(routes[0][0].topk_indices, routes[1][0].topk_indices)


def test_running_alone_is_the_same_noise_as_running_together(make_moe, tokens) -> None:
    model = model_with(make_moe, "sequence", 1)
    together = model(input_ids=tokens, routing_context=context(torch.arange(8))).routes[0]
    alone = model(input_ids=tokens[5:6], routing_context=context(torch.tensor([5]))).routes[0]
    assert torch.allclose(together.router_probs[60:72], alone.router_probs, atol=1e-12)


# Running counts


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("size", [8, 4, 2, 1])
def test_running_counts_are_those_up_to_each_micro_batch(make_moe, tokens, size, top_k) -> None:
    model = model_with(make_moe, "global_batch", top_k)
    expected_loss = by_definition(model, tokens, load_so_far(size))
    expected = gradients(model)
    assert with_running_counts(model, tokens, size) == pytest.approx(expected_loss, abs=1e-10)
    assert largest_difference(gradients(model), expected) <= 1e-10


def test_running_counts_are_exact_in_one_micro_batch_and_not_in_several(make_moe, tokens) -> None:
    model = model_with(make_moe, "global_batch", 1)
    exact, _ = in_micro_batches(model, tokens, 8)
    expected = gradients(model)
    assert with_running_counts(model, tokens, 8) == pytest.approx(exact, abs=1e-12)
    assert largest_difference(gradients(model), expected) <= 1e-12
    assert abs(with_running_counts(model, tokens, 1) - exact) > 1e-3
    assert largest_difference(gradients(model), expected) > 1e-3


# Several steps


@pytest.mark.parametrize("window", ["blocks:3", "ema"])
def test_steps_with_a_moving_bias_are_the_same_however_they_are_cut(make_moe, tokens, window) -> None:
    """Weights, biases and load averages after four steps; the first of the window `ema` has no past."""
    ends = {}
    for size in (8, 4, 2, 1):
        model = model_with(make_moe, window, 2, bias_rate=0.02)
        statistics = BalanceStatistics(window, 0.5, 0.02)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(4):
            _, counts = in_micro_batches(model, tokens.roll(step, 1), size, statistics, step)
            optimizer.step()
            statistics.advance(counts, routers_of(model))
        ends[size] = copy.deepcopy(model.state_dict()), statistics.to_state()
    whole, state = ends.pop(8)
    moved = [whole[f"transformer.h.{block}.mlp.moe.router.expert_bias"] for block in (1, 2)]
    assert all((bias - torch.tensor(before)).abs().max() > 0.01 for bias, before in zip(moved, BIAS, strict=True))
    for size, (weights, same_state) in ends.items():
        assert largest_difference(weights, whole) <= 1e-10, size
        assert same_state == state
