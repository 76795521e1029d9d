"""A suite in one process: what it writes down, what it refuses before training, and that it goes on where it was."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_emergence.config import MoEConfig, RunConfig
from moe_emergence.data.corpora import Corpus, load_corpus
from moe_emergence.errors import ConfigError, DataError, Interrupted, RunDirectoryError
from moe_emergence.experiments.suites import Arm, Suite, suite_named
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import loop, suite
from moe_emergence.training.suite import describe, dry_run, run_suite

Config = Callable[..., RunConfig]


@pytest.fixture(scope="module", autouse=True)
def read_once(toy_folder: Path, toy_corpus: Corpus) -> Iterator[None]:
    """The toy corpus is not read anew for every suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            suite, "load_corpus", lambda name, **_: toy_corpus if name == str(toy_folder) else load_corpus(name)
        )
        yield


@pytest.fixture(scope="module")
def two_arms(toy_config: Config) -> Suite:
    """Two arms of two steps that differ in k."""
    training = {"steps": 2, "checkpoint_every": 1}
    one = toy_config(name="one", question="One?", training=training)
    two = replace(one, name="two", question="Two?", moe=replace(one.moe, top_k=2))
    return Suite(
        name="pair",
        question="Does k matter?",
        arms=(Arm(config=one), Arm(config=two, baseline="one", may_change=("moe.top_k",))),
        conclusive=False,
        note="a test",
    )


def call(arms: Suite, folder: Path, **options: Any) -> Any:
    return run_suite(arms, folder, **({"seeds": (7,), "console": RunConsole(quiet=True)} | options))


@pytest.fixture(scope="module")
def done(two_arms: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both arms with two seeds; tests read it only."""
    folder = tmp_path_factory.mktemp("suites") / "pair"
    call(two_arms, folder, seeds=(7, 8), command="moe-emergence suite pair --seeds 2")
    return folder


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "suite.json"}


def test_every_arm_is_trained_with_every_seed(done: Path) -> None:
    runs = {str(path.parent.relative_to(done)) for path in done.glob("*/*/config.json")}
    assert runs == {"one/seed-7", "one/seed-8", "two/seed-7", "two/seed-8"}
    for run in runs:
        config = json.loads((done / run / "config.json").read_text())
        assert f"{config['name']}/seed-{config['seed']}" == run
        assert json.loads((done / run / "metrics.jsonl").read_text().splitlines()[-1])["event"] == "end"


def test_all_runs_read_one_prepared_corpus(done: Path) -> None:
    assert len(list((done / "data").iterdir())) == 1
    digests = {json.loads(path.read_text())["data"]["digest"] for path in done.glob("*/seed-*/manifest.json")}
    assert len(digests) == 1
    assert not list(done.glob("*/*/data"))


def test_seeds_differ_and_arms_start_alike(done: Path) -> None:
    def first(run: str) -> dict[str, Any]:
        return json.loads((done / run / "metrics.jsonl").read_text().splitlines()[0])

    assert first("one/seed-7")["lm_loss"] != first("one/seed-8")["lm_loss"], "each seed draws its own experts"
    assert first("one/seed-7")["routing"][0]["first_choice"] == first("two/seed-7")["routing"][0]["first_choice"]


def test_suite_json_says_what_the_suite_is(done: Path) -> None:
    assert json.loads((done / "suite.json").read_text()) == {
        "suite": "pair",
        "name": "pair",
        "question": "Does k matter?",
        "conclusive": False,
        "note": "a test",
        "seeds": [7, 8],
        "command": "moe-emergence suite pair --seeds 2",
        "arms": [
            {"name": "one", "question": "One?", "baseline": None, "changes": {}},
            {"name": "two", "question": "Two?", "baseline": "one", "changes": {"moe.top_k": [1, 2]}},
        ],
    }


def test_finished_runs_stay(two_arms: Suite, done: Path) -> None:
    before = times(done)
    summaries = call(two_arms, done, seeds=(7, 8))
    assert times(done) == before
    assert [str(s.folder.relative_to(done)) for s in summaries] == [
        "one/seed-7",
        "two/seed-7",
        "one/seed-8",
        "two/seed-8",
    ]
    assert {(s.steps, s.reason) for s in summaries} == {(2, "finished")}


def test_the_same_call_goes_on_after_an_interrupt(
    two_arms: Suite, done: Path, tmp_path: Path, interrupt_in_step: Callable[..., None]
) -> None:
    interrupt_in_step(1)
    with pytest.raises(Interrupted, match="one: stopped at step 1 of 2"):
        call(two_arms, tmp_path / "pair")
    assert not (tmp_path / "pair" / "two").exists()
    call(two_arms, tmp_path / "pair")
    for arm in ("one", "two"):
        run = Path(arm) / "seed-7" / "metrics.jsonl"
        assert (tmp_path / "pair" / run).read_bytes() == (done / run).read_bytes()


def test_a_request_while_an_arm_ends_keeps_the_next_from_starting(
    two_arms: Suite, tmp_path: Path, interrupt_in_step: Callable[..., None]
) -> None:
    interrupt_in_step(2)
    with pytest.raises(Interrupted, match=r"one: stopped at step 2 of 2, .*same command continues it"):
        call(two_arms, tmp_path / "pair")
    assert not (tmp_path / "pair" / "two").exists()


def test_seeds_of_earlier_calls_stay_part_of_the_suite(
    two_arms: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = loop.RunSummary(folder=tmp_path, steps=2, reason="finished", lm_loss_macro=1.0)
    monkeypatch.setattr(suite, "train", lambda *_, **__: summary)
    for seeds in ((7, 8), (9,), (8,)):
        call(two_arms, tmp_path / "pair", seeds=seeds)
    assert json.loads((tmp_path / "pair" / "suite.json").read_text())["seeds"] == [7, 8, 9]


# Refused before anything is trained


def refused(arms: Suite, folder: Path, error: type[Exception], message: str, **options: Any) -> None:
    before = times(folder) if folder.is_dir() else None
    with pytest.raises(error, match=message):
        call(arms, folder, **options)
    assert (times(folder) if folder.is_dir() else None) == before


def test_a_folder_with_something_else_in_it_is_refused(two_arms: Suite, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(two_arms, tmp_path, RunDirectoryError, "is not empty and holds no suite: choose another folder")


def test_a_file_in_the_folder_s_place_is_refused(two_arms: Suite, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(RunDirectoryError, match=str(path)):
            call(two_arms, path)


def test_another_suite_s_folder_is_refused(two_arms: Suite, done: Path) -> None:
    other = replace(two_arms, name="other")
    refused(other, done, RunDirectoryError, "holds the suite 'pair', not 'other': choose another folder")


def test_changed_settings_are_refused_with_both_values(two_arms: Suite, done: Path) -> None:
    """Also where only the last arm's have changed, and before new seeds are trained."""
    longer = two_arms.override({"training.steps": 3})
    refused(longer, done, RunDirectoryError, r"one.seed-7 was started with training\.steps = 2, not 3")
    last = replace(two_arms.arms[1], config=replace(two_arms.arms[1].config, moe=MoEConfig(layers=(1,), top_k=2)))
    changed = replace(two_arms, arms=(two_arms.arms[0], replace(last, may_change=("moe",))))
    refused(changed, done, RunDirectoryError, r"two.seed-8 was started with moe\.num_experts = 4, not 8", seeds=(9, 8))


def test_a_damaged_suite_json_is_refused(two_arms: Suite, tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("{")
    refused(two_arms, tmp_path, RunDirectoryError, r"suite\.json is damaged: delete it")


def test_suite_json_stays_when_settings_are_refused(two_arms: Suite, done: Path) -> None:
    before = (done / "suite.json").read_bytes()
    refused(two_arms.override({"training.steps": 3}), done, RunDirectoryError, "training.steps".replace(".", r"\."))
    assert (done / "suite.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe.layers": (5,)}, r"moe\.layers must lie between 0 and 1 .*got 5"),
        ({"data.block_size": 64}, r"data\.block_size must be at most 32, .*got 64"),
        ({"base": "/no/such/model"}, r"/no/such/model"),
        ({"data.corpus": "/no/such/corpus"}, r"/no/such/corpus is not a folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(
    two_arms: Suite, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an arm that could be trained is; and the mended suite may use the folder."""
    monkeypatch.setattr(suite, "train", lambda *_, **__: pytest.fail("an arm was trained"))
    with pytest.raises(Exception, match=message) as refusal:
        call(two_arms.override(changes), tmp_path / "pair")
    assert type(refusal.value).__module__ == "moe_emergence.errors"
    monkeypatch.undo()
    assert [summary.reason for summary in call(two_arms, tmp_path / "pair")] == ["finished"] * 2


@pytest.mark.parametrize("changes", [{"data.corpus": "/no/such/corpus"}, {"data.probe_tokens": 2}])
def test_a_corpus_that_is_refused_leaves_nothing_behind(
    two_arms: Suite, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(DataError):
        call(two_arms.override(changes), tmp_path / "pair")
    assert list(tmp_path.iterdir()) == []


def test_arms_of_different_data_are_refused(two_arms: Suite, tmp_path: Path) -> None:
    other = replace(two_arms.arms[1].config, data=replace(two_arms.arms[1].config.data, block_size=16))
    arms = (two_arms.arms[0], Arm(config=other, baseline="one", may_change=("moe", "data")))
    with pytest.raises(ConfigError, match="must share one base and one data configuration"):
        call(replace(two_arms, arms=arms), tmp_path / "pair")


# What it would cost


def test_dry_run_counts_from_configurations(two_arms: Suite) -> None:
    one, two = dry_run(two_arms)
    assert (one["arm"], two["arm"]) == ("one", "two")
    assert one["parameters"] == two["parameters"]
    assert two["active_parameters"] > one["active_parameters"]
    assert one["tokens"] == 2 * 4 * 32


def test_runs_side_by_side_get_one_thread_each_unless_told_otherwise(two_arms: Suite) -> None:
    free = replace(two_arms.arms[0].config, execution=replace(two_arms.arms[0].config.execution, threads=None))
    assert suite._config(free, 3, 2).execution.threads == 1
    assert suite._config(free, 3, 1).execution.threads is None
    told = replace(free, execution=replace(free.execution, threads=4))
    assert suite._config(told, 3, 2).execution.threads == 4
    assert suite._config(told, 3, 2).seed == 3


def test_describe_names_no_change_of_a_baseline(two_arms: Suite) -> None:
    assert describe(two_arms, (1,), "")["arms"][0]["changes"] == {}


def test_what_a_kill_in_the_very_first_write_left_keeps_nobody_out(two_arms: Suite, tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / ".suite.json.12345").write_text("{")
    assert [summary.reason for summary in call(two_arms, tmp_path / "pair")] == ["finished", "finished"]


# How many side by side


def test_small_models_on_a_cpu_run_one_per_core_and_others_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "processors", lambda: 4)
    quickstart = suite_named("quickstart").override({"execution.device": "cpu"})
    assert suite.usual_workers(quickstart, seeds=1) == 4
    assert suite.usual_workers(quickstart.only(["dense"]), seeds=3) == 3, "no more than runs"
    assert suite.usual_workers(suite_named("gpt2").override({"execution.device": "cpu"}), seeds=1) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert suite.usual_workers(quickstart, seeds=1) == 1
