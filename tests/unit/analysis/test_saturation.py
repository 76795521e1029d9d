"""Router saturation: by hand, both extremes, a loop over sets, its chance levels, and traces of other tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.saturation import overlap, saturation_rows
from moe_emergence.analysis.traces import read_trace
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], 10)
DOCUMENT = np.repeat(np.arange(30), 60)


def sets(rng: np.random.Generator, slots: int, shares: np.ndarray, tokens: int = len(DOCUMENT)) -> np.ndarray:
    """Experts drawn without repetition by their shares."""
    keys = np.log(shares) + rng.gumbel(size=(tokens, len(shares)))
    return np.argsort(-keys, axis=1)[:, :slots]


def test_by_hand() -> None:
    """Documents 0 and 1 of domain 0 keep 1 of 4 and 2 of 2 slots, 2 and 3 of domain 1 none of 4 and none of 2."""
    one = np.array([[0, 1], [2, 3], [0, 1], [0, 1], [0, 1], [0, 1]])
    two = np.array([[1, 2], [0, 1], [1, 0], [2, 3], [3, 2], [2, 3]])
    found = overlap(one, two, np.array([0, 0, 1, 2, 2, 3]), np.array([0, 0, 1, 1]), 4)
    assert found.value == pytest.approx((3 / 6 + 0) / 2)
    assert found.uniform == 0.5
    # of each domain: (2/3, 2/3, 1/3, 1/3) and (1, 1, 0, 0) at first, then (2/3, 1, 1/3, 0) and (0, 0, 1, 1)
    first, second = np.array([5, 5, 1, 1]) / 6, np.array([2, 3, 4, 3]) / 6
    assert found.by_loads == pytest.approx(first @ second / 2)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_sets_are_compared_whatever_their_order(slots: int) -> None:
    rng = np.random.default_rng(slots)
    one, two = (sets(rng, slots, rng.dirichlet(np.ones(8))) for _ in range(2))
    found = overlap(one, two, DOCUMENT, DOMAIN, 8)
    each = np.array([len(set(a) & set(b)) / slots for a, b in zip(one.tolist(), two.tolist(), strict=True)])
    of_domain = [each[DOMAIN[DOCUMENT] == number].mean() for number in range(3)]
    assert found.value == pytest.approx(np.mean(of_domain), abs=1e-12)
    assert found.interval.low < found.value < found.interval.high


def test_both_extremes_and_no_spread_there() -> None:
    rng = np.random.default_rng(0)
    one = sets(rng, 2, np.full(8, 1 / 8))
    same, other = overlap(one, one[:, ::-1], DOCUMENT, DOMAIN, 8), overlap(one % 4, one % 4 + 4, DOCUMENT, DOMAIN, 8)
    assert same.value == same.interval.low == same.interval.high == 1
    assert other.value == other.interval.low == other.interval.high == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_independent_sets_overlap_as_chance_says(slots: int) -> None:
    """Uneven loads: far above k/E, at what the loads alone say."""
    rng, shares = np.random.default_rng(1), np.array([0.5, 0.2, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03])
    found = overlap(sets(rng, slots, shares), sets(rng, slots, shares), DOCUMENT, DOMAIN, 8)
    assert found.by_loads > 1.5 * found.uniform
    assert found.value == pytest.approx(found.by_loads, rel=0.08)
    assert found.interval.low < found.by_loads < found.interval.high


@pytest.mark.parametrize("kept", [0.2, 0.7])
def test_a_planted_share_is_recovered(kept: float) -> None:
    """That share of the tokens keeps its expert, the others draw one anew: 1,800 tokens."""
    rng, even = np.random.default_rng(2), np.full(8, 1 / 8)
    one, other = sets(rng, 1, even), sets(rng, 1, even)
    found = overlap(one, np.where(rng.random((len(one), 1)) < kept, one, other), DOCUMENT, DOMAIN, 8)
    truth = kept + (1 - kept) / 8
    assert found.value == pytest.approx(truth, rel=0.05)
    assert found.interval.low < truth < found.interval.high


def test_wrong_input() -> None:
    one = np.zeros((4, 1), dtype=np.int64)
    with pytest.raises(AnalysisError, match="at least 2"):
        overlap(one, one, np.zeros(4, dtype=np.int64), np.array([0]), 8)
    with pytest.raises(AnalysisError, match="domain 1 has none"):
        overlap(one, one, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 8)
    with pytest.raises(AnalysisError, match=r"got \(4, 1\) and \(4, 2\)"):
        overlap(one, np.zeros((4, 2), dtype=np.int64), np.array([0, 0, 1, 1]), np.array([0, 0]), 8)


def test_rows_and_traces_of_other_tokens(tmp_path: Path) -> None:
    arm = next(arm for arm in quickstart_like().arms if arm.name == "top2")
    arm = replace(arm, baseline=None, changes={})
    (run,) = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), steps=4, looks=(0, 2, 4)))).runs
    before, last = read_trace(run, 2), read_trace(run, 4)
    rows = list(saturation_rows(run, before, last, "final"))
    assert [(row.layer, row.counted) for row in rows] == [
        (layer, counted) for layer in (2, 3) for counted in ("slots", "first choice")
    ]
    assert {(row.step, row.against, row.against_step) for row in rows} == {(2, "final", 4)}
    assert [row.chance for row in rows[:2]] == [2 / 8, 1 / 8]
    again = overlap(before.layers[1].experts, last.layers[1].experts, last.document, last.domain, 8)
    assert rows[2].overlap == again.value
    assert all(row.overlap == pytest.approx(row.chance_loads, abs=0.03) for row in rows[2:]), "drawn independently"
    other_tokens = replace(last, token_id=last.token_id + 1)
    with pytest.raises(AnalysisError, match="traces of steps 2 and 4 are of different probe tokens"):
        list(saturation_rows(run, before, other_tokens, "final"))
    with pytest.raises(AnalysisError, match=r"\[\(2, 2, 8\), \(3, 2, 8\)\] and \[\(2, 2, 8\)\]"):
        list(saturation_rows(run, before, replace(last, layers=last.layers[:1]), "final"))
    single = replace(before, domain=np.arange(len(before.domain)).clip(0, 1)), replace(last, domain=last.domain)
    assert list(saturation_rows(run, *single, "final")) == []
