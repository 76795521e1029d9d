"""Presets: a run is a function of its baseline.

The runs without a prefix train the embedded base; their settings were frozen by a pilot on dev documents
(`docs/decisions/011-pilot.md`). The `gpt2` runs have the published settings of GPT-2 small.
"""

from collections.abc import Callable
from dataclasses import replace

from moe_emergence.config import DataConfig, MoEConfig, OptimizerConfig, RunConfig, TrainingConfig

PUBLISHED_BALANCE = 0.01
PUBLISHED_Z = 0.001


def dense() -> RunConfig:
    """The base trained on, without experts: what every other arm is compared with."""
    return RunConfig(
        name="dense",
        question="What does more training alone do?",
        data=DataConfig(dev_blocks=8, test_blocks=64, probe_tokens=27_648),
        optimizer=OptimizerConfig(learning_rate=2e-3, gate_multiplier=30.0),
        training=TrainingConfig(steps=320, batch_size=16, evaluations=12, checkpoint_every=80),
    )


def with_experts(baseline: RunConfig) -> RunConfig:
    """8 experts, top-1, balanced over the global batch, annealed noise, no z-loss; the gates read hidden states and do
    not train them."""
    return replace(
        baseline,
        name="moe",
        question="Do balanced experts specialise, and does it lower the loss?",
        moe=MoEConfig(balance_coef=0.02, z_coef=0.0, detach_gate_input=True),
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


def balanced_over_sequences(baseline: RunConfig) -> RunConfig:
    """Only the balance window differs: each sequence, of one domain, is to use every expert alike. Expect less domain
    information than over the global batch; the loss itself asks for 0 bits."""
    question = "Does balancing within each sequence keep experts from specialising?"
    return _changed(baseline, "moe_sequence", question, balance_window="sequence")


def balanced_over_steps(baseline: RunConfig) -> RunConfig:
    """Only the balance window differs: a moving average of some 10 steps. Expect max violation, LM loss and domain
    information as over the global batch, within the spread of seeds: a batch that mixes domains is wide enough."""
    question = "Does a window wider than one step free experts to specialise?"
    return _changed(baseline, "moe_ema", question, balance_window="ema")


def balanced_by_bias(baseline: RunConfig) -> RunConfig:
    """The loss-free bias in place of the balance loss. 1e-3 a step moves a bias by at most 0.32 in 320 steps: expect a
    max violation between that without balancing and that with the loss, and no less domain information."""
    question = "Does balancing without a gradient leave experts freer to specialise?"
    return _changed(baseline, "loss_free", question, balance_coef=0.0, bias_rate=1e-3)


def frozen_router(baseline: RunConfig) -> RunConfig:
    """Only the router differs: its random gate is never trained. Expect domain information above the permutation null
    and inside the 95 % range of fresh gates: what hidden states give away, nothing learned."""
    question = "What do experts show whose router never learns?"
    return _changed(baseline, "frozen", question, router="frozen")


def hash_router(baseline: RunConfig) -> RunConfig:
    """Only the router differs: an expert for each token id. Expect I(E;D|X) of 0 bits exactly, since its domain
    information is all vocabulary, and loads as uneven as token frequencies, since no loss moves them."""
    question = "How much domain information does the vocabulary alone give?"
    return _changed(baseline, "hash", question, router="hash")


def round_robin_router(baseline: RunConfig) -> RunConfig:
    """Only the router differs: experts take turns along each sequence. Expect a max violation of 0 in training (8
    divides a block) and 0 bits of domain information above the permutation null."""
    question = "What do experts gain that are told nothing of the text?"
    return _changed(baseline, "round_robin", question, router="round_robin")


def centroid_gates(baseline: RunConfig) -> RunConfig:
    """Only the gate's start differs: where its inputs cluster. Expect most domain information at step 0, and less after
    training, since balancing and the LM loss do not ask for clusters; what counts is what it has beyond other k-means
    of the same hidden states."""
    question = "Do experts specialise further when their gate starts where the hidden states cluster?"
    return _changed(baseline, "centroids", question, gate_init="centroids")


def partly_redrawn(baseline: RunConfig) -> RunConfig:
    """Only the experts' start differs: half of each one's hidden units are drawn anew. Expect a higher LM loss at step
    0 and experts less alike; the paper gains only after far longer training."""
    question = "Do experts that start apart specialise more than copies do?"
    return _changed(baseline, "drop_upcycled", question, reinit_share=0.5)


def oracle(baseline: RunConfig) -> RunConfig:
    """Only the router differs: it is told the domain and divides the experts among the domains. Expect I(E;D) = H(D)
    exactly, and the lowest LM loss that dividing experts by domain alone can give: the upper end of the scale."""
    question = "What would experts gain that are divided among the domains by hand?"
    return _changed(baseline, "oracle", question, router="domain")


def gpt2(baseline: RunConfig) -> RunConfig:
    """The same at GPT-2 small's published settings."""
    return replace(
        baseline,
        moe=None if baseline.moe is None else _published(baseline.moe),
        name=f"gpt2_{baseline.name}",
        base="gpt2",
        data=DataConfig(block_size=512),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(steps=10_000, batch_size=8, evaluations=16, checkpoint_every=500),
    )


def _published(moe: MoEConfig) -> MoEConfig:
    balance = PUBLISHED_BALANCE if moe.balance_coef else 0.0
    return replace(moe, balance_coef=balance, z_coef=PUBLISHED_Z, detach_gate_input=False)


def _changed(baseline: RunConfig, name: str, question: str, **moe: object) -> RunConfig:
    assert baseline.moe is not None
    return replace(baseline, name=name, question=question, moe=replace(baseline.moe, **moe))  # type: ignore[arg-type]


def _moe() -> RunConfig:
    return with_experts(dense())


_EMBEDDED: dict[str, Callable[[], RunConfig]] = {
    "dense": dense,
    "moe": _moe,
    "no_lb": lambda: without_balancing(_moe()),
    "top2": lambda: two_experts(_moe()),
    "moe_blocks": lambda: balanced_over_blocks(_moe()),
    "moe_sequence": lambda: balanced_over_sequences(_moe()),
    "moe_ema": lambda: balanced_over_steps(_moe()),
    "loss_free": lambda: balanced_by_bias(_moe()),
    "frozen": lambda: frozen_router(_moe()),
    "hash": lambda: hash_router(_moe()),
    "round_robin": lambda: round_robin_router(_moe()),
    "centroids": lambda: centroid_gates(_moe()),
    "drop_upcycled": lambda: partly_redrawn(_moe()),
    "oracle": lambda: oracle(_moe()),
}


def _at_full_size(preset: Callable[[], RunConfig]) -> Callable[[], RunConfig]:
    return lambda: gpt2(preset())


PRESETS: dict[str, Callable[[], RunConfig]] = _EMBEDDED | {
    f"gpt2_{name}": _at_full_size(preset) for name, preset in _EMBEDDED.items()
}
"""Every preset by name."""
