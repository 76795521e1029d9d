"""Each domain's specialist: found where it is planted, with its cost on documents that did not choose it."""

import numpy as np
import pytest

from moe_emergence.analysis.causal.effects import Origin
from moe_emergence.analysis.causal.specialists import LEAST_COST, MOST_OF_OTHERS, specialist_rows

DOMAIN = np.repeat([0, 1, 2], 12)
HERE = Origin(
    arm="moe", seed=1, step=7, domains=("a", "b", "c"), domain=DOMAIN, predicted=np.full(36, 10, dtype=np.int64)
)


def costs(*planted: tuple[int, int, tuple[float, float, float]], noise: float = 0.001) -> np.ndarray:
    """[2 layers, 4 experts, documents] changes of summed loss, where (layer, expert) costs each domain so many nats a
    token."""
    change = np.random.default_rng(0).normal(size=(2, 4, 36)) * noise * 10
    for layer, expert, of_domains in planted:
        change[layer, expert] += 10 * np.array(of_domains)[DOMAIN]
    return change


def test_planted_specialists_are_found_over_all_layers() -> None:
    change = costs((0, 1, (0.02, 0.001, 0.0)), (1, 3, (0.0, 0.0, 0.015)), (1, 0, (0.01, 0.01, 0.01)))
    rows = {row.domain: row for row in specialist_rows(HERE, (2, 5), change)}
    assert [(row.layer, row.expert, row.is_specialist) for row in rows.values()][::2] == [(2, 1, True), (5, 3, True)]
    assert not rows["b"].is_specialist
    assert rows["a"].cost == pytest.approx(0.02, abs=0.002)
    assert rows["a"].low < rows["a"].cost < rows["a"].high
    assert (rows["a"].other, rows["a"].other_domain) == (pytest.approx(0.001, abs=0.0007), "b")
    assert (rows["c"].chosen_in, rows["c"].splits, rows["c"].documents) == (24, 24, 6)
    assert (rows["a"].arm, rows["a"].seed, rows["a"].step) == ("moe", 1, 7)


@pytest.mark.parametrize(
    ("of_domains", "is_specialist"),
    [
        ((LEAST_COST + 1e-4, 0.0, 0.0), True),
        ((LEAST_COST - 1e-4, 0.0, 0.0), False),
        ((0.03, 0.03 * MOST_OF_OTHERS - 1e-4, 0.0), True),
        ((0.03, 0.0, 0.03 * MOST_OF_OTHERS + 1e-4), False),
        ((0.03, -0.02, 0.0), True),
    ],
)
def test_the_criterion(of_domains: tuple[float, float, float], is_specialist: bool) -> None:
    """Without noise the cost is the planted one, and its interval has no length."""
    row = next(iter(specialist_rows(HERE, (2, 5), costs((0, 1, of_domains), noise=0.0))))
    assert (row.layer, row.expert, row.is_specialist) == (2, 1, is_specialist)
    assert (row.cost, row.low, row.high) == pytest.approx((of_domains[0],) * 3)
    assert row.other == pytest.approx(max(of_domains[1:]))


def test_what_was_chosen_by_luck_costs_nothing_elsewhere() -> None:
    rows = []
    for seed in range(30):
        change = np.random.default_rng(seed).normal(size=(2, 4, 36))
        rows += specialist_rows(HERE, (2, 5), change)
    assert abs(np.mean([row.cost for row in rows])) < 0.03
    assert np.mean([row.is_specialist and row.low > 0 for row in rows]) < 0.1
