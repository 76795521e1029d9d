"""The most specialised expert: chosen on one half, tested on the other, and never above what labels by chance show."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from synthetic_suite import DOCUMENTS, PlantedArm, PlantedSuite, quickstart_like, spread, write_suite

from moe_emergence.analysis.lift import cross_fitted_share, lift_rows, measured_lift, measured_nmi
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.statistics import document_halves, generator, labels_permuted_in_halves
from moe_emergence.analysis.traces import read_trace
from moe_emergence.config import MoEConfig
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1], [6, 9])


def counts_of(routes: np.ndarray, domain: np.ndarray, tokens: int = 200, seed: int = 0) -> np.ndarray:
    rng = generator(seed)
    return np.stack([rng.multinomial(tokens, rng.dirichlet(20 * routes[number])) for number in domain])


def test_halves_are_of_every_domain() -> None:
    half = document_halves(DOMAIN)
    assert [np.bincount(half[number == DOMAIN]).tolist() for number in (0, 1)] == [[3, 3], [5, 4]]
    assert (document_halves(DOMAIN, seed=1) != half).any()
    assert (document_halves(DOMAIN) == half).all()
    with pytest.raises(AnalysisError, match="at least 4 in each domain; domain 1 has 3"):
        document_halves(np.repeat([0, 1], [5, 3]))


def test_permuting_in_halves_keeps_each_half_s_domains() -> None:
    half = document_halves(DOMAIN)
    labels = labels_permuted_in_halves(DOMAIN, half, 300, generator(0))
    for side in (0, 1):
        assert (np.sort(labels[:, half == side], axis=1) == np.sort(DOMAIN[half == side])).all()
    assert labels.mean(0) == pytest.approx(np.where(half == 0, 5 / 8, 4 / 7), abs=0.15)


def test_a_half_s_choice_is_read_on_the_other() -> None:
    """Half 0 chooses cell 2, which is 0.1 on half 1; half 1 chooses cell 0, which is 0.3 on half 0."""
    shares = np.array([[0.3, 0.2, 0.9], [0.8, 0.5, 0.1]])
    assert cross_fitted_share(shares) == pytest.approx((0.1 + 0.3) / 2)
    assert cross_fitted_share(shares, np.array([1, 1])) == pytest.approx((0.5 + 0.2) / 2)
    assert cross_fitted_share(np.stack([shares, shares[:, ::-1]])) == pytest.approx([0.2, 0.2])


def test_lift_by_hand() -> None:
    """Every document of domain 0 gives expert 2 six of ten tokens, E = 4; of domain 1 every expert a quarter."""
    counts = np.where(DOMAIN[:, None] == 0, [[1, 2, 6, 1]], [[3, 3, 3, 3]])
    found = measured_lift(counts, DOMAIN, permutations=99)
    assert found.measured.estimate.value == pytest.approx(4 * 0.6)
    assert found.largest == pytest.approx(4 * 0.6)
    assert found.chosen == found.of_halves[0] == found.of_halves[1] == (0, 2)
    assert (found.measured.estimate.interval.low, found.measured.estimate.interval.high) == pytest.approx((2.4, 2.4))
    assert found.measured.p == 1 / 100
    assert 1 < found.measured.null_mean < 2.4


@pytest.mark.parametrize(("favourite", "lift"), [(0.999, 6), (1 / 6, 1)])
def test_lift_at_its_extremes(favourite, lift) -> None:
    routes = np.stack([spread(6, {number: favourite}) for number in (0, 1)])
    domain = np.repeat([0, 1], 20)
    found = measured_lift(np.stack([(6000 * routes[number]).astype(int) for number in domain]), domain, 99)
    assert found.measured.estimate.value == pytest.approx(lift, rel=0.005)


def test_load_is_lift_that_the_null_has_too() -> None:
    """One expert takes 0.7 of everything: E · 0.7, and the same with the labels permuted."""
    routes = np.stack([spread(5, {3: 0.7})] * 2)
    found = measured_lift(counts_of(routes, np.repeat([0, 1], 20)), np.repeat([0, 1], 20)).measured
    assert found.estimate.value == pytest.approx(5 * 0.7, rel=0.1)
    assert found.null_mean == pytest.approx(5 * 0.7, rel=0.1)
    assert found.p > 0.05


def test_choosing_and_testing_on_one_half_would_find_what_is_not_there() -> None:
    """No domain has a taste; the largest of 16 cells is above what its expert's load is, the tested one is not."""
    largest, tested = [], []
    for seed in range(40):
        counts = counts_of(np.full((2, 8), 1 / 8), np.repeat([0, 1], 6), seed=seed)
        found = measured_lift(counts, np.repeat([0, 1], 6), permutations=9, replicates=9)
        largest.append(found.largest)
        tested.append(found.measured.estimate.value)
    assert np.mean(largest) > 1.2
    assert np.mean(tested) == pytest.approx(1, abs=0.06)


def test_nmi_agrees_with_scikit_learn_where_domains_have_as_many_tokens() -> None:
    counts = counts_of(np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), np.repeat([0, 1], 10))
    found = measured_nmi(counts, np.repeat([0, 1], 10), permutations=99)
    experts = np.concatenate([np.repeat(np.arange(3), row) for row in counts])
    oracle = normalized_mutual_info_score(np.repeat([0, 1], 2000), experts)
    assert oracle == pytest.approx(found.estimate.value, abs=0.02)
    assert found.estimate.interval.low < found.estimate.value < oracle, "the plug-in, less its bias"
    assert found.p == 1 / 100
    assert 0 < found.null_mean < found.null_range.high < found.estimate.value


def test_nmi_at_its_extremes() -> None:
    domain = np.repeat([0, 1], 8)
    alone = np.where(domain[:, None] == 0, [[9, 0]], [[0, 9]])
    assert measured_nmi(alone, domain, 99).estimate.value == pytest.approx(1)
    alike = np.full((16, 2), 5)
    assert measured_nmi(alike, domain, 99).estimate.value == 0
    assert measured_nmi(alike, domain, 99).p == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("lift"), quickstart_like(steps=4, looks=(0, 4)))


def test_rows_say_what_was_planted(folder: Path) -> None:
    suite = read_suite(folder)
    run = suite.runs_of("moe")[0]
    first, second = lift_rows(run, read_trace(run, 4))
    assert (first.arm, first.seed, first.step, first.layer, first.counted) == ("moe", 42, 4, 2, "first choice")
    assert (first.domain, first.expert, first.maximum, first.documents) == ("code", 1, 8, DOCUMENTS)
    assert second.agreed
    assert not first.agreed, "0.31 and 0.28: on 6 documents a half the other may be the larger"
    assert first.lift_low < 8 * 0.31 < first.lift_high
    assert (second.layer, second.domain, second.expert) == (3, "code", 5)
    for row in (first, second):
        assert row.p_lift == row.p_nmi == 1 / 1000
        assert 1 < row.lift_null_mean < row.lift_null_high < row.lift_low < row.lift < row.lift_high
        assert row.nmi_null_mean < row.nmi_null_high < row.nmi_low < row.nmi < row.nmi_high < 1


def test_several_slots_are_counted_both_ways(folder: Path) -> None:
    run = read_suite(folder).runs_of("top2")[0]
    rows = list(lift_rows(run, read_trace(run, 4)))
    assert [(row.layer, row.counted, row.maximum) for row in rows] == [
        (2, "slots", 4), (2, "first choice", 8), (3, "slots", 4), (3, "first choice", 8),
    ]  # fmt: skip
    assert all(row.lift <= row.maximum for row in rows)


def test_no_rows_without_experts_or_with_too_few_documents(folder: Path) -> None:
    suite = read_suite(folder)
    dense = suite.runs_of("dense")[0]
    assert list(lift_rows(dense, read_trace(dense, 4))) == []
    run = suite.runs_of("moe")[0]
    trace = read_trace(run, 4)
    few = np.r_[np.zeros(3, dtype=np.int64), np.ones(4, dtype=np.int64)]
    assert list(lift_rows(run, replace(trace, domain=few))) == []
    assert list(lift_rows(run, replace(trace, domain=np.zeros(12, dtype=np.int64)))) == []


def test_a_null_says_no_evidence(tmp_path: Path) -> None:
    arm = PlantedArm(name="only", moe=MoEConfig(), shares={2: np.full((3, 8), 1 / 8), 3: np.full((3, 8), 1 / 8)})
    run = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), steps=4, looks=(0, 4)))).runs[0]
    for row in lift_rows(run, read_trace(run, 4)):
        assert min(row.p_lift, row.p_nmi) > 0.05 / 4, "two layers, two measures"
        assert math.isclose(row.lift, 1, abs_tol=0.2)
