"""The base's recipe: when its constant phase ends, how its rate runs, and that stopping changes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moe_emergence.config import ExecutionConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.tokenizer import tokenizer_digest
from moe_emergence.errors import Interrupted, RunDirectoryError
from moe_emergence.models.base import load_base
from moe_emergence.training.pretrain import (
    BaseRecipe,
    _Phase,
    dense_model,
    learning_rate,
    plateau_reached,
    pretrain_base,
)
from moe_emergence.training.step import Stepper

RECIPE = BaseRecipe(plateau_tokens=1000, plateau_gain=0.01, warmup_steps=4, learning_rate=0.1, decay_share=0.5)
TINY = BaseRecipe(
    layers=1,
    hidden_size=16,
    heads=2,
    block_size=32,
    batch_size=2,
    learning_rate=3e-3,
    warmup_steps=2,
    plateau_tokens=10**9,
    max_constant_steps=6,
    decay_share=0.5,
    eval_every=3,
    dev_blocks=2,
)
CPU = ExecutionConfig(device="cpu", threads=1)


def curve(*losses: float, every: int = 500) -> list[dict[str, Any]]:
    return [{"tokens": every * n, "lm_loss_mix": loss} for n, loss in enumerate(losses)]


# The plateau


def test_no_plateau_before_a_whole_window() -> None:
    assert not plateau_reached(RECIPE, curve(3.0))
    assert not plateau_reached(RECIPE, curve(3.0, 3.0))


def test_plateau_is_a_gain_below_the_limit_over_the_window() -> None:
    assert plateau_reached(RECIPE, curve(3.0, 2.995, 2.991))
    assert not plateau_reached(RECIPE, curve(3.0, 2.995, 2.989))


def test_the_window_is_of_tokens() -> None:
    """Points come every 100 tokens here: ten of them must pass."""
    falling = curve(*(3 - 0.0011 * n for n in range(11)), every=100)
    assert not any(plateau_reached(RECIPE, falling[: n + 1]) for n in range(10))
    assert not plateau_reached(RECIPE, falling), "0.011 nats over the window"
    flat = curve(*(3 - 0.0009 * n for n in range(11)), every=100)
    assert not plateau_reached(RECIPE, flat[:10])
    assert plateau_reached(RECIPE, flat), "0.009 nats over the window"


def test_the_best_of_the_window_counts() -> None:
    """One noisy evaluation at the end neither makes nor hides a plateau."""
    assert not plateau_reached(RECIPE, curve(3.0, 2.9, 3.1))
    assert plateau_reached(RECIPE, curve(3.0, 2.95, 3.1, 3.1)), "the best lies before the window"
    assert plateau_reached(RECIPE, curve(3.0, 3.5, 3.5))


# The rate


def test_rate_warms_up_stays_and_falls_linearly_to_zero() -> None:
    rates = [learning_rate(RECIPE, _Phase(step=step)) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    falling = [learning_rate(RECIPE, _Phase(step=8 + n, decay_from=8)) for n in range(5)]
    assert falling == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0]), "half of the 8 steps before it"


def test_the_model_is_of_the_recipe_and_seeded() -> None:
    model = dense_model(TINY, 320, 0)
    assert (model.config.n_layer, model.config.n_embd, model.config.n_head, model.config.n_positions) == (1, 16, 2, 32)
    assert (model.config.vocab_size, model.config.eos_token_id) == (320, 0)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}
    torch.randn(3)
    again, other = dense_model(TINY, 320, 0), dense_model(replace(TINY, seed=1), 320, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.transformer.wte.weight, other.transformer.wte.weight)


# The whole


@pytest.fixture(scope="module")
def base(toy_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain_base(TINY, toy_data, tmp_path_factory.mktemp("pretrain"), CPU)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


def test_the_record_says_how_it_was_made(base: Path, toy_data: PreparedData) -> None:
    found = record(base)
    assert (found["decay_from"], found["constant_phase_ended_by"], found["steps"]) == (6, "budget", 9)
    assert [(p["step"], p["tokens"]) for p in found["curve"]] == [(s, s * 64) for s in (0, 3, 6, 9)]
    assert found["curve"][-1]["lm_loss_macro"] < found["curve"][0]["lm_loss_macro"]
    assert found["recipe"]["eval_every"] == 3
    assert found["data_digest"] == toy_data.digest
    assert found["corpus_digest"] == toy_data.manifest["corpus_digest"]
    train = {d["id"] for d in toy_data.documents if d["split"] == "train"}
    assert len(found["train_documents"]) == len(train)
    assert set(found["train_documents"]) == train


def test_it_is_a_base_to_train_from(base: Path, toy_data: PreparedData) -> None:
    loaded = load_base(str(base))
    assert loaded.model.num_parameters() == record(base)["parameters"]
    assert tokenizer_digest(loaded.tokenizer) == tokenizer_digest(toy_data.tokenizer), "data prepared with it stays"


def test_a_plateau_ends_the_constant_phase(toy_data: PreparedData, tmp_path: Path) -> None:
    recipe = replace(TINY, plateau_gain=9.0, plateau_tokens=3 * 64)
    found = record(pretrain_base(recipe, toy_data, tmp_path, CPU))
    assert (found["decay_from"], found["constant_phase_ended_by"], found["steps"]) == (3, "plateau", 5)
    assert [point["step"] for point in found["curve"]] == [0, 3, 5]


@pytest.mark.parametrize("step", [2, 3, 6, 8])
def test_stopping_and_going_on_changes_nothing(
    base: Path, toy_data: PreparedData, tmp_path: Path, interrupt_in_step: Callable[..., None], step: int
) -> None:
    """In the middle, at an evaluation, where the decay begins, within it."""
    interrupt_in_step(step)
    with pytest.raises(Interrupted, match=f"stopped at step {step}"):
        pretrain_base(TINY, toy_data, tmp_path, CPU)
    same(pretrain_base(TINY, toy_data, tmp_path, CPU), base)


def test_a_crash_and_going_on_changes_nothing(
    base: Path, toy_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a checkpoint written at an evaluation, which is not taken twice."""
    real = Stepper.take

    def take(stepper: Stepper, batch: Any) -> Any:
        if batch.step == 4:
            raise RuntimeError("power cut")
        return real(stepper, batch)

    monkeypatch.setattr(Stepper, "take", take)
    with pytest.raises(RuntimeError, match="power cut"):
        pretrain_base(TINY, toy_data, tmp_path, CPU)
    monkeypatch.undo()
    same(pretrain_base(TINY, toy_data, tmp_path, CPU), base)


def test_once_finished_it_is_only_written_again(base: Path, toy_data: PreparedData) -> None:
    before = record(base), load_file(base / "model.safetensors")
    pretrain_base(TINY, toy_data, base.parent, CPU)
    assert record(base) == before[0]
    after = load_file(base / "model.safetensors")
    assert all(torch.equal(after[name], before[1][name]) for name in after)


def test_another_recipe_or_other_data_is_refused_with_both_values(
    base: Path, toy_data: PreparedData, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in base.parent.rglob("*")}
    with pytest.raises(RunDirectoryError, match=r"was started with learning_rate = 0\.003, not 0\.1: continue it"):
        pretrain_base(replace(TINY, learning_rate=0.1), toy_data, base.parent, CPU)
    with pytest.raises(RunDirectoryError, match=rf"data_digest = '{toy_data.digest}', not '0{{64}}'"):
        pretrain_base(TINY, replace(toy_data, digest="0" * 64), base.parent, CPU)
    assert {path: path.stat().st_mtime_ns for path in base.parent.rglob("*")} == before


def same(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert record(one) == record(other)
