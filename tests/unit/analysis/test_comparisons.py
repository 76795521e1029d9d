"""Differences between arms: the same documents and seeds on both sides, and what the tables say of them."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from synthetic_suite import DOCUMENTS, PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.comparisons import compared_arms, loss_difference_rows
from moe_emergence.analysis.information import information_difference
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.statistics import holm
from moe_emergence.analysis.tables import Tables, make_tables
from moe_emergence.analysis.traces import read_trace
from moe_emergence.errors import AnalysisError

pytestmark = pytest.mark.usefixtures("without_run_measures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = quickstart_like(seeds=(42, 44), steps=6, looks=(0, 6))
    return write_suite(tmp_path_factory.mktemp("pairs"), planted)


@pytest.fixture(scope="module")
def tables(folder: Path) -> Tables:
    return make_tables(read_suite(folder))


def test_each_arm_is_compared_with_dense_and_with_its_baseline(folder: Path) -> None:
    pairs = list(compared_arms(read_suite(folder)))
    assert pairs == [
        ("moe", "dense"), ("no_lb", "dense"), ("no_lb", "moe"), ("top2", "dense"), ("top2", "moe"),
        ("moe_blocks", "dense"), ("moe_blocks", "moe"),
    ]  # fmt: skip


def test_loss_differences_are_those_of_the_evaluations(folder: Path, tables: Tables) -> None:
    suite = read_suite(folder)
    for row in tables.loss_differences:
        ours, theirs = (
            [run.last_test.lm_loss_macro if row.domain is None else run.last_test.lm_loss[row.domain] for run in runs]
            for runs in (suite.runs_of(row.arm), suite.runs_of(row.against))
        )
        differences = np.subtract(ours, theirs)
        assert row.difference == pytest.approx(differences.mean(), abs=1e-9)
        assert (row.seed_low, row.seed_high) == pytest.approx((differences.min(), differences.max()), abs=1e-9)
        assert (row.seeds, row.documents) == (2, DOCUMENTS)
        assert row.low < row.difference < row.high


def test_the_interval_is_about_a_paired_t_over_documents(folder: Path, tables: Tables) -> None:
    """With documents of equal length the difference is a mean over documents, which Student's t knows how to bound."""
    suite = read_suite(folder)
    sums = {arm: [run.last_test.documents["math"] for run in suite.runs_of(arm)] for arm in ("moe", "dense")}
    means = {arm: np.mean([part.loss / part.tokens for part in parts], axis=0) for arm, parts in sums.items()}
    exact = ttest_1samp(means["moe"] - means["dense"], 0)
    interval = exact.confidence_interval()
    row = next(r for r in tables.loss_differences if (r.arm, r.against, r.domain) == ("moe", "dense", "math"))
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=3e-4)
    assert math.log(row.p) == pytest.approx(math.log(exact.pvalue), rel=0.1)


def test_holm_is_over_the_domains_of_one_pair(tables: Tables) -> None:
    mine = [row for row in tables.loss_differences if (row.arm, row.against) == ("no_lb", "moe")]
    assert [row.domain for row in mine] == [None, "code", "math", "prose"]
    assert mine[0].p_holm == mine[0].p
    assert [row.p_holm for row in mine[1:]] == pytest.approx(holm(np.array([row.p for row in mine[1:]])).tolist())


def test_information_differences_are_of_arms_with_experts(folder: Path, tables: Tables) -> None:
    rows = tables.information_differences
    assert [(row.arm, row.against, row.layer) for row in rows] == [
        (arm, "moe", layer) for arm in ("no_lb", "top2", "moe_blocks") for layer in (2, 3)
    ]
    suite = read_suite(folder)
    traces = {arm: [read_trace(run, 6) for run in suite.runs_of(arm)] for arm in ("moe", "moe_blocks")}
    ours, theirs = (np.stack([trace.layers[1].first_choice for trace in traces[arm]]) for arm in ("moe_blocks", "moe"))
    expected = information_difference(ours, theirs, traces["moe"][0].domain)
    row = rows[-1]
    assert (row.difference, row.low, row.high) == (expected.value, expected.interval.low, expected.interval.high)
    assert row.share == pytest.approx(row.difference / math.log2(3))
    assert row.high < 0, "specialists were planted in moe and none in moe_blocks"


def test_only_seeds_that_both_arms_have_are_compared(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(seeds=(42, 44), steps=6, looks=(0, 6)))
    shutil.rmtree(folder / "moe/seed-44")
    rows = loss_difference_rows(read_suite(folder))
    assert {(row.arm, row.against): row.seeds for row in rows}["no_lb", "dense"] == 2
    assert {(row.arm, row.against): row.seeds for row in rows}["no_lb", "moe"] == 1
    shutil.rmtree(folder / "moe/seed-42")
    assert {(row.arm, row.against) for row in loss_difference_rows(read_suite(folder))} == {
        ("no_lb", "dense"), ("top2", "dense"), ("moe_blocks", "dense"),
    }  # fmt: skip


def test_an_arm_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    suite = PlantedSuite(arms=(PlantedArm(name="dense"),), steps=4, looks=(0, 4))
    tables = make_tables(read_suite(write_suite(tmp_path, suite)))
    assert tables.loss_differences == tables.information_differences == tables.verdicts == tables.token_classes == ()
    assert [(row.arm, row.domain) for row in tables.arm_losses] == [
        ("dense", d) for d in (None, "code", "math", "prose")
    ]
    for row in tables.arm_losses:
        assert row.low < row.lm_loss < row.high


def test_a_seed_s_own_difference_is_the_difference_where_there_is_one_seed(tmp_path: Path) -> None:
    tables = make_tables(read_suite(write_suite(tmp_path, quickstart_like(steps=6, looks=(0, 6)))))
    assert tables.information_differences
    for row in (*tables.information_differences, *tables.information_changes):
        assert row.seed_low == row.seed_high == row.difference
        assert row.low < row.difference < row.high


def test_changes_are_against_the_same_runs_first_step(folder: Path, tables: Tables) -> None:
    suite = read_suite(folder)
    row = next(r for r in tables.information_changes if (r.arm, r.layer) == ("moe", 3))
    ends = [np.stack([read_trace(run, step).layers[1].first_choice for run in suite.runs_of("moe")]) for step in (6, 0)]
    expected = information_difference(*ends, read_trace(suite.runs_of("moe")[0], 6).domain)
    assert (row.difference, row.low, row.high) == (expected.value, expected.interval.low, expected.interval.high)
    assert (row.against, row.seeds, row.step, row.against_step, row.documents) == ("moe", 2, 6, 0, DOCUMENTS)
    assert row.low > 0, "planted: from uniform to specialists"
    flat = next(r for r in tables.information_changes if (r.arm, r.layer) == ("moe_blocks", 2))
    assert flat.p_holm > 0.05


def test_arms_that_ended_early_carry_their_step(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(steps=6, looks=(0, 2, 6)))
    short = write_suite(tmp_path / "short", quickstart_like(steps=2, looks=(0, 2)))
    for name in ("metrics.jsonl", "traces"):
        target = folder / "no_lb/seed-42" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        shutil.move(short / "no_lb/seed-42" / name, target)
    tables = make_tables(read_suite(folder))
    for row in (*tables.loss_differences, *tables.information_differences):
        assert row.step == (2 if row.arm == "no_lb" else 6)
        assert row.against_step == 6


@pytest.mark.parametrize("name", ["index", "tokens"])
def test_runs_tested_on_other_documents_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4)))
    path = folder / "moe/seed-42/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        if line["event"] == "evaluation":
            values = line["documents"]["math"][name]
            values[0], values[1] = values[0] + 5, values[1] + 5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    with pytest.raises(
        AnalysisError,
        match=r"seed-42 was tested on other documents than .*seed-42.*give them the same data.test_blocks",
    ):
        make_tables(read_suite(folder))
