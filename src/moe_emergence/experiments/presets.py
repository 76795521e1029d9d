"""Presets: a run is a function of its baseline.

The quickstart's runs train the embedded base; their settings were frozen by a pilot on dev documents
(`docs/decisions/005-pilot.md`). The `gpt2` runs have the published settings of GPT-2 small.
"""

from collections.abc import Callable
from dataclasses import replace

from moe_emergence.config import DataConfig, MoEConfig, OptimizerConfig, RunConfig, TrainingConfig


def dense() -> RunConfig:
    """The base trained on, without experts: what every other arm is compared with."""
    return RunConfig(
        name="dense",
        question="What does more training alone do?",
        data=DataConfig(dev_blocks=8, test_blocks=64, probe_tokens=27_648),
        optimizer=OptimizerConfig(learning_rate=1e-4, gate_multiplier=30.0),
        training=TrainingConfig(steps=240, batch_size=16, evaluations=8, checkpoint_every=80),
    )


def with_experts(baseline: RunConfig) -> RunConfig:
    """8 experts, top-1, balanced over the global batch, annealed noise."""
    return replace(
        baseline,
        name="moe",
        question="Do balanced experts specialise, and does it lower the loss?",
        moe=MoEConfig(),
    )


def without_balancing(baseline: RunConfig) -> RunConfig:
    """Only the balance coefficient is 0."""
    return _changed(
        baseline, "no_lb", "What happens without a load-balancing loss, and what does it cost?", balance_coef=0.0
    )


def two_experts(baseline: RunConfig) -> RunConfig:
    """Only k differs: each token goes to two experts."""
    return _changed(baseline, "top2", "What does a second expert a token buy?", top_k=2)


def balanced_over_blocks(baseline: RunConfig) -> RunConfig:
    """Only the balance window differs: groups of two single-domain blocks, which asks every domain to use every
    expert."""
    question = "Does balancing over small groups of sequences keep experts from specialising?"
    return _changed(baseline, "moe_blocks", question, balance_window="blocks:2")


def gpt2(baseline: RunConfig) -> RunConfig:
    """The same at GPT-2 small's published settings."""
    return replace(
        baseline,
        name=f"gpt2_{baseline.name}",
        base="gpt2",
        data=DataConfig(block_size=512),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(steps=10_000, batch_size=8, evaluations=16, checkpoint_every=500),
    )


def _changed(baseline: RunConfig, name: str, question: str, **moe: object) -> RunConfig:
    assert baseline.moe is not None
    return replace(baseline, name=name, question=question, moe=replace(baseline.moe, **moe))  # type: ignore[arg-type]


def _moe() -> RunConfig:
    return with_experts(dense())


_QUICKSTART: dict[str, Callable[[], RunConfig]] = {
    "dense": dense,
    "moe": _moe,
    "no_lb": lambda: without_balancing(_moe()),
    "top2": lambda: two_experts(_moe()),
    "moe_blocks": lambda: balanced_over_blocks(_moe()),
}


def _at_full_size(preset: Callable[[], RunConfig]) -> Callable[[], RunConfig]:
    return lambda: gpt2(preset())


PRESETS: dict[str, Callable[[], RunConfig]] = _QUICKSTART | {
    f"gpt2_{name}": _at_full_size(preset) for name, preset in _QUICKSTART.items()
}
"""Every preset by name."""
