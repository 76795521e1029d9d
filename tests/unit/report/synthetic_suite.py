"""A suite's folder with planted numbers, as training leaves it: for the tests of analysis, report and browser."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_emergence.config import DataConfig, MoEConfig, RunConfig, TrainingConfig, to_dict

DOMAINS = ("code", "math", "prose")
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "{{7*7}} {% raw %} {# c #}",
    "a\"b'c onmouseover=alert(3) \u2028 line",
    "$\\frac{1}{0}$ javascript:alert(4) ]]><!--",
)


@dataclass(frozen=True, kw_only=True)
class PlantedArm:
    """One arm.

    Attributes:
        moe: None for a dense arm.
        shares: layer to [domains, experts] shares of assignments at the end; each row sums to 1.
        loss: macro LM loss on test at the end, nats.
        entropy_share: entropy per token ÷ ln E at the end.
        events: collapse lines of metrics.jsonl.
    """

    name: str
    moe: MoEConfig | None = None
    shares: Mapping[int, np.ndarray] = field(default_factory=dict)
    loss: float = 3.62
    entropy_share: float = 0.5
    question: str = "What does more training alone do?"
    baseline: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class PlantedSuite:
    """What is to be written; `tokens` predicted a domain in each evaluation, and routed."""

    arms: Sequence[PlantedArm]
    domains: Sequence[str] = DOMAINS
    seeds: Sequence[int] = (42,)
    steps: int = 240
    tokens: int = 10_000
    looks: Sequence[int] = (0, 1, 4, 15, 60, 240)
    name: str = "planted"
    question: str = "Do experts copied from one MLP specialise on code, math and prose?"
    command: str = "moe-emergence quickstart"
    conclusive: bool = True
    note: str = ""
    sources: Sequence[Mapping[str, Any]] = (
        {"domain": "code", "source": "cpython-stdlib", "licence": "PSF-2.0", "documents": 600},
        {"domain": "math", "source": "setmm", "licence": "CC0-1.0", "documents": 4100},
        {"domain": "prose", "source": "moby-dick", "licence": "public domain", "documents": 135},
    )


def spread(experts: int, favourites: Mapping[int, float]) -> np.ndarray:
    """One domain's shares: the named experts get theirs, the others split the rest."""
    rest = (1 - sum(favourites.values())) / max(1, experts - len(favourites))
    return np.array([favourites.get(expert, rest) for expert in range(experts)])


def quickstart_like(**changes: Any) -> PlantedSuite:
    """Five arms: dense, a balanced one with specialists, a collapsed one, one with two experts a token, one uniform."""
    moe = MoEConfig(layers=(2, 3), z_coef=0.0)
    mild = {2: np.stack([spread(8, {1: 0.31, 4: 0.2}), spread(8, {6: 0.28}), spread(8, {0: 0.26, 3: 0.22})])}
    mild[3] = np.stack([spread(8, {5: 0.36}), spread(8, {2: 0.24, 7: 0.24}), spread(8, {1: 0.3, 6: 0.02})])
    uneven = {2: np.stack([spread(8, {5: 0.66, 1: 0.30}), spread(8, {5: 0.93}), spread(8, {5: 0.58, 0: 0.4})])}
    uneven[3] = np.stack([spread(8, {2: 0.71, 3: 0.25}), spread(8, {2: 0.9}), spread(8, {2: 0.52, 6: 0.44})])
    two = {2: np.stack([spread(8, {1: 0.2}), spread(8, {6: 0.18}), spread(8, {0: 0.21})]), 3: np.full((3, 8), 1 / 8)}
    flat = {2: np.full((3, 8), 1 / 8), 3: np.stack([spread(8, {4: 0.15})] * 3)}
    collapsed = {
        "event": "collapse", "step": 96, "layer": 2, "state": "collapsed", "expert": 5, "excess": 0.66,
        "dead": [2, 3, 4, 6, 7], "reason": "expert 5 takes 70% of the assignments (excess 0.66); dead: 2, 3, 4, 6, 7",
    }  # fmt: skip
    arms = (
        PlantedArm(name="dense"),
        PlantedArm(
            name="moe",
            moe=moe,
            shares=mild,
            loss=3.605,
            entropy_share=0.31,
            question="Do balanced experts specialise, and does it lower the loss?",
            baseline="dense",
            changes={"moe": [None, None], "moe.num_experts": [None, 8], "moe.top_k": [None, 1]},
        ),
        PlantedArm(
            name="no_lb",
            moe=replace(moe, balance_coef=0.0),
            shares=uneven,
            loss=3.627,
            entropy_share=0.18,
            question="What happens without a load-balancing loss, and what does it cost?",
            baseline="moe",
            changes={"moe.balance_coef": [0.01, 0.0]},
            events=(collapsed,),
        ),
        PlantedArm(
            name="top2",
            moe=replace(moe, top_k=2),
            shares=two,
            loss=3.6008,
            entropy_share=0.4,
            question="What does a second expert a token buy?",
            baseline="moe",
            changes={"moe.top_k": [1, 2]},
        ),
        PlantedArm(
            name="moe_blocks",
            moe=replace(moe, balance_window="blocks:2"),
            shares=flat,
            loss=3.611,
            entropy_share=0.93,
            question="Does balancing over small groups of sequences keep experts from specialising?",
            baseline="moe",
            changes={"moe.balance_window": ["global_batch", "blocks:2"]},
        ),
    )
    return replace(PlantedSuite(arms=arms), **changes)


def write_suite(folder: Path, suite: PlantedSuite) -> Path:
    """Write `suite` to `folder`; returns it."""
    arms = [
        {"name": a.name, "question": a.question, "changes": dict(a.changes), "baseline": a.baseline} for a in suite.arms
    ]
    _write(
        folder / "suite.json",
        {
            "suite": suite.name,
            "question": suite.question,
            "arms": arms,
            "seeds": list(suite.seeds),
            "command": suite.command,
            "conclusive": suite.conclusive,
            "note": suite.note,
        },
    )
    for arm in suite.arms:
        for seed in suite.seeds:
            write_run(folder / arm.name / f"seed-{seed}", suite, arm, seed)
    return folder


def write_run(folder: Path, suite: PlantedSuite, arm: PlantedArm, seed: int) -> None:
    config = RunConfig(
        name=arm.name,
        question=arm.question,
        seed=seed,
        data=DataConfig(block_size=256),
        moe=arm.moe,
        training=TrainingConfig(steps=suite.steps, batch_size=16),
    )
    _write(folder / "config.json", to_dict(config))
    _write(folder / "manifest.json", manifest(suite, arm))
    random = np.random.default_rng([seed, len(arm.name)])
    _write_lines(folder / "metrics.jsonl", metrics(suite, arm, seed, random))
    _write_lines(folder / "timings.jsonl", timings(suite))


def manifest(suite: PlantedSuite, arm: PlantedArm) -> dict[str, Any]:
    audit = {
        "documents": 4835,
        "accuracy": 0.988,
        "chance": 0.766,
        "features": [{"name": "space share", "accuracy": 0.807, "means": dict.fromkeys(suite.domains, 0.2)}],
    }
    receipt = {
        "relative_logit_difference": 0.00123,
        "kl_nats": 4.5e-7,
        "dense_lm_loss": 3.701,
        "upcycled_lm_loss": 3.7013,
        "lm_loss_difference": 0.0003,
        "parameters_total": 3_145_728,
        "parameters_dense": 1_310_720,
        "parameters_active": 1_312_768,
    }
    return {
        "package": "0.1.0",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "environment": {"python": "3.11.2", "torch": "2.13.0", "machine": "x86_64", "device": "cpu", "threads": 1},
        "data": {
            "digest": "d" * 64,
            "corpus": "embedded",
            "corpus_digest": "c" * 64,
            "domains": list(suite.domains),
            "blocks_per_domain": {"train": 900, "dev": 60, "test": 60},
            "tokens": {"train": dict.fromkeys(suite.domains, 250_000)},
            "sources": [dict(source) for source in suite.sources],
            "record": {
                "cleaning": {"seen": 4841, "kept": 4841, "applied": {"NUL characters deleted": 0}},
                "duplicates": {"exact": 0, "near": 6, "kept": 4835},
                "format_audit": {"before cleaning": audit, "after cleaning": audit | {"accuracy": 0.985}},
            },
        },
        "base": {"name": "embedded", "digest": "b" * 64, "parameters": 1_310_720},
        "receipt": None if arm.moe is None else receipt,
        "moe_layers": list(arm.shares),
        "parameters": 1_310_720 if arm.moe is None else 3_145_728,
    }


def metrics(suite: PlantedSuite, arm: PlantedArm, seed: int, random: np.random.Generator) -> list[dict[str, Any]]:
    lines = [_evaluation(suite, arm, seed, 0, split) for split in ("dev", "test")]
    for step in range(1, suite.steps + 1):
        lines.append(_step(suite, arm, step, random))
        lines += [dict(event) for event in arm.events if event["step"] == step]
        if step in suite.looks:
            lines.append(_evaluation(suite, arm, seed, step, "dev"))
    lines.append(_evaluation(suite, arm, seed, suite.steps, "test"))
    return [*lines, {"event": "end", "step": suite.steps, "reason": "finished"}]


def timings(suite: PlantedSuite) -> list[dict[str, Any]]:
    steps = [{"event": "step", "step": step, "seconds": 0.25} for step in range(1, suite.steps + 1)]
    looks = [
        {"event": kind, "step": step, "seconds": 0.5, "peak_memory_mib": 700.0 + step / 10}
        for step in suite.looks
        for kind in ("evaluation", "trace")
    ]
    return steps + looks


def domain_losses(suite: PlantedSuite, arm: PlantedArm, seed: int, step: int) -> dict[str, float]:
    """Losses whose mean is the arm's at the last step, plus (seed − 42) / 1000; higher before."""
    macro = arm.loss + 0.4 * math.exp(-step / (suite.steps / 5)) - 0.4 * math.exp(-5) + (seed - 42) / 1000
    middle = (len(suite.domains) - 1) / 2
    return {domain: macro + 0.5 * (place - middle) for place, domain in enumerate(suite.domains)}


def _evaluation(suite: PlantedSuite, arm: PlantedArm, seed: int, step: int, split: str) -> dict[str, Any]:
    losses = domain_losses(suite, arm, seed, step)
    mean = float(np.mean(list(losses.values())))
    return {
        "event": "evaluation",
        "step": step,
        "split": split,
        "lm_loss": losses,
        "lm_loss_macro": mean,
        "lm_loss_tokens": mean,
        "bits_per_byte": {domain: loss / 2.2 for domain, loss in losses.items()},
        "predicted_tokens": dict.fromkeys(suite.domains, suite.tokens),
        "routing": [_layer(suite, arm, layer, step) for layer in arm.shares],
    }


def _layer(suite: PlantedSuite, arm: PlantedArm, layer: int, step: int) -> dict[str, Any]:
    assert arm.moe is not None
    shares = _shares_at(suite, arm, layer, step)
    counts = np.rint(shares * suite.tokens * arm.moe.top_k).astype(int)
    return {
        "layer": layer,
        "assignments": counts.tolist(),
        "first_choice": np.rint(shares * suite.tokens).astype(int).tolist(),
        "mean_probabilities": shares.tolist(),
        "entropy_per_token": _entropy_at(suite, arm, step),
    }


def _shares_at(suite: PlantedSuite, arm: PlantedArm, layer: int, step: int) -> np.ndarray:
    """From uniform at step 0 to the planted shares at the last step."""
    end, done = arm.shares[layer], step / suite.steps
    return end * done**0.5 + (1 - done**0.5) / end.shape[1]


def _entropy_at(suite: PlantedSuite, arm: PlantedArm, step: int) -> float:
    assert arm.moe is not None
    return math.log(arm.moe.num_experts) * (1 - (1 - arm.entropy_share) * (step / suite.steps) ** 0.5)


def _step(suite: PlantedSuite, arm: PlantedArm, step: int, random: np.random.Generator) -> dict[str, Any]:
    loss = float(np.mean(list(domain_losses(suite, arm, 42, step).values()))) + float(random.normal(0, 0.05))
    line = {
        "event": "step",
        "step": step,
        "lm_loss": loss,
        "objective": loss,
        "gradient_norm": 0.8,
        "learning_rate": 1e-4,
    }
    for layer in arm.shares:
        load = random.multinomial(4096, _shares_at(suite, arm, layer, step).mean(0)) / 4096
        line[f"router/layer_{layer}_entropy_per_token"] = _entropy_at(suite, arm, step)
        line[f"router/layer_{layer}_entropy_distribution"] = float(-(load * np.log(load.clip(1e-12))).sum())
        line |= {f"router/layer_{layer}_expert_{expert}_load": float(share) for expert, share in enumerate(load)}
    return line


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), "utf-8")


def _write_lines(path: Path, lines: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
