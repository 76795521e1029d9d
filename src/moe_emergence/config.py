"""A run is a value: frozen dataclasses, written to and read from JSON, checked when they are made.

No torch here, so that `--help` stays quick and `experiments` can describe runs without loading a model.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal

from moe_emergence.errors import ConfigError

EMBEDDED = "embedded"
RouterKind = Literal["learned", "frozen", "hash", "round_robin", "domain"]
ROUTERS: tuple[str, ...] = typing.get_args(RouterKind)
ASSIGNING_ROUTERS = ("hash", "round_robin", "domain")
"""Routers that no hidden state moves: they assign a token by its id, its position or its domain; no router loss acts on
them."""
_WINDOW = re.compile(r"sequence|global_batch|ema|blocks:[1-9]\d*")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    _require(value in choices, f"{name} must be one of {', '.join(choices)}; got {value!r}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which documents, and how they are cut."""

    corpus: str = EMBEDDED
    """`embedded`, or a folder with one `.txt`, `.jsonl`, `.parquet` or folder of texts a domain."""
    deal_domains: bool = False
    """A null: deal the domains to the documents of each split at random, so that there is nothing to specialise for."""
    block_size: int = 256
    """Tokens in a training sequence."""
    dev_blocks: int = 16
    """Blocks a domain in each evaluation during training (dev documents)."""
    test_blocks: int = 48
    """Blocks a domain in the evaluations that reports quote (test documents; first and last step)."""
    probe_tokens: int = 21_000
    """Largest number of tokens in the probe set that routing traces are taken on (beginnings of test documents)."""
    wide_probe_tokens: int = 100_000
    """Largest number of tokens in the wide probe set, in which the same documents read on; traced at the first and the
    last step; 0: none."""

    def __post_init__(self) -> None:
        _require(self.block_size >= 8, f"data.block_size must be at least 8; got {self.block_size}")
        for name in ("dev_blocks", "test_blocks", "probe_tokens"):
            _require(getattr(self, name) >= 1, f"data.{name} must be at least 1; got {getattr(self, name)}")
        _require(
            self.wide_probe_tokens >= 0, f"data.wide_probe_tokens must not be negative; got {self.wide_probe_tokens}"
        )


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """The Mixture of Experts that replaces the MLP of the chosen blocks (SPEC: router, losses, upcycling)."""

    layers: tuple[int, ...] | None = None
    """Blocks to upcycle; None takes the last third (GPT-2 small: 8, 9, 10, 11)."""
    num_experts: int = 8
    top_k: int = 1
    """Experts a token is sent to, 1..num_experts. One is weighted straight through: forward 1, backward its
    probability."""
    balance_coef: float = 0.01
    """Weight of the Switch load-balancing loss; 0 turns it off."""
    balance_window: str = "global_batch"
    """Tokens over which loads are counted: `sequence`, `blocks:n` (groups of n sequences), `global_batch`, or `ema`
    (a moving average of the global batches up to this one)."""
    balance_decay: float = 0.9
    """Weight d of the past in the window `ema`, f = d·f + (1 − d)·load, 0 <= d < 1; 0 is `global_batch`."""
    balance_counts: Literal["exact", "running"] = "exact"
    """`exact` counts the whole step before its first backward, a forward more with micro-batches; `running` spares it
    and takes the counts up to and with each micro-batch, an approximation; it needs the window `global_batch`."""
    bias_rate: float = 0.0
    """Step u of the loss-free bias that each expert's score is chosen by (published 1e-3); 0 turns it off."""
    z_coef: float = 0.001
    """Weight of the router z-loss; 0 turns it off."""
    noise_std: float = 0.1
    """Standard deviation of the Gaussian noise on router logits at step 0, in logits; training only."""
    noise_anneal: float = 0.25
    """Share of the steps over which that noise falls linearly to 0."""
    perturbation: float = 1e-3
    """Noise on each copied expert parameter, as a share of that parameter's standard deviation."""
    router: RouterKind = "learned"
    """Nulls: `frozen` keeps the gate at its random initialisation; `hash` goes by the token's id alone and
    `round_robin` by its position alone. `domain` is the oracle: it is told each sequence's domain, and goes by that and
    the token's id."""
    detach_gate_input: bool = False
    """Whether the gate reads its input without sending a gradient back into the hidden states; its weights learn as
    before. With one expert per token the forward weight is 1, so that gradient is of a quantity the output lacks."""
    gate_init: Literal["small_random", "centroids"] = "small_random"
    """Where the gate starts: `centroids` takes k-means of its inputs on training tokens, rows centred, scaled to logits
    of unit standard deviation."""
    reinit_share: float = 0.0
    """Share of each expert's hidden units that are drawn anew, 0..1 (drop-upcycling); 0 keeps all of the MLP."""

    def __post_init__(self) -> None:
        _require(self.num_experts >= 1, f"moe.num_experts must be at least 1; got {self.num_experts}")
        _require(
            1 <= self.top_k <= self.num_experts,
            f"moe.top_k must lie between 1 and moe.num_experts ({self.num_experts}); got {self.top_k}",
        )
        for name in ("balance_coef", "z_coef", "noise_std", "perturbation", "bias_rate"):
            _require(getattr(self, name) >= 0, f"moe.{name} must not be negative; got {getattr(self, name)}")
        _require(0 <= self.noise_anneal <= 1, f"moe.noise_anneal must lie between 0 and 1; got {self.noise_anneal}")
        _require(
            _WINDOW.fullmatch(self.balance_window) is not None,
            f"moe.balance_window must be sequence, blocks:n, global_batch or ema; got {self.balance_window!r}",
        )
        _require(
            0 <= self.balance_decay < 1,
            f"moe.balance_decay must be at least 0 and below 1; got {self.balance_decay}",
        )
        _require_choice("moe.balance_counts", self.balance_counts, ("exact", "running"))
        _require_choice("moe.router", self.router, ROUTERS)
        _require(
            self.balance_counts == "exact" or self.balance_window == "global_batch",
            f"moe.balance_counts 'running' needs moe.balance_window 'global_batch'; got {self.balance_window!r}: "
            "change the window, or count 'exact'",
        )
        _require(
            self.bias_rate == 0 or self.router not in ASSIGNING_ROUTERS,
            f"moe.bias_rate must be 0 with moe.router {self.router!r}, which has no scores to bias; got "
            f"{self.bias_rate}",
        )
        _require_choice("moe.gate_init", self.gate_init, ("small_random", "centroids"))
        _require(
            self.gate_init == "small_random" or self.router not in ASSIGNING_ROUTERS,
            f"moe.gate_init must be 'small_random' with moe.router {self.router!r}, which has no gate in use; got "
            f"{self.gate_init!r}",
        )
        _require(0 <= self.reinit_share <= 1, f"moe.reinit_share must lie between 0 and 1; got {self.reinit_share}")
        _require(self.layers is None or len(self.layers) > 0, "moe.layers must name at least one block; got none")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, warm-up, cosine to zero."""

    learning_rate: float = 5e-5
    """Peak rate."""
    gate_multiplier: float = 1.0
    """The router's learning rate as a multiple of the others'."""
    weight_decay: float = 0.01
    """On matrices only: not on norms, biases, embeddings or routers."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    warmup: float = 0.1
    """Share of the steps over which the rate rises linearly."""
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gate_multiplier", "epsilon", "clip_norm"):
            _require(getattr(self, name) > 0, f"optimizer.{name} must be positive; got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name} must be at least 0 and below 1; got {value}")
        _require(self.weight_decay >= 0, f"optimizer.weight_decay must not be negative; got {self.weight_decay}")
        _require(0 <= self.warmup <= 1, f"optimizer.warmup must lie between 0 and 1; got {self.warmup}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how large a step, when to look."""

    steps: int = 300
    batch_size: int = 8
    """Sequences in one optimiser step."""
    micro_batch_size: int | None = None
    """Sequences in one forward and backward; None takes the whole step at once."""
    evaluations: int = 10
    """Evaluations and traces: at step 0, on a log-spaced grid, and at the last step."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step is always kept."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    snapshots: int = 4
    """How many of the evaluations' steps leave the model's weights, for causal tests: the first and the last among
    them, the others evenly between; 0: none, 1: the last."""
    stop_on_collapse: bool = False
    """End the run once a layer's router is found collapsed."""
    collapse_rule: Literal["excess", "reference"] = "excess"
    """`excess`: hot or dead experts in two windows in a row; `reference`: one expert above 60 % in three checks in
    a row."""
    max_skipped: int = 3
    """A step whose loss or gradient is not finite is skipped; this many in a row end the run."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "max_skipped"):
            _require(getattr(self, name) >= 1, f"training.{name} must be at least 1; got {getattr(self, name)}")
        _require(self.snapshots >= 0, f"training.snapshots must not be negative; got {self.snapshots}")
        _require(
            self.evaluations >= 2,
            f"training.evaluations must be at least 2 (first and last step); got {self.evaluations}",
        )
        micro = self.micro_batch_size
        _require(
            micro is None or (micro >= 1 and self.batch_size % micro == 0),
            f"training.micro_batch_size must divide training.batch_size ({self.batch_size}); got {micro}",
        )


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Where and how a run is computed; recorded, and never what two arms differ in."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = None
    """CPU threads of this process; None leaves torch's choice."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: matrix products under autocast; weights, optimiser and router stay fp32."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """How several processes (torchrun, `accelerate launch`) hold the model: whole in each, or in shards."""
    experts_implementation: Literal["eager", "grouped_mm", "batched_mm"] = "grouped_mm"
    trackers: tuple[str, ...] = ()
    """Any of tensorboard, trackio, wandb; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        _require(self.threads is None or self.threads >= 1, f"execution.threads must be at least 1; got {self.threads}")
        unknown = sorted(set(self.trackers) - {"tensorboard", "trackio", "wandb"})
        _require(not unknown, f"execution.trackers must be among tensorboard, trackio, wandb; got {', '.join(unknown)}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training: one arm, one seed."""

    name: str = "run"
    """The arm's name; also its folder's."""
    question: str = ""
    """What the run is to answer, printed beside its results."""
    base: str = EMBEDDED
    """`embedded`, `gpt2`, or a directory with a GPT-2 model and its tokenizer."""
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    moe: MoEConfig | None = None
    """None trains the dense base on."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None,
            f"name must be letters, digits, '.', '_' or '-', starting with a letter or digit; got {self.name!r}",
        )
        _require(0 <= self.seed < 2**31, f"seed must lie between 0 and 2**31 - 1; got {self.seed}")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values, fields in declared order."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The run that `to_dict` wrote.

    Raises:
        ConfigError: an unknown field, or a value of the wrong type or range.
    """
    return typing.cast(RunConfig, _fields_from(RunConfig, values, ""))


def _fields_from(group: type, values: Mapping[str, Any], prefix: str) -> Any:
    types = typing.get_type_hints(group)
    for name in values:
        _require(name in types, f"there is no field {prefix}{name}")
    return group(**{name: _from_json(types[name], value, f"{prefix}{name}") for name, value in values.items()})


def _from_json(annotation: Any, value: Any, name: str) -> Any:
    """The value of a field of that type; a float may be written as a whole number, a tuple is a list."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is UnionType:
        (annotation,) = (part for part in inner if part is not NoneType)
        return None if value is None else _from_json(annotation, value, name)
    if dataclasses.is_dataclass(annotation):
        _require(isinstance(value, Mapping), f"{name} must hold fields; got {value!r}")
        return _fields_from(typing.cast(type, annotation), value, f"{name}.")
    if origin is tuple:
        _require(isinstance(value, list), f"{name} must be a list; got {value!r}")
        return tuple(_from_json(inner[0], part, name) for part in value)
    if origin is Literal:
        _require_choice(name, value, inner)
        return value
    if annotation is float and type(value) is int:
        return float(value)
    _require(type(value) is annotation, f"{name} must be {annotation.__name__}; got {value!r}")
    return value


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf by its dotted name, as in `moe.top_k`; a group that is None is one leaf."""
    leaves: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = f"{prefix}{f.name}"
        leaves.update(flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value})
    return leaves
