"""One optimiser step: the batch, the update whatever its cut, what it reports, and when it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from moe_emergence.config import OptimizerConfig
from moe_emergence.data.blocks import PreparedData, batch_rows
from moe_emergence.errors import ConfigError, TrainingError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.moe.balancing import BalanceStatistics
from moe_emergence.moe.router import set_noise_annealing
from moe_emergence.training.engine import Engine
from moe_emergence.training.optimizer import make_optimizer
from moe_emergence.training.step import Batch, NotFinite, Stepper, make_batch, share_of_batch

CPU = torch.device("cpu")
MakeMoE = Callable[..., GPT2MoEForCausalLM]
WINDOWS = ["sequence", "blocks:2", "blocks:3", "global_batch"]


def batch_of(data: PreparedData, step: int = 1) -> Batch:
    return make_batch(data.train, seed=7, step=step, batch_size=8, device=CPU)


def stepper(model: Any, optimizer: Any, *, cut: int | None = None, clip_norm: float = 1.0) -> Stepper:
    engine = Engine.start("cpu", "fp32", "ddp")
    window = getattr(model.config, "balance_window", "global_batch")
    balance = BalanceStatistics(window, 0.0, 0.0)
    return Stepper(model, optimizer, micro_batch_size=cut, clip_norm=clip_norm, engine=engine, balance=balance)


def one_step(model: Any, batch: Batch, *, cut: int | None, clip_norm: float = 1.0) -> tuple[dict[str, Any], Any]:
    """The step's metrics and the weights after it, by plain gradient descent so that small differences show."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    metrics = stepper(model, optimizer, cut=cut, clip_norm=clip_norm).take(batch)
    return metrics, {name: p.detach().clone() for name, p in model.named_parameters()}


# The batch


def test_a_batch_is_the_blocks_of_its_step(toy_data: PreparedData) -> None:
    batch = batch_of(toy_data, step=3)
    rows = batch_rows(seed=7, step=3, batch_size=8, blocks=len(toy_data.train))
    assert np.array_equal(batch.tokens.numpy(), toy_data.train.tokens[rows])
    assert batch.tokens.dtype == torch.int64
    assert batch.sequence_index.tolist() == list(range(24, 32)), "places in the run's order, not rows"


@pytest.mark.parametrize("size", [1, 2, 4, 8, None])
def test_micro_batches_are_the_batch_cut(toy_data: PreparedData, size: int | None) -> None:
    batch = batch_of(toy_data)
    parts = list(batch.micro_batches(size))
    assert len(parts) == 8 // (size or 8)
    assert torch.equal(torch.cat([part.tokens for part in parts]), batch.tokens)
    assert torch.equal(torch.cat([part.sequence_index for part in parts]), batch.sequence_index)
    assert {(part.seed, part.step) for part in parts} == {(7, 1)}


# The update


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_update_does_not_depend_on_the_cut(
    make_moe: MakeMoE, toy_data: PreparedData, window: str, top_k: int
) -> None:
    """1 × 8 = 2 × 4 = 4 × 2 = 8 × 1, with noise, in float64; router losses weigh as much as the LM loss."""
    results = []
    for cut in (None, 4, 2, 1):
        model = make_moe(torch.float64, top_k=top_k, balance_window=window, balance_coef=1.0, z_coef=0.1, noise_std=1.0)
        set_noise_annealing(model, 10)
        results.append(one_step(model, batch_of(toy_data), cut=cut))
    (metrics, whole), *cuts = results
    for other_metrics, other in cuts:
        assert max(float((whole[name] - other[name]).abs().max()) for name in whole) <= 1e-10
        assert other_metrics == pytest.approx(metrics, rel=1e-6)
        assert other_metrics.keys() == metrics.keys()


def test_windows_differ_in_their_update(make_moe: MakeMoE, toy_data: PreparedData) -> None:
    """Else the test above could not fail."""
    gates = []
    for window in WINDOWS:
        model = make_moe(torch.float64, balance_window=window, balance_coef=1.0)
        gates.append(one_step(model, batch_of(toy_data), cut=2)[1]["transformer.h.1.mlp.moe.router.gate.weight"])
    differences = [float((a - b).abs().max()) for n, a in enumerate(gates) for b in gates[:n]]
    assert min(differences) > 1e-6


def test_without_a_balance_loss_the_cut_still_changes_nothing(make_moe: MakeMoE, toy_data: PreparedData) -> None:
    """Neither the update nor the loss reported, which is of the configured window though nothing acts on it."""
    (whole, weights), (cut, cut_weights) = (
        one_step(make_moe(torch.float64, balance_coef=0.0), batch_of(toy_data), cut=size) for size in (None, 2)
    )
    assert max(float((weights[name] - cut_weights[name]).abs().max()) for name in weights) <= 1e-10
    assert cut == pytest.approx(whole, rel=1e-6)


def test_a_dense_step_is_cut_alike(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    model = dense.double()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    whole = one_step(model, batch_of(toy_data), cut=None)
    model.load_state_dict(before)
    cut = one_step(model, batch_of(toy_data), cut=2)
    assert max(float((whole[1][name] - cut[1][name]).abs().max()) for name in whole[1]) <= 1e-10
    assert cut[0] == pytest.approx(whole[0], rel=1e-6)


def test_the_update_is_that_of_the_mean_loss_clipped(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    """Worked out with autograd alone."""
    model, batch = dense.double(), batch_of(toy_data)
    logits = model(input_ids=batch.tokens).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch.tokens[:, 1:].reshape(-1))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
    expected = {
        name: (p - 0.5 * gradient * min(1.0, 0.3 / float(norm))).detach()
        for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True)
    }
    metrics, weights = one_step(model, batch, cut=4, clip_norm=0.3)
    assert float(norm) > 0.3
    assert metrics["gradient_norm"] == pytest.approx(float(norm), rel=1e-6)
    assert metrics["lm_loss"] == metrics["objective"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert all(torch.allclose(weights[name], expected[name], atol=1e-7) for name in weights)


def test_gradients_do_not_leak_into_the_next_step(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    one_step(dense, batch_of(toy_data), cut=4)
    assert all(parameter.grad is None for parameter in dense.parameters())


def test_running_counts_are_those_of_the_micro_batches_before(make_moe: MakeMoE, toy_data: PreparedData) -> None:
    """Each assignment once, though every forward has its own; the first micro-batch has none before it."""
    model = make_moe(top_k=2, noise_std=1.0)
    given: list[Any] = []
    own: list[torch.Tensor] = []
    model.register_forward_pre_hook(
        lambda module, inputs, options: given.append(options["routing_context"].earlier_counts), with_kwargs=True
    )
    model.register_forward_hook(
        lambda module, inputs, output: own.append(torch.bincount(output.routes[0].topk_indices.flatten(), minlength=4))
    )
    engine = Engine.start("cpu", "fp32", "ddp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    Stepper(model, optimizer, micro_batch_size=2, clip_norm=1.0, engine=engine, running_counts=True).take(
        batch_of(toy_data)
    )
    assert given[0] is None
    assert [earlier[0].tolist() for earlier in given[1:]] == [sum(own[:n]).tolist() for n in (1, 2, 3)]


# What it reports


def test_metrics_are_named_and_of_the_whole_step(make_moe: MakeMoE, toy_data: PreparedData) -> None:
    model = make_moe(balance_coef=0.5, z_coef=0.25, top_k=2)
    metrics, _ = one_step(model, batch_of(toy_data), cut=2)
    loads = [metrics[f"router/layer_1_expert_{expert}_load"] for expert in range(4)]
    assert sum(loads) == pytest.approx(1)
    assert metrics["objective"] == pytest.approx(
        metrics["lm_loss"] + 0.5 * metrics["load_balancing_loss"] + 0.25 * metrics["router_z_loss"], rel=1e-5
    )
    assert set(metrics) == {
        "lm_loss",
        "load_balancing_loss",
        "router_z_loss",
        "objective",
        "gradient_norm",
        "router/layer_1_entropy_per_token",
        "router/layer_1_entropy_distribution",
        *(f"router/layer_1_expert_{expert}_load" for expert in range(4)),
    }


def test_loads_are_those_of_the_noisy_choice(make_moe: MakeMoE, toy_data: PreparedData) -> None:
    """Counted from one forward in training mode with the step's own noise."""
    model, batch = make_moe(noise_std=2.0), batch_of(toy_data)
    route = model.train()(input_ids=batch.tokens, routing_context=batch.context()).routes[0]
    counts = torch.bincount(route.topk_indices.flatten(), minlength=4)
    quiet = torch.bincount(route.router_probs_clean.argmax(-1), minlength=4)
    metrics, _ = one_step(model, batch, cut=4)
    loads = torch.tensor([metrics[f"router/layer_1_expert_{expert}_load"] for expert in range(4)])
    assert torch.allclose(loads, counts / counts.sum())
    assert not torch.equal(counts, quiet)


def test_dropout_is_keyed_by_the_step(toy_base: Any, toy_data: PreparedData) -> None:
    """The toy base has dropout: whatever was drawn before, a step is the same again, and another step is not."""
    from moe_emergence.models.base import load_base

    losses = []
    for draws, step in ((0, 1), (5, 1), (0, 2)):
        torch.randn(draws)
        batch = batch_of(toy_data, step=1)
        batch = replace(batch, seed=7, step=step)
        losses.append(one_step(load_base(str(toy_base)).model, batch, cut=4)[0]["lm_loss"])
    assert losses[0] == losses[1] != losses[2]


# When it refuses


@pytest.mark.parametrize(
    ("where", "said"), [("loss", "lm_loss and objective and gradient norm"), ("gradient", "gradient norm")]
)
def test_a_step_that_is_not_finite_leaves_the_weights(
    dense: GPT2LMHeadModel, toy_data: PreparedData, where: str, said: str
) -> None:
    optimizer = make_optimizer(dense, OptimizerConfig())
    stepper(dense, optimizer).take(batch_of(toy_data, step=0))
    if where == "loss":
        handle = dense.lm_head.register_forward_hook(lambda module, inputs, logits: logits * torch.inf)
    else:
        handle = dense.lm_head.weight.register_hook(lambda gradient: gradient * torch.nan)
    before = {name: p.detach().clone() for name, p in dense.named_parameters()}
    moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
    with pytest.raises(TrainingError, match=rf"step 2: .*{said} not finite: .*weights are those of the step before"):
        stepper(dense, optimizer, cut=4).take(batch_of(toy_data))
    handle.remove()
    assert all(torch.equal(p, before[name]) for name, p in dense.named_parameters())
    after = [value for state in optimizer.state.values() for value in state.values()]
    assert all(torch.equal(old, new) for old, new in zip(moments, after, strict=True))
    assert all(p.grad is None for p in dense.parameters())


def test_what_is_not_finite_elsewhere_is_refused_here_too(
    dense: GPT2LMHeadModel, toy_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All values of this process are finite, and another one says that its own are not."""
    before = {name: p.detach().clone() for name, p in dense.named_parameters()}
    monkeypatch.setattr(Engine, "any", lambda self, flag: True)
    with pytest.raises(NotFinite, match="a value not finite"):
        one_step(dense, batch_of(toy_data), cut=4)
    assert all(torch.equal(p, before[name]) for name, p in dense.named_parameters())


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "fits"),
    [(8, None, 2, True), (8, 2, 2, True), (8, 4, 2, True), (8, 8, 2, True), (12, 4, 2, False), (12, 3, 2, True)],
)
def test_micro_batches_must_divide_what_a_process_takes(
    toy_config: Callable[..., Any], batch: int, micro: int | None, processes: int, fits: bool
) -> None:
    """Else a mean of their means is not the mean of the step."""
    engine = Engine.start("cpu", "fp32", "ddp")
    engine.world_size, engine.rank = processes, 1
    config = toy_config(training={"batch_size": batch, "micro_batch_size": micro})
    if fits:
        assert share_of_batch(engine, config) == slice(batch // 2, batch)
    else:
        with pytest.raises(ConfigError, match=r"must divide the 6 sequences of each of 2 processes .* is 12\); got 4"):
            share_of_batch(engine, config)


def test_under_running_counts_the_balance_loss_reported_is_that_of_the_objective(
    make_moe: MakeMoE, toy_data: PreparedData
) -> None:
    model = make_moe(torch.float64, balance_coef=1.0, z_coef=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps = stepper(model, optimizer, cut=2)
    steps.running_counts = True
    metrics = steps.take(batch_of(toy_data))
    assert metrics["objective"] == pytest.approx(metrics["lm_loss"] + metrics["load_balancing_loss"], rel=1e-12)
