"""A suite's folder with planted numbers, as training leaves it: for the tests of analysis, report and browser."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moe_emergence.config import DataConfig, MoEConfig, RunConfig, TrainingConfig, to_dict
from moe_emergence.data.blocks import PreparedData, save_prepared, token_byte_lengths
from moe_emergence.data.packing import Blocks
from moe_emergence.data.probe import Probe
from moe_emergence.data.tokenizer import END_OF_TEXT, tokenizer_digest
from moe_emergence.training.trace import METADATA, probe_digest, trace_name

DOMAINS = ("code", "math", "prose")
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "{{7*7}} {% raw %} {# c #}",
    "a\"b'c onmouseover=alert(3) \u2028 line",
    "$\\frac{1}{0}$ javascript:alert(4) ]]><!--",
)


DOCUMENTS, LENGTH, GATES = 12, 80, 39
"""Probe documents a domain, tokens of each, and fresh gates a layer."""
DIGEST = "d" * 64
TEXTS = {
    "code": "import os\n\n\ndef size(path: str) -> int:\n    # in bytes\n    return os.stat(path).st_size + {number}\n",
    "math": "Let x be {number}. Then x + 1 > x, and the sum of the first n numbers is n (n + 1) / 2 for every n ≥ 1. ",
}
PROSE = "Call me Ishmael {number}. Some years ago, having little or no money, I thought I would sail about a little. "


@dataclass(frozen=True, kw_only=True)
class PlantedArm:
    """One arm.

    Attributes:
        moe: None for a dense arm.
        shares: layer to [domains, experts] shares of assignments at the end; each row sums to 1.
        loss: macro LM loss on test at the end, nats.
        entropy_share: entropy per token ÷ ln E at the end.
        fresh: how far fresh gates separate domains: 0 not at all, 1 as far as the arm's shares do.
        informed: the same of informed gates, give or take a tenth; None records none.
        events: collapse and skipped lines of metrics.jsonl; a skipped step has no line of its own.
        inexact: the manifest's record of going on under other conditions.
    """

    name: str
    moe: MoEConfig | None = None
    shares: Mapping[int, np.ndarray] = field(default_factory=dict)
    loss: float = 3.62
    entropy_share: float = 0.5
    fresh: float = 0.3
    informed: float | None = None
    question: str = "What does more training alone do?"
    baseline: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    inexact: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class PlantedSuite:
    """What is to be written; `tokens` predicted a domain in each evaluation, and routed; `texts` of probe documents by
    domain, prose where none is given; domains in `unprobed` have no probe document."""

    arms: Sequence[PlantedArm]
    domains: Sequence[str] = DOMAINS
    seeds: Sequence[int] = (42,)
    steps: int = 240
    tokens: int = 10_000
    looks: Sequence[int] = (0, 1, 4, 15, 60, 240)
    texts: Mapping[str, str] = field(default_factory=lambda: TEXTS)
    unprobed: Sequence[str] = ()
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
    write_data(folder / "data" / DIGEST[:16], suite)
    for arm in suite.arms:
        for seed in suite.seeds:
            write_run(folder / arm.name / f"seed-{seed}", suite, arm, seed)
    return folder


def write_run(folder: Path, suite: PlantedSuite, arm: PlantedArm, seed: int) -> None:
    config = RunConfig(
        name=arm.name,
        question=arm.question,
        seed=seed,
        data=DataConfig(block_size=256, wide_probe_tokens=0),
        moe=arm.moe,
        training=TrainingConfig(steps=suite.steps, batch_size=16),
    )
    _write(folder / "config.json", to_dict(config))
    _write(folder / "manifest.json", manifest(suite, arm))
    random = np.random.default_rng([seed, len(arm.name)])
    _write_lines(folder / "metrics.jsonl", metrics(suite, arm, seed, random))
    _write_lines(folder / "timings.jsonl", timings(suite))
    for step in {0, *suite.looks, suite.steps}:
        write_trace(folder / "traces", suite, arm, seed, step)


def tokenizer() -> Tokenizer:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END_OF_TEXT])
    return made


def probe(suite: PlantedSuite) -> Probe:
    """The beginnings of `DOCUMENTS` texts a domain, domain by domain."""
    places = [
        (place, number)
        for place, domain in enumerate(suite.domains)
        if domain not in suite.unprobed
        for number in range(DOCUMENTS)
    ]
    texts = [
        suite.texts.get(suite.domains[place], PROSE).replace("{number}", str(number)).ljust(LENGTH)
        for place, number in places
    ]
    made = tokenizer()
    tokens = np.array([made.encode(text).ids[:LENGTH] for text in texts], dtype=np.uint16)
    return Probe(
        tokens=tokens,
        length=np.full(len(texts), LENGTH, dtype=np.int32),
        document=np.array([place * DOCUMENTS + number for place, number in places], dtype=np.int32),
        domain=np.array([place for place, _ in places], dtype=np.int32),
        start=np.zeros(len(texts), dtype=np.int32),
        texts=tuple(texts),
    )


def write_data(folder: Path, suite: PlantedSuite) -> None:
    """Prepared data whose probe the traces are of."""
    none = np.zeros(1, dtype=np.int32)
    square = np.zeros((1, LENGTH), dtype=np.int32)
    blocks = Blocks(tokens=square.astype(np.uint16), domain=none, document=square, position=square)
    documents = tuple(
        {"id": f"{domain}/{number}", "domain": domain, "source": "made up", "licence": "CC0-1.0", "split": "test"}
        for domain in suite.domains
        for number in range(DOCUMENTS)
    )
    made = tokenizer()
    save_prepared(
        PreparedData(
            domains=tuple(suite.domains),
            train=blocks,
            dev=blocks,
            test=blocks,
            probe=probe(suite),
            wide=None,
            documents=documents,
            token_bytes=token_byte_lengths(made),
            tokenizer=made,
            digest=DIGEST,
            manifest={
                "domains": list(suite.domains),
                "documents": documents,
                "tokenizer_digest": tokenizer_digest(made),
            },
        ),
        folder,
    )


def write_trace(folder: Path, suite: PlantedSuite, arm: PlantedArm, seed: int, step: int) -> None:
    """Routes drawn from the arm's shares of that step; fresh gates at both ends."""
    random = np.random.default_rng([seed, len(arm.name), step])
    asked, experts = probe(suite), 0 if arm.moe is None else arm.moe.num_experts
    rows = asked.tokens.size
    columns: dict[str, Any] = {
        "doc": np.repeat(asked.document, LENGTH),
        "pos": np.tile(np.arange(LENGTH, dtype=np.int32), len(asked.tokens)),
        "token_id": asked.tokens.reshape(-1),
        "domain": np.repeat(asked.domain.astype(np.uint8), LENGTH),
        "loss": random.exponential(arm.loss, rows).astype(np.float32),
    }
    beside: dict[str, np.ndarray] = {}
    for layer in arm.shares:
        assert arm.moe is not None
        shares = _shares_at(suite, arm, layer, step)
        with np.errstate(divide="ignore"):  # Gumbel's trick: k draws without replacement, by their shares
            keys = np.log(shares)[columns["domain"]] + random.gumbel(size=(rows, experts))
        order = np.argsort(-keys, axis=1)[:, : arm.moe.top_k].astype(np.uint8)
        for slot in range(arm.moe.top_k):
            columns[f"e{layer}_{slot}"] = np.ascontiguousarray(order[:, slot])
            columns[f"w{layer}_{slot}"] = np.full(rows, 1 / arm.moe.top_k, dtype=np.float32)
        columns[f"h{layer}"] = np.full(rows, _entropy_at(suite, arm, step), dtype=np.float32)
        columns[f"m{layer}"] = random.random(rows).astype(np.float32)
        beside[f"mean_probabilities.{layer}"] = shares[asked.domain].astype(np.float32)
        beside |= {f"{name}.{layer}": value for name, value in planted_experts(experts, step, suite.steps).items()}
        if step in (0, suite.steps):
            tilt = arm.fresh * random.random(GATES)[:, None, None]
            mixed = tilt * arm.shares[layer] + (1 - tilt) / experts
            counts = random.multinomial(LENGTH, mixed[:, asked.domain])
            beside[f"fresh_gates.{layer}"] = counts.astype(np.int32)
            if arm.informed is not None:
                own = np.random.default_rng([seed, len(arm.name), step, layer])
                tilt = arm.informed * own.uniform(0.9, 1.1, size=(GATES, 1, 1))
                mixed = tilt * arm.shares[layer] + (1 - tilt) / experts
                counts = own.multinomial(LENGTH, mixed[:, asked.domain])
                beside[f"informed_gates.{layer}"] = counts.astype(np.int32)
    facts = {
        "step": step,
        "arm": arm.name,
        "seed": seed,
        "probe_digest": probe_digest(asked),
        "data_digest": DIGEST,
        "tokenizer_digest": tokenizer_digest(tokenizer()),
        "domains": list(suite.domains),
        "layers": list(arm.shares),
        "num_experts": experts,
        "top_k": 0 if arm.moe is None else arm.moe.top_k,
    }
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(facts)})
    pq.write_table(table, folder / f"{trace_name(step)}.parquet")
    if beside:
        save_file(beside, folder / f"{trace_name(step)}.safetensors", {METADATA.decode(): json.dumps(facts)})


def planted_experts(experts: int, step: int, last: int) -> dict[str, np.ndarray]:
    """Experts that move apart as the run goes on: outputs from one function to a cosine of 0.5 with each other."""
    moved = step / last
    alike = np.where(np.eye(experts, dtype=bool), 1.0, 1 - 0.5 * moved)
    random = np.random.default_rng([experts, step])
    found = {
        "gate": random.normal(size=(experts, 16)),
        "routed_mean": random.normal(size=(experts, 16)) + 3,
        "drift": np.full(experts, 1e-3 + moved),
        "delta_cosine": np.where(np.eye(experts, dtype=bool), 1.0, 0.2 * moved),
        "output_cosine": alike,
        "output_cka": alike,
        "ancestor_cosine": np.full(experts, 1 - 0.3 * moved),
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


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
            "digest": DIGEST,
            "corpus": "embedded",
            "corpus_digest": "c" * 64,
            "tokenizer_digest": tokenizer_digest(tokenizer()),
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
        "inexact": list(arm.inexact),
    }


def metrics(suite: PlantedSuite, arm: PlantedArm, seed: int, random: np.random.Generator) -> list[dict[str, Any]]:
    lines = [_evaluation(suite, arm, seed, 0, split) for split in ("dev", "test")]
    for step in range(1, suite.steps + 1):
        if not any(event["event"] == "skipped" and event["step"] == step for event in arm.events):
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
        "documents": {domain: _document_sums(suite, arm, seed, losses[domain]) for domain in suite.domains},
        "routing": [_layer(suite, arm, layer, step) for layer in arm.shares],
    }


def _document_sums(suite: PlantedSuite, arm: PlantedArm, seed: int, loss: float) -> dict[str, Any]:
    """Documents of equal length around the domain's loss: hard and easy ones are so for every arm, more or less."""
    hard = np.random.default_rng(0).normal(0, 0.3, DOCUMENTS)
    own = np.random.default_rng([seed, len(arm.name)]).normal(0, 0.004, DOCUMENTS)
    tokens = np.full(DOCUMENTS, suite.tokens // DOCUMENTS)
    tokens[0] += suite.tokens - tokens.sum()
    around = hard + own - ((hard + own) * tokens).sum() / tokens.sum()
    return {
        "index": list(range(DOCUMENTS)),
        "loss": ((loss + around) * tokens).tolist(),
        "tokens": tokens.tolist(),
        "bytes": (3 * tokens).tolist(),
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
