"""Resampling, intervals and p-values, against values worked by hand."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from moe_emergence.analysis.statistics import (
    Bootstrap,
    Interval,
    benjamini_hochberg,
    bootstrap,
    central_range,
    documents_per_domain,
    generator,
    holm,
    jackknife,
    null_p_value,
    permuted_labels,
    resampled_weights,
    seed_difference,
    seed_equivalence,
)
from moe_emergence.errors import AnalysisError

DOMAIN = np.array([1, 0, 0, 1, 2, 0, 2, 1, 2, 2])


def mean_of(values: np.ndarray):
    return lambda weights: weights @ values / weights.sum(1)


def test_documents_are_drawn_within_their_domain() -> None:
    weights = resampled_weights(DOMAIN, 500, generator(0))
    assert weights.shape == (500, 10)
    for number, size in enumerate(documents_per_domain(DOMAIN)):
        own = weights[:, number == DOMAIN]
        assert (own.sum(1) == size).all()
        assert own.mean(0) == pytest.approx(np.ones(size), abs=0.2)
        assert own.max() > 1


def test_permuted_labels_keep_the_domains_sizes_and_move_them() -> None:
    labels = permuted_labels(DOMAIN, 200, generator(0))
    assert (np.sort(labels, axis=1) == np.sort(DOMAIN)).all()
    assert (labels == 0).mean(0) == pytest.approx(np.full(10, 0.3), abs=0.15)
    assert len(np.unique(labels, axis=0)) > 150


def test_equal_seeds_give_equal_draws() -> None:
    for draw in (resampled_weights, permuted_labels):
        assert (draw(DOMAIN, 5, generator(3)) == draw(DOMAIN, 5, generator(3))).all()
        assert (draw(DOMAIN, 5, generator(3)) != draw(DOMAIN, 5, generator(4))).any()


def test_standard_error_is_the_classical_one_for_a_mean() -> None:
    values = generator(1).normal(size=40)
    found = bootstrap(mean_of(values), np.zeros(40, dtype=int), replicates=20_000)
    assert float(found.observed) == pytest.approx(values.mean())
    assert float(found.standard_error) == pytest.approx(values.std(ddof=1) / math.sqrt(40), rel=0.02)


def test_correction_takes_the_bias_off_that_it_can_see() -> None:
    """The variance with divisor n is (n − 1)/n of the unbiased one; what is left is of second order, 1/n² of it."""
    values = generator(2).normal(size=10)
    found = bootstrap(
        lambda weights: mean_of(values**2)(weights) - mean_of(values)(weights) ** 2,
        np.zeros(10, dtype=int),
        replicates=50_000,
    )
    assert float(found.observed) == pytest.approx(values.var())
    assert float(found.corrected) == pytest.approx(values.var(ddof=1), rel=0.015)


def test_interval_is_reflected_and_widened() -> None:
    """θ* 1..5 around θ̂ = 2, n = 5: m = 3, corrected = 2 − 5/4 = 0.75, q = 1.1 and 4.9, s = √1.25 · 2.7764/1.9600."""
    found = Bootstrap(np.array(2.0), np.array([1.0, 2, 3, 4, 5]), 5)
    low, high = found.reflected()
    assert float(found.corrected) == pytest.approx(0.75)
    assert float(low) == pytest.approx(0.75 - math.sqrt(1.25) * 2.776445 / 1.959964 * 1.9, abs=1e-5)
    assert float(high) == pytest.approx(0.75 + math.sqrt(1.25) * 2.776445 / 1.959964 * 1.9, abs=1e-5)
    skewed = Bootstrap(np.array(2.0), np.array([1.0, 1, 1, 1, 6]), 5)
    low, high = skewed.reflected()
    assert float(skewed.corrected - low) > float(high - skewed.corrected), "a long upper tail belongs below"


def test_interval_with_many_documents_is_the_basic_one() -> None:
    values = generator(3).gamma(2, size=30)
    found = bootstrap(mean_of(values), np.zeros(30, dtype=int), documents=10**9)
    low, high = found.reflected()
    q = np.quantile(found.replicates, [0.025, 0.975])
    assert (float(low), float(high)) == pytest.approx(tuple(2 * found.observed - q[::-1]))


def test_estimate_of_a_mean_is_the_classical_t_interval() -> None:
    values = generator(5).normal(size=12)
    found = bootstrap(mean_of(values), np.zeros(12, dtype=int), replicates=20_000).estimate()
    low, high = t.interval(0.95, 11, values.mean(), values.std(ddof=1) / math.sqrt(12))
    assert found.value == pytest.approx(values.mean())
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.03)


def test_intervals_of_shares_stay_inside_and_are_symmetric_in_the_logit() -> None:
    """Share 0.2, n = 5, standard error 0.1·√1.25: logit −1.386294 ± 4.302653 · 0.111803/0.16, t of 2 degrees."""
    found = Bootstrap(np.array([0.2, 0.0, 1.0]), np.array([[0.1, 0, 1], [0.3, 0, 1]]), 5)
    low, high = found.shares()
    assert low == pytest.approx([1 / (1 + math.exp(1.386294 + 3.006540)), 0, 1], abs=1e-5)
    assert high == pytest.approx([1 / (1 + math.exp(1.386294 - 3.006540)), 0, 1], abs=1e-5)


def test_difference_is_a_t_test_and_agrees_with_its_interval() -> None:
    found = Bootstrap(np.array(1.0), np.array([0.0, 2.0]), 5)
    error = math.sqrt(5 / 4)
    difference = found.difference()
    assert difference.value == 1
    assert difference.p == pytest.approx(2 * t.sf(1 / error, 4))
    assert difference.interval.high == pytest.approx(1 + 2.776445 * error, abs=1e-5)
    edge = Bootstrap(np.array(2.776446 * error), np.array([-1.0, 1.0]) + 2.776446 * error, 5).difference()
    assert edge.p == pytest.approx(0.05, abs=1e-6)
    assert edge.interval.low == pytest.approx(0, abs=1e-5)


def test_biased_difference_is_corrected() -> None:
    found = Bootstrap(np.array(1.0), np.array([1.0, 2.0]), 5)
    assert found.difference().value == 1
    assert found.difference(biased=True).value == pytest.approx(1 - 0.5 * 5 / 4)


def test_no_difference_and_a_difference_without_spread() -> None:
    assert Bootstrap(np.array(0.0), np.zeros(9), 5).difference().p == 1
    same = Bootstrap(np.array(0.3), np.full(9, 0.3), 5).difference()
    assert (same.p, same.interval) == (0, Interval(0.3, 0.3))


def test_values_on_the_same_resamples_keep_their_own_n() -> None:
    values = generator(4).normal(size=(10, 2))
    both = bootstrap(lambda w: w @ values / 10, DOMAIN, documents=np.array([3, 50]))
    assert float(both.single(1).observed) == pytest.approx(values[:, 1].mean())
    wide, narrow = both.single(0), both.single(1)
    assert float(wide.standard_error / wide.replicates.std()) == pytest.approx(math.sqrt(3 / 2))
    assert float(narrow.standard_error / narrow.replicates.std()) == pytest.approx(math.sqrt(50 / 49))


def test_null_p_value_counts_the_observed_one_too() -> None:
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert null_p_value(0.5, null) == 1 / 5
    assert null_p_value(0.3, null) == 3 / 5
    assert null_p_value(0.3 + 1e-15, null) == 3 / 5, "equal but for rounding"
    assert null_p_value(0.0, null) == 1


def test_central_range() -> None:
    assert central_range(np.arange(1001) / 1000) == Interval(0.025, 0.975)


def test_holm_by_hand() -> None:
    """.01·4 = .04; .02·3 = .06; .03·2 = .06; .9·1."""
    assert holm(np.array([0.03, 0.01, 0.9, 0.02])) == pytest.approx(np.array([0.06, 0.04, 0.9, 0.06]))
    assert holm(np.array([0.6, 0.7])) == pytest.approx(np.array([1.0, 1.0])), "at most 1"
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx(np.array([0.03, 0.06, 0.06])), "never falls"
    assert holm(np.array([0.2])) == pytest.approx([0.2])
    assert len(holm(np.array([]))) == 0


def test_benjamini_hochberg_by_hand() -> None:
    """.01·4/1 = .04; .02·4/2 = .04; .03·4/3 = .04; .9."""
    assert benjamini_hochberg(np.array([0.03, 0.01, 0.9, 0.02])) == pytest.approx([0.04, 0.04, 0.9, 0.04])
    assert benjamini_hochberg(np.array([0.01, 0.5, 0.04])) == pytest.approx([0.03, 0.5, 0.06])
    assert benjamini_hochberg(np.array([0.2])) == pytest.approx([0.2])
    assert len(benjamini_hochberg(np.array([]))) == 0


def test_equivalence_by_hand() -> None:
    """Value 0.5, n = 5, standard error √1.25 · 0.1: t = (1 − 0.5)/0.111803 on the nearer side; 90 % is 2.131847 se."""
    found = Bootstrap(np.array(0.5), np.array([0.4, 0.6]), 5).equivalence(1)
    assert found.p == pytest.approx(t.sf(0.5 / (0.1 * math.sqrt(1.25)), 4))
    assert (found.interval.low, found.interval.high) == pytest.approx((0.5 - 0.238347, 0.5 + 0.238347), abs=1e-5)
    assert (found.value, found.margin) == (0.5, 1)
    mirrored = Bootstrap(np.array(-0.5), np.array([-0.4, -0.6]), 5).equivalence(1)
    assert mirrored.p == pytest.approx(found.p)
    edge = Bootstrap(np.array(0.5), np.array([0.4, 0.6]), 5).equivalence(0.5 + 0.238347)
    assert edge.p == pytest.approx(0.05, abs=1e-5)
    biased = Bootstrap(np.array(1.0), np.array([1.0, 2.0]), 5).equivalence(2, biased=True)
    assert biased.value == pytest.approx(1 - 0.5 * 5 / 4)


def test_equivalence_at_its_extremes() -> None:
    spread = np.array([-0.1, 0.1])
    assert Bootstrap(np.array(1.0), 1 + spread, 5).equivalence(1).p == pytest.approx(0.5)
    assert Bootstrap(np.array(3.0), 3 + spread, 5).equivalence(1).p > 0.99
    assert Bootstrap(np.array(0.0), np.zeros(9), 5).equivalence(1e-6).p == 0
    assert Bootstrap(np.array(1.0), np.ones(9), 5).equivalence(1).p == 1, "as large as the margin is not within it"
    with pytest.raises(AnalysisError, match="margin of an equivalence test must be above 0; got 0"):
        Bootstrap(np.array(0.0), np.zeros(9), 5).equivalence(0)


def test_over_seeds_it_is_scipy_s_paired_t() -> None:
    differences = np.array([0.02, -0.01, 0.03, 0.005, 0.012])
    found, oracle = seed_difference(differences), ttest_1samp(differences, 0)
    assert (found.value, found.p) == pytest.approx((differences.mean(), oracle.pvalue), abs=1e-12)
    interval = oracle.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    same = seed_equivalence(differences, 0.05)
    sides = [ttest_1samp(differences, -0.05, alternative="greater"), ttest_1samp(differences, 0.05, alternative="less")]
    assert same.p == pytest.approx(max(side.pvalue for side in sides), abs=1e-12)
    narrow = oracle.confidence_interval(0.9)
    assert (same.interval.low, same.interval.high) == pytest.approx((narrow.low, narrow.high), abs=1e-12)


def test_seeds_at_their_extremes() -> None:
    assert seed_difference(np.array([0.01, -0.01])).p == 1
    assert seed_difference(np.array([0.25, 0.25, 0.25])).p == 0
    assert seed_equivalence(np.array([0.25, 0.25]), 0.5).p == 0
    assert seed_equivalence(np.array([0.25, 0.25]), 0.1).p == 1
    for test in (seed_difference, lambda values: seed_equivalence(values, 0.1)):
        with pytest.raises(AnalysisError, match="at least 2; got 1: train another seed"):
            test(np.array([0.1]))


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (np.array([0, 0, 2, 2]), "domain 1 has none"),
        (np.array([0, 0, 1]), "domain 1 has 1"),
        (np.array([], dtype=int), "one a document"),
        (np.array([0, -1]), "one a document"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([[0, 1]]), r"\(1, 2\)"),
    ],
)
def test_domains_that_cannot_be_resampled_are_named(domain, message) -> None:
    with pytest.raises(AnalysisError, match=message):
        bootstrap(lambda weights: weights.sum(1), domain)


def test_jackknife_of_a_mean_is_its_own_and_of_a_square_has_no_bias() -> None:
    """By hand: leaving one of n numbers out moves a mean by its distance ÷ (n − 1), so the spread is s/√n; and (Σx/n)²
    is too large by s²/n."""
    values, domain = np.array([1.0, 2.0, 6.0]), np.zeros(3, dtype=np.int64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        mean = weights @ values / weights.sum(1)
        return np.stack([mean, mean**2], axis=1)

    observed, (mean, square) = jackknife(statistic, domain)
    assert observed == pytest.approx([3, 9])
    assert mean.value == pytest.approx(3)
    assert mean.interval.high - 3 == pytest.approx(1.959964 * np.sqrt(7 / 3))
    assert square.value == pytest.approx(9 - 7 / 3)


def test_jackknife_leaves_one_document_of_each_domain_out_at_a_time() -> None:
    """Domains of 2 and 3 documents; the sum of their means has the sum of their variances, s²/n each."""
    values, domain = np.array([0.0, 2.0, 1.0, 1.0, 4.0]), np.array([0, 0, 1, 1, 1])

    def statistic(weights: np.ndarray) -> np.ndarray:
        parts = [(weights[:, own] @ values[own]) / weights[:, own].sum(1) for own in (slice(2), slice(2, 5))]
        return sum(parts)[:, None]

    _, (found,) = jackknife(statistic, domain)
    assert found.value == pytest.approx(3)
    assert found.interval.high - 3 == pytest.approx(1.959964 * np.sqrt(2 / 2 + 3 / 3))
