"""Suites: arms differ from their baseline in declared fields only, and anything else is refused with both values."""

from dataclasses import replace

import pytest

from moe_emergence.config import DataConfig, MoEConfig, RunConfig, TrainingConfig, flat
from moe_emergence.errors import ConfigError
from moe_emergence.experiments.suites import (
    FAST,
    SUITES,
    Arm,
    Suite,
    balancing,
    did_you_mean,
    fast,
    initialisation,
    nulls,
    quickstart,
    suite_named,
)

BASELINE = RunConfig(name="moe", moe=MoEConfig())


def suite_of(*arms: Arm) -> Suite:
    return Suite(name="test", question="?", arms=arms)


def changed(name: str = "arm", **fields: object) -> RunConfig:
    return replace(BASELINE, name=name, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SUITES)
def test_all_arms_share_data_steps_schedule_and_seed(name: str) -> None:
    suite = suite_named(name)
    assert len(suite.arms) == {"quickstart": 5, "gpt2": 5, "balancing": 5, "nulls": 4, "initialisation": 3}[name]
    first = suite.arms[0].config
    for arm in suite.arms:
        ours = arm.config
        assert (ours.base, ours.data, ours.training, ours.optimizer, ours.seed, ours.execution) == (
            first.base,
            first.data,
            first.training,
            first.optimizer,
            first.seed,
            first.execution,
        )
        assert set(suite.changes(arm)) <= {leaf for leaf in flat(BASELINE) if leaf.startswith("moe.")}


def test_the_quickstart_s_arms_and_what_they_change() -> None:
    suite = quickstart()
    assert suite.conclusive
    assert [(arm.name, arm.baseline) for arm in suite.arms] == [
        ("dense", None),
        ("moe", "dense"),
        ("no_lb", "moe"),
        ("top2", "moe"),
        ("oracle", "moe"),
    ]
    assert suite.changes(suite.arm("dense")) == {}
    assert suite.changes(suite.arm("no_lb")) == {"moe.balance_coef": (0.02, 0.0)}
    assert suite.changes(suite.arm("top2")) == {"moe.top_k": (1, 2)}
    assert suite.changes(suite.arm("oracle")) == {"moe.router": ("learned", "domain")}
    assert suite.changes(suite.arm("moe"))["moe.num_experts"] == (None, 8)


def test_the_balancing_arms_and_what_they_change() -> None:
    suite = balancing()
    assert [arm.baseline for arm in suite.arms] == [None] + ["moe"] * 4
    changes = {arm.name: {field: now for field, (_, now) in suite.changes(arm).items()} for arm in suite.arms}
    assert changes == {
        "moe": {},
        "moe_blocks": {"moe.balance_window": "blocks:2"},
        "moe_sequence": {"moe.balance_window": "sequence"},
        "moe_ema": {"moe.balance_window": "ema"},
        "loss_free": {"moe.balance_coef": 0.0, "moe.bias_rate": 1e-3},
    }
    assert suite.arm("moe").config == quickstart().arm("moe").config


def test_the_initialisation_arms_and_what_they_change() -> None:
    suite = initialisation()
    assert [arm.baseline for arm in suite.arms] == [None, "moe", "moe"]
    changes = {arm.name: {field: now for field, (_, now) in suite.changes(arm).items()} for arm in suite.arms}
    assert changes == {
        "moe": {},
        "centroids": {"moe.gate_init": "centroids"},
        "drop_upcycled": {"moe.reinit_share": 0.5},
    }
    assert suite.arm("moe").config == quickstart().arm("moe").config
    assert suite.question.endswith("?")
    assert "other untrained gates of the same start" in suite.note


def test_some_arms_alone_keep_their_order_and_lose_a_baseline_that_is_not_there() -> None:
    suite = nulls().only(["round_robin", "frozen"])
    assert [(arm.name, arm.baseline) for arm in suite.arms] == [("frozen", None), ("round_robin", None)]
    assert [(arm.name, arm.baseline) for arm in quickstart().only(["moe", "dense"]).arms] == [
        ("dense", None),
        ("moe", "dense"),
    ]
    with pytest.raises(ConfigError, match="suite nulls has no arm 'froze'; its arms are moe, frozen"):
        nulls().only(["froze"])


def test_the_null_arms_and_what_they_change() -> None:
    suite = nulls()
    changes = {arm.name: {field: now for field, (_, now) in suite.changes(arm).items()} for arm in suite.arms}
    assert changes == {"moe": {}} | {name: {"moe.router": name} for name in ("frozen", "hash", "round_robin")}


@pytest.mark.parametrize(
    ("planted", "field", "values"),
    [
        ({"seed": 43}, "seed", "42 there, 43 here"),
        ({"training": TrainingConfig(steps=301)}, "training.steps", "300 there, 301 here"),
        ({"data": DataConfig(block_size=128)}, "data.block_size", "256 there, 128 here"),
        ({"base": "gpt2"}, "base", "'embedded' there, 'gpt2' here"),
    ],
)
def test_a_planted_violation_is_refused_with_both_values(planted: dict[str, object], field: str, values: str) -> None:
    arm = changed(moe=MoEConfig(top_k=2), **planted)
    with pytest.raises(ConfigError, match=rf"arm differs from moe in {field} \({values}\), .*only moe\.top_k"):
        suite_of(Arm(config=BASELINE), Arm(config=arm, baseline="moe", may_change=("moe.top_k",)))


def test_a_field_beside_the_declared_one_is_refused() -> None:
    """`moe.top_k` declared is not `moe`, and a name that only begins alike is another field."""
    arm = changed(moe=MoEConfig(top_k=2, z_coef=0.0))
    with pytest.raises(ConfigError, match=r"moe\.z_coef \(0\.001 there, 0\.0 here\)"):
        suite_of(Arm(config=BASELINE), Arm(config=arm, baseline="moe", may_change=("moe.top_k",)))
    with pytest.raises(ConfigError, match=r"moe\.top_k"):
        suite_of(Arm(config=BASELINE), Arm(config=arm, baseline="moe", may_change=("moe.top", "moe.z_coef")))


def test_a_group_declared_covers_its_fields() -> None:
    arm = changed(moe=MoEConfig(top_k=2, z_coef=0.0))
    suite_of(Arm(config=BASELINE), Arm(config=arm, baseline="moe", may_change=("moe",)))


def test_nothing_declared_is_said_so() -> None:
    with pytest.raises(ConfigError, match="but declares nothing: make them equal"):
        suite_of(Arm(config=BASELINE), Arm(config=changed(seed=1), baseline="moe"))


def test_an_arm_equal_to_its_baseline_is_refused() -> None:
    same = changed(question="Another name and question alone?")
    with pytest.raises(ConfigError, match="arm arm is the same as its baseline moe"):
        suite_of(Arm(config=BASELINE), Arm(config=same, baseline="moe", may_change=("moe",)))


def test_a_baseline_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="suite test has no arm 'dense'; its arms are arm"):
        suite_of(Arm(config=changed(), baseline="dense"))


def test_two_arms_of_one_name_are_refused() -> None:
    """They would share a folder."""
    with pytest.raises(ConfigError, match="suite test has two arms called 'moe'"):
        suite_of(Arm(config=BASELINE), Arm(config=replace(BASELINE, seed=1)))


# Overrides


def test_override_sets_a_field_in_every_arm() -> None:
    suite = quickstart().override({"training.steps": 7, "seed": 3, "moe.num_experts": 4})
    assert {arm.config.training.steps for arm in suite.arms} == {7}
    assert {arm.config.seed for arm in suite.arms} == {3}
    assert [arm.config.moe and arm.config.moe.num_experts for arm in suite.arms] == [None, 4, 4, 4, 4]
    assert suite.changes(suite.arm("top2")) == {"moe.top_k": (1, 2)}


def test_override_cannot_undo_what_an_arm_is_for() -> None:
    with pytest.raises(ConfigError, match="arm top2 is the same as its baseline moe"):
        quickstart().override({"moe.top_k": 2})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("sede", "there is no field sede; did you mean seed?"),
        ("training.stesp", "there is no field training.stesp; did you mean training.steps?"),
        ("moe.topk", "there is no field moe.topk; did you mean moe.top_k?"),
        ("trainning.steps", "there is no field trainning.steps; did you mean training.steps?"),
        ("training.steps.more", "there is no field training.steps.more; did you mean training.steps?"),
        ("seed.more", "there is no field seed.more"),
    ],
)
@pytest.mark.parametrize("arms", ["all", "dense alone"])
def test_override_refuses_a_typo_with_the_nearest_name(field: str, message: str, arms: str) -> None:
    suite = quickstart() if arms == "all" else suite_of(quickstart().arms[0])
    with pytest.raises(ConfigError) as refusal:
        suite.override({field: 1})
    assert str(refusal.value).startswith(message)


def test_override_sets_fields_that_are_valid_only_together() -> None:
    for changes in (
        {"training.micro_batch_size": 3, "training.batch_size": 6},
        {"moe.top_k": 12, "moe.num_experts": 16},
    ):
        suite = suite_of(Arm(config=BASELINE)).override(changes)
        assert {name: flat(suite.arms[0].config)[name] for name in changes} == changes


def test_override_keeps_the_checks_of_a_value() -> None:
    with pytest.raises(ConfigError, match=r"training\.steps must be at least 1; got 0"):
        quickstart().override({"training.steps": 0})


# A first look, and names


def test_fast_is_shorter_and_says_so() -> None:
    suite = fast(quickstart())
    assert not suite.conclusive
    assert f"{FAST['training.steps']} steps" in suite.note
    assert "too short for conclusions" in suite.note
    assert {arm.config.training.steps for arm in suite.arms} == {FAST["training.steps"]}
    assert all(
        suite.changes(arm).keys() == quickstart().changes(quickstart().arm(arm.name)).keys() for arm in suite.arms
    )


def test_an_unknown_suite_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no suite 'quikstart'; did you mean quickstart\\?"):
        suite_named("quikstart")
    with pytest.raises(ConfigError, match="there is no suite 'zzz': choose from quickstart, gpt2, balancing, nulls"):
        suite_named("zzz")


def test_did_you_mean() -> None:
    assert did_you_mean("top_kk", ["top_k", "layers"]) == "; did you mean top_k?"
    assert did_you_mean("zzz", ["top_k", "layers"]) == ": choose from top_k, layers"


def test_an_override_leaves_alone_what_an_arm_declares_as_its_own() -> None:
    suite = suite_named("quickstart").override({"moe.balance_coef": 0.02, "moe.num_experts": 4})
    coefficients = {arm.name: arm.config.moe.balance_coef for arm in suite.arms if arm.config.moe is not None}
    assert coefficients == {"moe": 0.02, "no_lb": 0.0, "top2": 0.02, "oracle": 0.02}
    assert {arm.config.moe.num_experts for arm in suite.arms if arm.config.moe is not None} == {4}


def test_a_first_look_is_a_suite_of_its_own() -> None:
    assert fast(suite_named("quickstart")).name == "quickstart-fast"
