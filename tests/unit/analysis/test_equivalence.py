"""No difference: shown against a margin, on the documents and the seeds that differences are shown on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from synthetic_suite import DOCUMENTS, PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis import equivalence
from moe_emergence.analysis.comparisons import LastTraces, information_difference_rows, loss_difference_rows
from moe_emergence.analysis.equivalence import equivalence_rows, information_equivalence_rows
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.statistics import seed_equivalence
from moe_emergence.analysis.traces import read_trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = quickstart_like(seeds=(42, 44), steps=4, looks=(0, 4))
    return write_suite(tmp_path_factory.mktemp("equal"), planted)


def last_traces(suite: Suite) -> LastTraces:
    return {(run.arm, run.seed): read_trace(run, run.last_step) for run in suite.runs}


def test_rows_are_of_the_same_differences(folder: Path) -> None:
    suite = read_suite(folder)
    rows = {(row.arm, row.against, row.domain): row for row in equivalence_rows(suite)}
    differences = loss_difference_rows(suite)
    assert rows.keys() == {(row.arm, row.against, row.domain) for row in differences}
    for difference in differences:
        row = rows[difference.arm, difference.against, difference.domain]
        assert row.difference == difference.difference
        assert (row.seeds, row.documents, row.margin) == (2, DOCUMENTS, 0.01)
        assert difference.low < row.low90 < row.difference < row.high90 < difference.high
        assert row.equivalent == (row.low90 > -row.margin and row.high90 < row.margin) == (row.p < 0.05)


def test_over_documents_it_is_about_two_one_sided_paired_t_tests(folder: Path, monkeypatch) -> None:
    """With documents of equal length a domain's difference is a mean over documents."""
    monkeypatch.setattr(equivalence, "LOSS_MARGIN", 0.1)
    suite = read_suite(folder)
    sums = {arm: [run.last_test.documents["math"] for run in suite.runs_of(arm)] for arm in ("top2", "dense")}
    means = {arm: np.mean([part.loss / part.tokens for part in parts], axis=0) for arm, parts in sums.items()}
    differences = means["top2"] - means["dense"]
    sides = [ttest_1samp(differences, -0.1, alternative="greater"), ttest_1samp(differences, 0.1, alternative="less")]
    row = next(r for r in equivalence_rows(suite) if (r.arm, r.against, r.domain) == ("top2", "dense", "math"))
    assert np.log(row.p) == pytest.approx(np.log(max(side.pvalue for side in sides)), rel=0.1, abs=0.02)
    narrow = ttest_1samp(differences, 0).confidence_interval(0.9)
    assert (row.low90, row.high90) == pytest.approx((narrow.low, narrow.high), abs=3e-4)


def test_over_seeds_it_is_the_test_of_the_evaluations_differences(folder: Path) -> None:
    suite = read_suite(folder)
    for row in equivalence_rows(suite):
        ours, theirs = (
            [run.last_test.lm_loss_macro if row.domain is None else run.last_test.lm_loss[row.domain] for run in runs]
            for runs in (suite.runs_of(row.arm), suite.runs_of(row.against))
        )
        values = np.subtract(ours, theirs)
        expected = seed_equivalence(values, 0.01)
        assert (row.seed_p, row.seed_equivalent) == (expected.p, expected.p < 0.05)
        assert (row.seed_low90, row.seed_high90) == (expected.interval.low, expected.interval.high)


def test_an_arm_is_the_same_as_a_copy_of_itself_and_not_as_one_0_09_nats_off(tmp_path: Path) -> None:
    arms = [PlantedArm(name=name, loss=loss) for name, loss in (("dense", 3.62), ("copy", 3.62), ("better", 3.53))]
    suite = PlantedSuite(arms=arms, steps=4, looks=(0, 4))
    folder = write_suite(tmp_path, suite)
    shutil.copy(folder / "dense/seed-42/metrics.jsonl", folder / "copy/seed-42/metrics.jsonl")
    rows = {(row.arm, row.domain): row for row in equivalence_rows(read_suite(folder))}
    assert len(rows) == 8
    for domain in (None, "code", "math", "prose"):
        same, better = rows["copy", domain], rows["better", domain]
        assert (same.difference, same.p, same.equivalent) == (0, 0, True)
        assert better.p > 0.99
        assert not better.equivalent
        assert (same.seed_p, same.seed_equivalent, same.seed_low90, same.seed_high90) == (None,) * 4


def test_information_rows_are_of_the_same_differences(folder: Path) -> None:
    suite = read_suite(folder)
    last = last_traces(suite)
    rows = information_equivalence_rows(suite, last)
    differences = information_difference_rows(suite, last)
    assert [(row.arm, row.against, row.layer) for row in rows] == [(r.arm, r.against, r.layer) for r in differences]
    for row, difference in zip(rows, differences, strict=True):
        assert row.difference == pytest.approx(difference.share, abs=1e-12)
        assert difference.low_share < row.low90 < row.difference < row.high90 < difference.high_share
        assert row.equivalent == (row.low90 > -0.01 and row.high90 < 0.01) == (row.p < 0.05)
        assert (row.seeds, row.documents, row.margin) == (2, DOCUMENTS, 0.01)
    assert {row.equivalent for row in rows} == {False}, "planted: specialists against none, few documents"


def test_a_copy_s_information_is_the_same(folder: Path) -> None:
    suite = read_suite(folder)
    last = {(arm, seed): read_trace(suite.runs_of("moe")[0], 4) for arm, seed in last_traces(suite)}
    assert all(row.equivalent and row.difference == 0 for row in information_equivalence_rows(suite, last))
