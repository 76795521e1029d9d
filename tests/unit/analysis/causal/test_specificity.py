"""The most specific expert: found where it is planted, not where there is none."""

import numpy as np
import pytest

from moe_emergence.analysis.causal.effects import Origin
from moe_emergence.analysis.causal.specificity import (
    halves,
    mean_over_seeds_p,
    measured_specificity,
    specificity,
    specificity_draws,
    specificity_rows,
)
from moe_emergence.analysis.statistics import null_p_value
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], 12)
HERE = Origin(
    arm="moe", seed=1, step=7, domains=("a", "b", "c"), domain=DOMAIN, predicted=np.full(36, 10, dtype=np.int64)
)


def noise(seed: int = 0, experts: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(experts, 36))


def test_a_planted_expert_is_found() -> None:
    """Expert 2 costs domain b 5 nats in each document of 10 tokens, other experts every domain 3."""
    change = noise() + 3
    change[2] = noise(1, 1)[0] + np.where(DOMAIN == 1, 5, 0)
    found = specificity(HERE, change)
    assert (found.expert, found.domain) == (2, 1)
    assert found.tested.interval.low < 0.5 < found.tested.interval.high
    assert found.tested.interval.low > 0.2
    assert found.p == 1 / 1000
    assert found.documents == 6
    assert (found.chosen_in, found.splits) == (24, 24)
    assert found.chosen_value == pytest.approx(0.5, abs=0.15)


def test_what_is_tested_is_worked_by_hand() -> None:
    change = noise(3)
    found = specificity(HERE, change, permutations=9, splits=4)

    def contrast(half: np.ndarray, expert: int, domain: int) -> float:
        means = [change[expert, half & (d == DOMAIN)].sum() / (10 * (half & (d == DOMAIN)).sum()) for d in range(3)]
        return means[domain] - np.mean([means[d] for d in range(3) if d != domain])

    chosen = []
    for number in range(4):
        first = halves(DOMAIN, number)
        values = {(e, d): contrast(first, e, d) for e in range(4) for d in range(3)}
        best = max(values, key=values.__getitem__)
        chosen.append((best, values[best], contrast(~first, *best)))
    cells = [cell for cell, _, _ in chosen]
    most = max(sorted(set(cells)), key=cells.count)
    mine = [(value, tested) for cell, value, tested in chosen if cell == most]
    assert (found.expert, found.domain) == most
    assert (found.splits, found.chosen_in) == (4, cells.count(most))
    assert found.chosen_value == pytest.approx(np.mean([value for value, _ in mine]), abs=1e-12)
    assert found.tested.value == pytest.approx(np.mean([tested for _, tested in mine]), abs=1e-12)
    assert found.mean_value == pytest.approx(np.mean([tested for _, _, tested in chosen]), abs=1e-12)
    assert found.p == null_p_value(found.mean_value, found.null)


def test_one_split_s_luck_is_not_what_is_found() -> None:
    """A moderate effect: single splits name several cells, with p from 0.005 to 0.9; together they name the planted."""
    change = noise(3) + np.where((np.arange(4)[:, None] == 2) & (DOMAIN == 1), 1.6, 0)
    single = [specificity(HERE, change, permutations=199, seed=seed, splits=1) for seed in range(12)]
    together = [specificity(HERE, change, permutations=199, seed=seed) for seed in range(12)]
    assert len({(one.expert, one.domain) for one in single}) > 1
    assert {(one.expert, one.domain) for one in together} == {(2, 1)}
    assert np.ptp([one.p for one in single]) > 2 * np.ptp([one.p for one in together])
    assert all(0 < one.chosen_in <= one.splits for one in together)


def test_noise_is_not_specific_and_choosing_inflates() -> None:
    found = [specificity(HERE, noise(seed), permutations=199) for seed in range(40)]
    assert np.mean([f.p <= 0.05 for f in found]) <= 0.15
    assert np.mean([f.chosen_value for f in found]) > 0.05
    assert abs(np.mean([f.tested.value for f in found])) < 0.04
    assert abs(np.mean([f.null.mean() for f in found])) < 0.01  # tested where nothing was chosen


def test_experts_that_do_nothing_are_not_specific() -> None:
    found = specificity(HERE, np.zeros((4, 36)))
    assert (found.tested.value, found.p, found.chosen_value) == (0, 1, 0)


def test_halves_are_of_every_domain() -> None:
    first = halves(np.array([[0, 1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0, 1]]), seed=3)
    assert first.sum(1).tolist() == [4, 4]
    domains = np.array([0, 1, 0, 1, 0, 1, 1])
    assert np.bincount(domains[first[0]]).tolist() == [2, 2]


def test_rows_are_adjusted_over_layers() -> None:
    change = np.stack([noise(0), noise(5), noise(6)])
    change[1, 2] += np.where(DOMAIN == 1, 50, 0)
    tested = measured_specificity(HERE, {"zero": change, "next": np.full_like(change, np.nan)})
    rows = list(specificity_rows(HERE, (2, 5, 9), tested))
    assert {row.intervention for row in rows} == {"zero"}, "what was impossible has no rows"
    assert [row.layer for row in rows] == [2, 5, 9]
    assert rows[1].p_holm == pytest.approx(3 * rows[1].p)
    assert (rows[1].expert, rows[1].domain) == (2, "b")
    assert rows[1].null_mean < rows[1].null_high < rows[1].tested_value
    assert all(row.p_holm >= row.p for row in rows)


def test_too_few_documents_are_named() -> None:
    few = Origin(
        arm="", seed=0, step=0, domains=("a", "b"), domain=np.array([0] * 9 + [1] * 3), predicted=np.ones(12, int)
    )
    with pytest.raises(AnalysisError, match=r"4 documents a domain; 'b' has 3"):
        specificity(few, np.zeros((2, 12)))


def test_over_seeds_documents_are_dealt_alike() -> None:
    """Copies of one run say no more than one does; seeds of their own luck average it away."""
    weak = [noise(seed) + np.where((np.arange(4)[:, None] == 2) & (DOMAIN == 1), 1.0, 0) for seed in range(5)]
    single = [specificity(HERE, change) for change in weak]
    draws = [next(specificity_draws(HERE, (3,), [one])) for one in single]
    assert [(row.arm, row.seed, row.step, row.layer) for row in draws] == [("moe", 1, 7, 3)] * 5
    assert mean_over_seeds_p(draws[:1]) == single[0].p
    assert mean_over_seeds_p(draws[:1] * 3) == pytest.approx(single[0].p)
    by_hand = np.mean([one.null for one in single], axis=0)
    assert mean_over_seeds_p(draws) == null_p_value(float(np.mean([one.mean_value for one in single])), by_hand)
    assert mean_over_seeds_p(draws) < np.median([one.p for one in single])
