"""Runs as values: what is refused, in what words, and that JSON and back is the same run."""

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from moe_emergence.config import (
    ASSIGNING_ROUTERS,
    DataConfig,
    ExecutionConfig,
    MoEConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    flat,
    from_dict,
    to_dict,
)
from moe_emergence.errors import ConfigError
from moe_emergence.experiments.presets import PRESETS

GROUPS = {"data": DataConfig, "moe": MoEConfig, "optimizer": OptimizerConfig, "training": TrainingConfig}
GROUPS["execution"] = ExecutionConfig

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("data", {"block_size": 7}, "data.block_size must be at least 8; got 7"),
    ("data", {"dev_blocks": 0}, "data.dev_blocks must be at least 1; got 0"),
    ("data", {"test_blocks": -1}, "data.test_blocks must be at least 1; got -1"),
    ("data", {"probe_tokens": 0}, "data.probe_tokens must be at least 1; got 0"),
    ("data", {"wide_probe_tokens": -1}, "data.wide_probe_tokens must not be negative; got -1"),
    ("moe", {"num_experts": 0}, "moe.num_experts must be at least 1; got 0"),
    ("moe", {"top_k": 9}, "moe.top_k must lie between 1 and moe.num_experts (8); got 9"),
    ("moe", {"top_k": 0}, "moe.top_k must lie between 1 and moe.num_experts (8); got 0"),
    ("moe", {"balance_coef": -0.1}, "moe.balance_coef must not be negative; got -0.1"),
    ("moe", {"z_coef": math.nan}, "moe.z_coef must not be negative; got nan"),
    ("moe", {"noise_std": -1.0}, "moe.noise_std must not be negative; got -1.0"),
    ("moe", {"perturbation": -1.0}, "moe.perturbation must not be negative; got -1.0"),
    ("moe", {"noise_anneal": 1.5}, "moe.noise_anneal must lie between 0 and 1; got 1.5"),
    ("moe", {"layers": ()}, "moe.layers must name at least one block; got none"),
    ("moe", {"balance_decay": 1.0}, "moe.balance_decay must be at least 0 and below 1; got 1.0"),
    ("moe", {"balance_decay": -0.1}, "moe.balance_decay must be at least 0 and below 1; got -0.1"),
    ("moe", {"bias_rate": -1e-3}, "moe.bias_rate must not be negative; got -0.001"),
    ("moe", {"balance_counts": "some"}, "moe.balance_counts must be one of exact, running; got 'some'"),
    ("moe", {"router": "random"}, "moe.router must be one of learned, frozen, hash, round_robin, domain; got 'random'"),
    ("moe", {"gate_init": "zeros"}, "moe.gate_init must be one of small_random, centroids; got 'zeros'"),
    ("moe", {"reinit_share": -0.1}, "moe.reinit_share must lie between 0 and 1; got -0.1"),
    ("moe", {"reinit_share": 1.5}, "moe.reinit_share must lie between 0 and 1; got 1.5"),
    *(
        (
            "moe",
            {"gate_init": "centroids", "router": router},
            f"moe.gate_init must be 'small_random' with moe.router {router!r}, which has no gate in use; got "
            "'centroids'",
        )
        for router in ASSIGNING_ROUTERS
    ),
    *(
        (
            "moe",
            {"balance_counts": "running", "balance_window": window},
            f"moe.balance_counts 'running' needs moe.balance_window 'global_batch'; got {window!r}: change the window, "
            "or count 'exact'",
        )
        for window in ("sequence", "blocks:2", "ema")
    ),
    *(
        (
            "moe",
            {"bias_rate": 0.5, "router": router},
            f"moe.bias_rate must be 0 with moe.router {router!r}, which has no scores to bias; got 0.5",
        )
        for router in ("hash", "round_robin")
    ),
    *(
        (
            "moe",
            {"balance_window": window},
            f"moe.balance_window must be sequence, blocks:n, global_batch or ema; got {window!r}",
        )
        for window in ("blocks:0", "blocks:", "blocks:2x", "batch", "")
    ),
    ("optimizer", {"learning_rate": 0.0}, "optimizer.learning_rate must be positive; got 0.0"),
    ("optimizer", {"gate_multiplier": -1.0}, "optimizer.gate_multiplier must be positive; got -1.0"),
    ("optimizer", {"clip_norm": 0.0}, "optimizer.clip_norm must be positive; got 0.0"),
    ("optimizer", {"epsilon": 0.0}, "optimizer.epsilon must be positive; got 0.0"),
    ("optimizer", {"weight_decay": -0.1}, "optimizer.weight_decay must not be negative; got -0.1"),
    ("optimizer", {"beta1": 1.0}, "optimizer.beta1 must be at least 0 and below 1; got 1.0"),
    ("optimizer", {"beta2": -0.1}, "optimizer.beta2 must be at least 0 and below 1; got -0.1"),
    ("optimizer", {"warmup": 1.01}, "optimizer.warmup must lie between 0 and 1; got 1.01"),
    ("training", {"steps": 0}, "training.steps must be at least 1; got 0"),
    ("training", {"batch_size": 0}, "training.batch_size must be at least 1; got 0"),
    ("training", {"checkpoint_every": 0}, "training.checkpoint_every must be at least 1; got 0"),
    ("training", {"keep_checkpoints": 0}, "training.keep_checkpoints must be at least 1; got 0"),
    ("training", {"snapshots": -1}, "training.snapshots must not be negative; got -1"),
    ("training", {"evaluations": 1}, "training.evaluations must be at least 2 (first and last step); got 1"),
    ("training", {"micro_batch_size": 3}, "training.micro_batch_size must divide training.batch_size (8); got 3"),
    ("training", {"micro_batch_size": 0}, "training.micro_batch_size must divide training.batch_size (8); got 0"),
    ("execution", {"threads": 0}, "execution.threads must be at least 1; got 0"),
    (
        "execution",
        {"trackers": ("wandb", "mlflow")},
        "execution.trackers must be among tensorboard, trackio, wandb; got mlflow",
    ),
    ("", {"seed": -1}, "seed must lie between 0 and 2**31 - 1; got -1"),
    ("", {"seed": 2**31}, f"seed must lie between 0 and 2**31 - 1; got {2**31}"),
    *(
        (
            "",
            {"name": name},
            f"name must be letters, digits, '.', '_' or '-', starting with a letter or digit; got {name!r}",
        )
        for name in ("", "..", "a/b", "-a", "a b", "a\n")
    ),
]
IDS = [f"{group}-{values}" for group, values, _ in REFUSED]


@pytest.mark.parametrize(("group", "values", "message"), REFUSED, ids=IDS)
def test_a_refusal_says_what_was_given_and_what_is_expected(group: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        GROUPS.get(group, RunConfig)(**values)
    assert str(refusal.value) == message


@pytest.mark.parametrize(("group", "values", "message"), REFUSED, ids=IDS)
def test_a_refusal_in_json_reads_the_same(group: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        from_dict(json.loads(json.dumps({group: values} if group else values)))
    assert str(refusal.value) == message


def test_limits_themselves_are_allowed() -> None:
    MoEConfig(num_experts=1, top_k=1, balance_coef=0.0, z_coef=0.0, noise_std=0.0, noise_anneal=0.0, perturbation=0.0)
    MoEConfig(top_k=8, noise_anneal=1.0, balance_window="blocks:12")
    MoEConfig(balance_window="ema", balance_decay=0.0, bias_rate=0.0, router="hash")
    MoEConfig(balance_counts="running", bias_rate=1e-3, router="frozen")
    OptimizerConfig(weight_decay=0.0, warmup=0.0, beta1=0.0)
    OptimizerConfig(warmup=1.0)
    TrainingConfig(steps=1, batch_size=8, micro_batch_size=8, evaluations=2)
    RunConfig(seed=0)
    RunConfig(seed=2**31 - 1)


FULL = RunConfig(
    name="a.b_c-1",
    question="Größe?",
    base="gpt2",
    seed=3,
    data=DataConfig(corpus="some/folder", block_size=64),
    moe=MoEConfig(layers=(0, 2), top_k=2, router="frozen", balance_window="ema", balance_decay=0.5, bias_rate=0.01),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.0),
    training=TrainingConfig(micro_batch_size=4, stop_on_collapse=True, collapse_rule="reference"),
    execution=ExecutionConfig(device="cpu", threads=2, trackers=("tensorboard", "wandb")),
)


@pytest.mark.parametrize("config", [RunConfig(), FULL, *(preset() for preset in PRESETS.values())])
def test_json_and_back_is_the_same_run(config: RunConfig) -> None:
    text = json.dumps(to_dict(config))
    again = from_dict(json.loads(text))
    assert again == config
    assert flat(again) == flat(config)
    assert json.dumps(to_dict(again)) == text
    assert all(type(flat(again)[name]) is type(value) for name, value in flat(config).items())


def test_what_is_not_said_is_the_default() -> None:
    assert from_dict({}) == RunConfig()
    assert from_dict({"moe": {}}) == RunConfig(moe=MoEConfig())
    assert from_dict({"moe": None}) == RunConfig()
    assert from_dict({"optimizer": {"learning_rate": 1}}).optimizer == OptimizerConfig(learning_rate=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 1}, "there is no field sede"),
        ({"moe": {"topk": 1}}, "there is no field moe.topk"),
        ({"training": {"steps": "many"}}, "training.steps must be int; got 'many'"),
        ({"training": {"steps": 1.5}}, "training.steps must be int; got 1.5"),
        ({"training": {"steps": True}}, "training.steps must be int; got True"),
        ({"training": {"stop_on_collapse": 1}}, "training.stop_on_collapse must be bool; got 1"),
        ({"optimizer": {"learning_rate": "1e-3"}}, "optimizer.learning_rate must be float; got '1e-3'"),
        ({"moe": {"layers": [1, "a"]}}, "moe.layers must be int; got 'a'"),
        ({"moe": {"layers": 1}}, "moe.layers must be a list; got 1"),
        ({"moe": {"router": 1}}, "moe.router must be one of learned, frozen, hash, round_robin, domain; got 1"),
        ({"moe": 3}, "moe must hold fields; got 3"),
        ({"data": None}, "data must hold fields; got None"),
        ({"seed": None}, "seed must be int; got None"),
    ],
)
def test_a_field_of_the_wrong_name_or_type_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        from_dict(values)
    assert str(refusal.value) == message


def test_flat_names_every_leaf() -> None:
    leaves = flat(FULL)
    assert leaves["moe.top_k"] == 2
    assert leaves["execution.trackers"] == ("tensorboard", "wandb")
    assert "moe" not in leaves
    assert flat(RunConfig())["moe"] is None
    groups = [getattr(FULL, f.name) for f in dataclasses.fields(FULL)]
    assert len(leaves) == sum(len(dataclasses.fields(g)) if dataclasses.is_dataclass(g) else 1 for g in groups)


def test_configurations_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]
    assert hash(DataConfig()) == hash(DataConfig())


def test_configuration_loads_no_torch() -> None:
    code = (
        "import sys, moe_emergence.config as c; import moe_emergence.experiments.suites as s; s.quickstart();"
        " c.from_dict(c.to_dict(c.RunConfig())); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_frozen_gate_may_start_from_centroids() -> None:
    """The clusters alone, never trained."""
    assert MoEConfig(router="frozen", gate_init="centroids").gate_init == "centroids"
