"""The learning rate and the evaluation grid, both functions of the step alone."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_emergence.config import OptimizerConfig
from moe_emergence.training.schedule import evaluation_steps, learning_rate_factor, snapshot_steps

TENTH = OptimizerConfig(warmup=0.1)


def test_warm_up_rises_linearly_to_the_peak() -> None:
    factors = [learning_rate_factor(update, 100, TENTH) for update in range(10)]
    assert factors == pytest.approx([n / 10 for n in range(1, 11)])
    assert factors[-1] == 1.0


def test_the_peak_is_reached_once_then_cosine() -> None:
    factors = [learning_rate_factor(update, 100, TENTH) for update in range(100)]
    assert factors[10] == 1.0, "the cosine starts at the peak"
    assert factors[55] == pytest.approx(0.5), "half way of what follows the warm-up"
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    for update in (10, 31, 99):
        assert factors[update] == pytest.approx(0.5 * (1 + math.cos(math.pi * (update - 10) / 90)))


def test_the_last_update_is_small_and_the_one_after_it_would_be_zero() -> None:
    assert 0 < learning_rate_factor(99, 100, TENTH) < 0.001
    assert learning_rate_factor(100, 100, TENTH) == pytest.approx(0)


def test_without_warm_up_the_first_update_is_the_peak() -> None:
    assert learning_rate_factor(0, 100, OptimizerConfig(warmup=0.0)) == 1.0


def test_warm_up_alone_ends_at_the_peak() -> None:
    factors = [learning_rate_factor(update, 5, OptimizerConfig(warmup=1.0)) for update in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@given(st.integers(1, 3000), st.floats(0, 1))
def test_every_update_has_a_rate_between_zero_and_the_peak(steps: int, warmup: float) -> None:
    config = OptimizerConfig(warmup=warmup)
    assert all(0 < learning_rate_factor(update, steps, config) <= 1 for update in {0, steps // 2, steps - 1})


@given(st.integers(1, 200_000), st.integers(2, 40))
def test_the_grid_holds_both_ends_and_as_many_points_as_asked(steps: int, points: int) -> None:
    grid = evaluation_steps(steps, points)
    assert grid[0] == 0
    assert grid[-1] == steps
    assert len(grid) == min(points, steps + 1)
    assert list(grid) == sorted(set(grid))


def test_coinciding_points_move_on() -> None:
    """Of 40 points in 10,000 steps, evenly spaced in the logarithm, the second would fall on 0.27."""
    assert evaluation_steps(240, 12) == (0, 1, 2, 3, 6, 11, 19, 32, 53, 88, 145, 240)
    assert evaluation_steps(10_000, 40)[:10] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert len(set(evaluation_steps(10_000, 40))) == 40


def test_snapshots_are_even_over_the_looks() -> None:
    looks = (0, 1, 2, 3, 6, 11, 19, 32, 53, 88, 145, 240)
    assert snapshot_steps(looks, 4) == (0, 6, 32, 240)
    assert snapshot_steps(looks, 2) == (0, 240)
    assert snapshot_steps(looks, 1) == (240,)
    assert snapshot_steps(looks, 0) == ()
    assert snapshot_steps(looks, 50) == looks
    assert snapshot_steps((0, 1), 4) == (0, 1)


def test_the_grid_is_even_in_the_logarithm() -> None:
    assert evaluation_steps(1023, 11) == (0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023)
    assert evaluation_steps(240, 2) == (0, 240)
    assert evaluation_steps(1, 10) == (0, 1)
    assert evaluation_steps(3, 50) == (0, 1, 2, 3)
