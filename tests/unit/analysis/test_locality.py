"""Temporal locality: by hand, both extremes, a loop over tokens, planted runs, and what shuffling documents leaves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import DOCUMENTS, LENGTH, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.locality import Locality, adjacent_pairs, locality, locality_rows
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.traces import read_trace
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1], 12)
DOCUMENT = np.repeat(np.arange(24), 150)


def places(document: np.ndarray) -> np.ndarray:
    """Each token's place in its document, of documents numbered from 0."""
    return np.concatenate([np.arange(length) for length in np.bincount(document)])


def measured(experts, document=DOCUMENT, domain=DOMAIN, window=1_000, **options) -> tuple[Locality, ...]:
    return locality(experts, document, domain, adjacent_pairs(document, places(document), window), **options)


def test_pairs_end_with_documents_windows_and_gaps() -> None:
    document, position = np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 4, 0, 1, 3])
    assert adjacent_pairs(document, position, 3).tolist() == [True, True, False, True, False, True, False]


def test_by_hand() -> None:
    """Domain 0: 0 0 1 | 2 2 2, domain 1: 0 1 0 | 1 1."""
    experts, document = np.array([0, 0, 1, 2, 2, 2, 0, 1, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    first, second, both = measured(experts, document, np.array([0, 0, 1, 1]))
    assert (first.share, second.share) == pytest.approx((3 / 4, 1 / 3))
    assert (first.chance, second.chance) == pytest.approx(((2 / 3 + 2) / 4, (2 / 3 + 1) / 3))
    assert (first.run_length, second.run_length) == pytest.approx((6 / 3, 5 / 4))
    assert (first.pairs, second.pairs, both.pairs) == (4, 3, 7)
    assert both.share == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert both.excess == pytest.approx(both.share - both.chance)
    assert both.run_length == pytest.approx((2 + 5 / 4) / 2)
    assert (first.documents, both.documents) == (2, 2)


def test_both_extremes() -> None:
    one = measured(np.full(len(DOCUMENT), 3))[-1]
    assert one.share == one.chance == one.interval.low == one.null_range.high == one.p == 1
    assert (one.excess, one.run_length, one.run_length_chance) == pytest.approx((0, 150, 150))
    turns = measured(np.arange(len(DOCUMENT)) % 8)[-1]
    assert turns.share == turns.interval.high == 0
    assert turns.p == turns.run_length == 1
    assert turns.chance == pytest.approx(1 / 8, abs=0.01)
    block = measured(places(DOCUMENT) // 50)[-1]
    assert block.share == pytest.approx(147 / 149)
    assert (block.run_length, block.p) == (pytest.approx(50), 1 / 200)


def test_a_loop_over_tokens_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    experts = rng.choice(8, p=rng.dirichlet(np.ones(8)), size=len(DOCUMENT))
    found = measured(experts, window=64, replicates=50)
    for number in (0, 1):
        same, pairs, runs, expected = 0, 0, 0, 0.0
        for document in np.flatnonzero(number == DOMAIN):
            own = experts[document == DOCUMENT].tolist()
            chance = sum(own.count(e) * (own.count(e) - 1) for e in range(8)) / (150 * 149)
            for place in range(150):
                if place % 64 == 0 or own[place] != own[place - 1]:
                    runs += 1
                if place % 64:
                    pairs, same, expected = pairs + 1, same + (own[place] == own[place - 1]), expected + chance
        assert found[number].share == pytest.approx(same / pairs, abs=1e-12)
        assert found[number].chance == pytest.approx(expected / pairs, abs=1e-12)
        assert found[number].run_length == pytest.approx(1_800 / runs, abs=1e-10)
        assert found[number].pairs == pairs


@pytest.mark.parametrize("stay", [0.3, 0.7])
def test_planted_runs_are_recovered(stay: float) -> None:
    """A token stays with the expert before it with that chance, else draws one of 8: 3,600 tokens."""
    rng = np.random.default_rng(1)
    fresh = rng.random(len(DOCUMENT)) >= stay
    fresh[0] = True
    experts = rng.integers(0, 8, len(DOCUMENT))[np.maximum.accumulate(np.where(fresh, np.arange(len(DOCUMENT)), 0))]
    found, truth = measured(experts)[-1], stay + (1 - stay) / 8
    assert found.share == pytest.approx(truth, rel=0.05)
    assert found.interval.low < truth < found.interval.high
    assert found.run_length == pytest.approx(1 / (1 - truth), rel=0.05)
    assert found.p == 1 / 200
    assert found.excess_interval.low > 0


def test_documents_of_one_topic_are_no_locality() -> None:
    """Every document prefers an expert of its own: neighbours agree often, and so would any two of its tokens."""
    rng = np.random.default_rng(2)
    own = rng.integers(0, 8, 24)[DOCUMENT]
    found = measured(np.where(rng.random(len(DOCUMENT)) < 0.6, own, rng.integers(0, 8, len(DOCUMENT))))[-1]
    assert found.share > 0.35
    assert found.chance == pytest.approx(found.share, abs=0.03)
    assert found.null_range.low < found.share < found.null_range.high
    assert found.p > 0.05


def test_wrong_input() -> None:
    experts, pairs = np.zeros(4, dtype=np.int64), np.ones(3, dtype=bool)
    with pytest.raises(AnalysisError, match="at least 2 in each domain"):
        locality(experts, np.zeros(4, dtype=np.int64), np.array([0]), pairs)
    with pytest.raises(AnalysisError, match="domain 1 has none"):
        measured(experts, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    with pytest.raises(AnalysisError, match="at least 1 place; got 0"):
        adjacent_pairs(experts, experts, 0)


def test_rows(tmp_path: Path) -> None:
    arm = next(arm for arm in quickstart_like().arms if arm.name == "top2")
    arm = replace(arm, baseline=None, changes={})
    (run,) = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), steps=4, looks=(0, 4)))).runs
    trace = read_trace(run, 4)
    rows = list(locality_rows(run, trace))
    assert [(row.layer, row.domain) for row in rows] == [
        (layer, domain) for layer in (2, 3) for domain in ("code", "math", "prose", "all")
    ]
    assert rows[0].pairs == DOCUMENTS * (LENGTH - 1)
    again = measured(trace.layers[1].experts[:, 0], trace.document, trace.domain)
    assert (rows[5].share, rows[5].excess_low, rows[5].p) == (again[1].share, again[1].excess_interval.low, again[1].p)
    shifted = replace(trace, position=np.tile(np.arange(LENGTH), 3 * DOCUMENTS) + 40)
    halves = list(locality_rows(run, shifted, window=LENGTH))
    assert halves[0].pairs == DOCUMENTS * (LENGTH - 2)
    assert list(locality_rows(run, replace(trace, domain=np.arange(len(trace.domain)).clip(0, 1)))) == []
