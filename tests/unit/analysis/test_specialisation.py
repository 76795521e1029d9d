"""Verdicts on planted truths: nothing to find, what a fresh gate finds too, and what was learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import DOCUMENTS, LENGTH, PlantedArm, PlantedSuite, quickstart_like, spread, write_suite

from moe_emergence.analysis.information import domain_information
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.specialisation import information_rows, verdict_rows, westfall_young
from moe_emergence.analysis.statistics import null_p_value
from moe_emergence.analysis.tables import Tables, make_tables
from moe_emergence.analysis.traces import read_trace
from moe_emergence.config import MoEConfig

SPECIALISTS = np.stack([spread(8, {0: 0.4, 1: 0.3}), spread(8, {2: 0.5}), spread(8, {4: 0.35, 5: 0.2})])


def tables_of(folder: Path, *arms: PlantedArm) -> Tables:
    return make_tables(read_suite(write_suite(folder, PlantedSuite(arms=arms, steps=4, looks=(0, 2, 4)))))


def planted(shares: np.ndarray, fresh: float) -> PlantedArm:
    return PlantedArm(name="only", moe=MoEConfig(), shares={2: shares, 3: shares}, fresh=fresh)


def test_labels_that_mean_nothing_are_not_above_the_permutation_null(tmp_path: Path) -> None:
    """Every domain has the same shares, however uneven: shuffling documents over domains changes nothing."""
    tables = tables_of(tmp_path, planted(np.tile(spread(8, {1: 0.4, 5: 0.3}), (3, 1)), fresh=0.0))
    for row in tables.verdicts:
        assert row.verdict == "no evidence of learned specialisation"
        assert not row.above_permutation
    last = [row for row in tables.information if row.step == 4]
    assert all(row.null_low <= row.plug_in <= row.null_high for row in last)


def test_a_frozen_random_router_is_above_the_permutation_null_and_not_above_fresh_gates(tmp_path: Path) -> None:
    """What it separates, any gate on these hidden states does."""
    tables = tables_of(tmp_path, planted(0.6 * SPECIALISTS + 0.4 / 8, fresh=1.4))
    for row in tables.verdicts:
        assert row.above_permutation
        assert not row.above_fresh
        assert row.verdict == "no evidence of learned specialisation"
        assert row.information < min(row.fresh_end_high, row.fresh_start_high)


def test_planted_domain_information_is_found(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, planted(SPECIALISTS, fresh=0.3))
    for row in tables.verdicts:
        assert row.above_permutation
        assert row.above_fresh
        assert row.verdict == "learned domain information, experts not tested", "the planted run has no checkpoint"
        assert row.information > max(row.fresh_end_high, row.fresh_start_high)


@pytest.mark.parametrize("router", ["frozen", "hash", "round_robin"])
def test_a_router_that_does_not_learn_has_learned_nothing_whatever_it_separates(tmp_path: Path, router: str) -> None:
    arm = planted(SPECIALISTS, fresh=0.3)
    assert arm.moe is not None
    tables = tables_of(tmp_path, replace(arm, moe=replace(arm.moe, router=router)))
    for row in tables.verdicts:
        assert row.above_permutation
        assert row.above_fresh
        assert row.verdict == "no evidence of learned specialisation"


def test_beating_the_gates_of_one_end_is_not_enough(tmp_path: Path) -> None:
    """Fresh gates of the first step that show more: the hidden states gave it away before anything was learned."""
    folder = write_suite(tmp_path, PlantedSuite(arms=(planted(SPECIALISTS, fresh=0.3),), steps=4, looks=(0, 4)))
    before = folder / "only/seed-42/traces/step-000000.safetensors"
    write_suite(tmp_path / "other", PlantedSuite(arms=(planted(SPECIALISTS, fresh=1.6),), steps=4, looks=(0, 4)))
    before.write_bytes((tmp_path / "other/only/seed-42/traces/step-000000.safetensors").read_bytes())
    for row in make_tables(read_suite(folder)).verdicts:
        assert row.p_fresh_end < 0.05 < row.p_fresh_start
        assert row.verdict == "no evidence of learned specialisation"


def test_information_is_that_of_the_trace(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 2, 4))))
    rows = information_rows(suite)
    (top2,) = suite.runs_of("top2")
    trace = read_trace(top2, 4)
    mine = [row for row in rows if (row.arm, row.step, row.layer) == ("top2", 4, 2)]
    assert [row.counted for row in mine] == ["slots", "first choice"]
    counts = (trace.layers[0].slots, trace.layers[0].first_choice)
    for row, own in zip(mine, counts, strict=True):
        assert row.plug_in == pytest.approx(float(domain_information(own, trace.domain)), abs=1e-12)
        assert row.maximum == pytest.approx(np.log2(3))
        assert row.estimate == pytest.approx(row.plug_in - row.null_mean)
        assert row.estimate_share == pytest.approx(row.estimate / row.maximum)
        assert (row.documents, row.tokens) == (3 * DOCUMENTS, 3 * DOCUMENTS * LENGTH)
    assert (mine[0].fresh_mean, mine[0].p_fresh) == (None, None), "fresh gates have a first choice only"
    assert mine[1].p_fresh is not None
    assert {row.arm for row in rows} == {"moe", "no_lb", "top2", "moe_blocks"}
    assert all(row.fresh_mean is None for row in rows if row.step == 2)
    assert len(rows) == 3 * 2 * 5  # traces × layers × (one way each, and two of top2)


def test_one_domain_tells_nothing_apart(tmp_path: Path) -> None:
    arm = replace(planted(SPECIALISTS[:1], fresh=0.3))
    suite = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), domains=("code",), steps=4, looks=(0, 4))))
    assert information_rows(suite) == verdict_rows(suite, ()) == ()


def test_westfall_and_young_by_hand() -> None:
    null = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])  # mean .5 and 1, deviation .5 and 1
    assert westfall_young(np.array([1.5, 1.0]), null).tolist() == [1 / 5, 4 / 5]  # 2 is reached by no draw, 0 by 3
    assert westfall_young(np.array([1.0, 3.0]), null).tolist() == [4 / 5, 1 / 5]  # 1 is reached by 3 draws
    one = np.array([[0.1], [0.5], [0.3]])
    assert westfall_young(np.array([0.4]), one).tolist() == [null_p_value(0.4, one[:, 0])]
    assert westfall_young(np.array([0.0]), np.zeros((9, 1))).tolist() == [1.0]


def test_westfall_and_young_keep_the_chance_of_any_false_one() -> None:
    """Of four layers without anything to find, one or more are found in 3–7 % of 2,000 experiments."""
    random = np.random.default_rng(0)
    draws = random.normal(size=(2000, 200, 4)) * [1, 2, 3, 4]
    found = np.mean([(westfall_young(draw[0], draw[1:]) <= 0.05).any() for draw in draws])
    assert 0.03 <= found <= 0.07
