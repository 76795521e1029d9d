"""Co-activation: all pairs of a set, by hand and by loops, and the chance level of choices without repetition."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.coactivation import coactivation, coactivation_rows, independent_pairs, pair_counts
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.traces import read_trace
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1], 12)
DOCUMENT = np.repeat(np.arange(24), 100)


def drawn(slots: int, odds: np.ndarray, seed: int = 0) -> np.ndarray:
    """Sets by independent choices of which exactly `slots` were made, each set by its own probability."""
    rng, every = np.random.default_rng(seed), list(combinations(range(len(odds)), slots))
    weights = np.array([np.prod(odds[list(chosen)]) for chosen in every])
    picked = rng.choice(len(every), size=len(DOCUMENT), p=weights / weights.sum())
    return rng.permuted(np.array(every)[picked], axis=1)


def test_every_pair_of_three_slots_counts() -> None:
    """Only neighbours in the list would leave out the pair of the first and the last slot."""
    counts = pair_counts(np.array([[4, 0, 2]]), np.array([0]), 1, 5)[0]
    expected = np.zeros((5, 5), dtype=int)
    expected[np.ix_([0, 2, 4], [0, 2, 4])] = 1
    assert counts.tolist() == expected.tolist()


def test_by_hand() -> None:
    """Tokens {0,1}, {0,2} | {0,1}, {0,1} in one domain, {1,2}, {1,2} | {1,2}, {0,1} in the other."""
    experts = np.array([[0, 1], [2, 0], [1, 0], [0, 1], [1, 2], [2, 1], [1, 2], [1, 0]])
    found = coactivation(experts, np.repeat(np.arange(4), 2), np.array([0, 0, 1, 1]), 4)
    used, both = np.array([5, 7, 4]) / 8, {(0, 1): 4 / 8, (0, 2): 1 / 8, (1, 2): 3 / 8}
    for (i, j), together in both.items():
        assert found.together[i, j] == found.together[j, i] == 8 * together
        assert found.share[i, j] == pytest.approx(together / used[i])
        assert found.share[j, i] == pytest.approx(together / used[j])
        assert (found.lift[i, j], found.lift[j, i]) == pytest.approx((together / used[i] / used[j],) * 2)
    assert np.isnan(np.diagonal(found.share)).all()
    assert np.isnan(found.lift[3]).all()
    assert np.nansum(found.share, axis=1)[:3] == pytest.approx(1)


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_loops_over_tokens_give_the_same(slots: int) -> None:
    """Domains of unlike sizes weigh alike."""
    experts = drawn(slots, np.array([3, 1, 1, 2, 0.5, 1, 1, 0.3]), seed=slots)
    kept = (DOMAIN[DOCUMENT] == 0) | (np.arange(len(DOCUMENT)) % 3 == 0)
    experts, document = experts[kept], DOCUMENT[kept]
    found = coactivation(experts, document, DOMAIN, 8, replicates=50)
    both = np.zeros((2, 8, 8))
    for chosen, place in zip(experts.tolist(), document, strict=True):
        for i in chosen:
            for j in chosen:
                both[DOMAIN[place], i, j] += 1
    both = (both / np.bincount(DOMAIN[document])[:, None, None]).mean(0)
    used, apart = np.diagonal(both), ~np.eye(8, dtype=bool)
    assert found.share[apart] == pytest.approx((both / used[:, None])[apart], abs=1e-10)
    assert found.lift[apart] == pytest.approx((both / used[:, None] / used)[apart], abs=1e-10)
    assert np.nansum(found.share, axis=1) == pytest.approx(slots - 1)


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_chance_is_that_of_every_set_by_its_probability(slots: int) -> None:
    odds = np.array([3, 1, 1, 2, 0.5, 0.1])
    probability = {s: np.prod(odds[list(s)]) for s in combinations(range(6), slots)}
    total, both = sum(probability.values()), np.zeros((6, 6))
    for chosen, weight in probability.items():
        both[np.ix_(chosen, chosen)] += weight / total
    assert independent_pairs(np.diagonal(both).copy(), slots) == pytest.approx(both, abs=1e-10)


def test_chance_of_even_loads_and_of_an_expert_that_is_always_there() -> None:
    even = independent_pairs(np.full(8, 2 / 8), 2)
    assert even[0, 1] / (1 / 16) == pytest.approx(8 / (2 * 7))
    always = independent_pairs(np.array([1, 0.5, 0.3, 0.2, 0]), 2)
    assert always[0].tolist() == pytest.approx([1, 0.5, 0.3, 0.2, 0])
    assert always[1:, 1:][~np.eye(4, dtype=bool)] == pytest.approx(0, abs=1e-12)
    everyone = independent_pairs(np.ones(3), 3)
    assert everyone == pytest.approx(np.ones((3, 3)))
    assert np.isfinite(independent_pairs(np.array([1 - 1e-9, 0.5, 0.3, 0.2 + 1e-9, 0]), 2)).all()


def test_both_extremes() -> None:
    """Experts that are always together, and never."""
    experts = np.where(np.arange(len(DOCUMENT))[:, None] % 2, [0, 1], [2, 3])
    found = coactivation(experts, DOCUMENT, DOMAIN, 4)
    assert found.share[0, 1] == found.share_low[0, 1] == found.share_high[0, 1] == 1
    assert found.share[0, 2] == found.lift[0, 2] == found.share_high[0, 2] == 0
    assert found.lift[0, 1] == pytest.approx(2)
    assert found.lift_chance[0, 1] == pytest.approx(4 / 6)


def test_independent_choices_are_at_chance_and_planted_pairs_above_it() -> None:
    """Then a fifth of the tokens goes to experts 0 and 1 together: P_01 = 1/5 + 4/5 · 2/56, P_0 = 1/5 + 4/5 · 1/4."""
    experts = drawn(2, np.array([3, 1, 1, 2, 0.5, 1, 1, 0.3]))
    found = coactivation(experts, DOCUMENT, DOMAIN, 8)
    inside = (found.lift_low <= found.lift_chance) & (found.lift_chance <= found.lift_high)
    apart = ~np.eye(8, dtype=bool)
    assert inside[apart].mean() > 0.8
    even = drawn(2, np.ones(8), seed=1)
    even[np.random.default_rng(2).random(len(even)) < 0.2] = [1, 0]
    planted = coactivation(even, DOCUMENT, DOMAIN, 8)
    both, used = 0.2 + 0.8 * 2 / 56, 0.2 + 0.8 / 4
    assert planted.share[0, 1] == pytest.approx(both / used, rel=0.05)
    assert planted.lift[1, 0] == pytest.approx(both / used**2, rel=0.05)
    assert planted.lift_chance[0, 1] < planted.lift_low[0, 1] < both / used**2 < planted.lift_high[0, 1]


def test_wrong_input() -> None:
    experts = np.array([[0, 1], [1, 2]])
    with pytest.raises(AnalysisError, match="at least 2 experts a token; got 1"):
        coactivation(experts[:, :1], np.array([0, 1]), np.array([0, 0]), 3)
    with pytest.raises(AnalysisError, match="at least 2 in each domain"):
        coactivation(experts, np.array([0, 0]), np.array([0]), 3)
    with pytest.raises(AnalysisError, match="domain 1 has none"):
        coactivation(experts, np.array([0, 1]), np.array([0, 0, 1, 1]), 3)


def test_rows(tmp_path: Path) -> None:
    arms = [replace(arm, baseline=None, changes={}) for arm in quickstart_like().arms if arm.name in ("moe", "top2")]
    suite = read_suite(write_suite(tmp_path, PlantedSuite(arms=arms, steps=4, looks=(0, 4))))
    (one,), (two,) = suite.runs_of("moe"), suite.runs_of("top2")
    assert list(coactivation_rows(one, read_trace(one, 4))) == []
    trace = read_trace(two, 4)
    rows = list(coactivation_rows(two, trace))
    assert len(rows) == 2 * 8 * 7
    found = coactivation(trace.layers[1].experts, trace.document, trace.domain, 8)
    row = next(row for row in rows if (row.layer, row.expert, row.other) == (3, 5, 2))
    assert (row.share, row.lift_high, row.together) == (found.share[5, 2], found.lift_high[5, 2], found.together[5, 2])
    assert row.share_chance == pytest.approx(1 / 7, abs=0.03)
    assert list(coactivation_rows(two, replace(trace, domain=np.arange(len(trace.domain)).clip(0, 1)))) == []
