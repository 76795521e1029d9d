"""Effects and their intervals, by hand and where they are known."""

import numpy as np
import pytest

from moe_emergence.analysis.causal.effects import (
    Origin,
    domain_means,
    domain_ratios,
    dose_rows,
    knockout_rows,
    single,
)
from moe_emergence.analysis.information import loss_difference


def origin(domain: list[int], predicted: list[int] | int = 10, domains: int = 2) -> Origin:
    return Origin(
        arm="moe",
        seed=1,
        step=7,
        domains=tuple("abc"[:domains]),
        domain=np.array(domain),
        predicted=np.broadcast_to(predicted, len(domain)).astype(np.int64),
    )


def test_a_matrix_worked_by_hand() -> None:
    """One layer of 2 experts, domains a (10 and 30 tokens) and b (20 and 20)."""
    here = origin([0, 0, 1, 1], [10, 30, 20, 20])
    change = np.array([[[[4.0, 8.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0]]]])
    affected = np.array([[[4, 2, 0, 0], [0, 0, 5, 5]]])
    rows = list(knockout_rows(here, (3,), ("zero",), change, affected))
    assert [(r.expert, r.domain) for r in rows] == [(e, d) for e in (0, 1) for d in ("a", "b", None)]
    assert [r.effect for r in rows] == pytest.approx([0.3, 0, 0.15, 0, -0.05, -0.025])
    assert [r.per_affected for r in rows] == [2.0, None, None, None, -0.2, None]
    assert [r.affected for r in rows] == [6, 0, 6, 0, 10, 10]
    assert [r.affected_share for r in rows] == pytest.approx([0.15, 0, 0.075, 0, 0.25, 0.125])
    assert {(r.arm, r.seed, r.step, r.layer, r.intervention, r.documents) for r in rows} == {
        ("moe", 1, 7, 3, "zero", 2)
    }
    b = rows[4]  # both documents alike: no spread
    assert (b.low, b.high, b.p) == pytest.approx((-0.05, -0.05, 0))
    assert (b.per_affected_low, b.per_affected_high) == pytest.approx((-0.2, -0.2))
    assert (rows[1].low, rows[1].high, rows[1].p) == (0, 0, 1)


def test_an_interval_per_token_needs_two_documents() -> None:
    change, affected = np.array([[[[4.0, 0, 1, 1]]]]), np.array([[[2, 0, 1, 1]]])
    a, b, macro = knockout_rows(origin([0, 0, 1, 1]), (0,), ("zero",), change, affected)
    assert (a.per_affected, a.per_affected_low, a.per_affected_high) == (2, None, None)
    assert (b.per_affected, b.per_affected_low) == pytest.approx((1, 1))
    assert (macro.per_affected, macro.per_affected_low) == (1.5, None)


def test_total_effects_are_those_of_paired_losses() -> None:
    rng = np.random.default_rng(0)
    domain = np.repeat([0, 1, 2], [5, 9, 7])
    here = origin(domain.tolist(), rng.integers(3, 99, 21), domains=3)
    change = rng.normal(size=(1, 1, 2, 21))
    rows = list(knockout_rows(here, (0,), ("zero",), change, np.ones((1, 2, 21), dtype=np.int64)))
    for expert in range(2):
        known = loss_difference(change[0, 0, expert], np.zeros(21), here.predicted, domain)
        for row, difference in zip(rows[4 * expert : 4 * expert + 3], known.domains, strict=True):
            assert (row.effect, row.low, row.high, row.p) == pytest.approx(
                (difference.value, difference.interval.low, difference.interval.high, difference.p), abs=1e-12
            )
        macro = rows[4 * expert + 3]
        assert (macro.effect, macro.low, macro.p) == pytest.approx(
            (known.macro.value, known.macro.interval.low, known.macro.p), abs=1e-12
        )


def test_linearised_ratios_spread_as_ratios_do() -> None:
    rng = np.random.default_rng(1)
    here = origin([0] * 40 + [1] * 40)
    counts = rng.integers(5, 15, (1, 80))
    sums = counts * 0.5 + rng.normal(size=(1, 80))
    linear = domain_ratios(here, sums, counts)
    exact = domain_means(
        Origin(arm="", seed=0, step=0, domains=("a", "b"), domain=here.domain, predicted=counts[0]), sums
    )
    assert linear.observed == pytest.approx(exact.observed, abs=1e-12)
    assert linear.standard_error == pytest.approx(exact.standard_error, rel=0.05)
    assert (linear.standard_error > exact.standard_error).all()


def test_an_impossible_intervention_has_no_row() -> None:
    change = np.zeros((2, 1, 2, 4))
    change[1] = np.nan
    rows = list(knockout_rows(origin([0, 0, 1, 1]), (0,), ("zero", "next"), change, np.ones((1, 2, 4), dtype=np.int64)))
    assert {row.intervention for row in rows} == {"zero"}


def test_doses_by_hand() -> None:
    dose = np.array([[[2.0, 2.0, 4.0, 4.0]], [[0.0, 0.0, 0.0, 0.0]]])
    rows = list(dose_rows(origin([0, 0, 1, 1]), (2,), (0.0, 1.0), dose))
    assert [(r.dose, r.domain, r.effect) for r in rows] == [
        (0.0, "a", pytest.approx(0.2)),
        (0.0, "b", pytest.approx(0.4)),
        (0.0, None, pytest.approx(0.3)),
        (1.0, "a", 0),
        (1.0, "b", 0),
        (1.0, None, 0),
    ]
    assert [(r.low, r.high) for r in rows] == [pytest.approx((r.effect, r.effect)) for r in rows]


def test_one_of_an_array_is_itself() -> None:
    sums = np.random.default_rng(2).normal(size=(3, 5, 8))
    here = origin([0, 0, 0, 0, 1, 1, 1, 1])
    alone = domain_means(here, sums[1, 4])
    one = single(domain_means(here, sums), (1, 4, 2))
    assert one.observed == pytest.approx(alone.observed[2], abs=1e-15)
    assert one.replicates == pytest.approx(alone.replicates[:, 2], abs=1e-14)
