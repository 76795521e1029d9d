"""The oracle's gain and each arm's share of it: by hand, paired by document, and where there is none to share."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import PlantedArm, PlantedSuite, spread, write_suite

from moe_emergence.analysis.comparisons import loss_difference_rows
from moe_emergence.analysis.oracle import oracle_arm, oracle_gain_rows, ratio
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.statistics import Bootstrap
from moe_emergence.config import MoEConfig

SHARES = {2: np.stack([spread(8, {0: 0.4}), spread(8, {2: 0.5}), spread(8, {4: 0.4})])}


def arm(name: str, loss: float, router: str = "learned") -> PlantedArm:
    return PlantedArm(name=name, moe=MoEConfig(router=router), shares=SHARES, loss=loss)


def written(folder: Path, *arms: PlantedArm, seeds: tuple[int, ...] = (42,)) -> Suite:
    planted = PlantedSuite(arms=(PlantedArm(name="dense", loss=3.6), *arms), seeds=seeds, steps=4, looks=(0, 4))
    return read_suite(write_suite(folder, planted))


def test_shares_by_hand(tmp_path: Path) -> None:
    suite = written(tmp_path, arm("moe", 3.56), arm("oracle", 3.5, "domain"), arm("worse", 3.62), seeds=(42, 43))
    rows = {row.arm: row for row in oracle_gain_rows(suite)}
    assert list(rows) == ["moe", "worse"]
    for name, gain in (("moe", 0.04), ("worse", -0.02)):
        row = rows[name]
        assert (row.oracle, row.seeds, row.documents) == ("oracle", 2, 12)
        assert (row.oracle_gain, row.gain) == (pytest.approx(0.1), pytest.approx(gain))
        assert row.share == pytest.approx(gain / 0.1)
        assert row.oracle_low < row.oracle_gain < row.oracle_high
        assert row.share_low is not None
        assert row.share_low < row.share < row.share_high
        other = next(r for r in loss_difference_rows(suite) if (r.arm, r.domain) == (name, None))
        assert (row.gain, row.low, row.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert rows["moe"].share_low > 0 > rows["worse"].share_high


@pytest.mark.parametrize("loss", [3.6, 3.65])
def test_an_oracle_without_gain_has_nothing_to_share(loss: float, tmp_path: Path) -> None:
    (row,) = oracle_gain_rows(written(tmp_path, arm("moe", 3.56), arm("oracle", loss, "domain")))
    assert row.oracle_low <= 0
    assert (row.share, row.share_low, row.share_high) == (None, None, None)
    assert row.gain == pytest.approx(0.04)


def test_only_seeds_that_all_three_have_are_counted(tmp_path: Path) -> None:
    written(tmp_path, arm("moe", 3.56), arm("oracle", 3.5, "domain"), seeds=(42, 43, 44))
    for gone in ("dense/seed-42", "oracle/seed-44"):
        shutil.rmtree(tmp_path / gone)
    (row,) = oracle_gain_rows(read_suite(tmp_path))
    assert row.seeds == 1
    shutil.rmtree(tmp_path / "moe/seed-43")
    assert oracle_gain_rows(read_suite(tmp_path)) == ()


def test_without_an_oracle_or_a_dense_arm_there_is_no_scale(tmp_path: Path) -> None:
    suite = written(tmp_path / "a", arm("moe", 3.56), arm("oracle", 3.5, "hash"))
    assert oracle_arm(suite) is None, "found by what it does, not by its name"
    assert oracle_gain_rows(suite) == ()
    suite = written(tmp_path / "b", arm("moe", 3.56), arm("by_domain", 3.5, "domain"))
    assert oracle_arm(suite) == "by_domain"
    assert oracle_gain_rows(replace(suite, runs=tuple(run for run in suite.runs if run.config.moe))) == ()


def test_fieller_s_ends_are_where_the_difference_is_just_not_shown() -> None:
    random = np.random.default_rng(0)
    replicates = np.array([0.04, 0.1]) + random.normal(size=(4000, 2)) @ np.array([[0.01, 0.004], [0.0, 0.02]])
    first, second = (Bootstrap(np.array(v), replicates[:, place], 20) for place, v in enumerate((0.04, 0.1)))
    found = ratio(first, second)
    assert found.value == pytest.approx(0.4)
    assert found.interval.low < 0.4 < found.interval.high
    for end in (found.interval.low, found.interval.high):
        apart = Bootstrap(
            first.observed - end * second.observed, first.replicates - end * second.replicates, 20
        ).difference()
        assert apart.p == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("simulations", [400])
def test_fieller_s_interval_covers_the_ratio(simulations: int) -> None:
    """Of paired gains of 40 documents, in 95 % of experiments; replicates of a mean are its bootstrap's."""
    random, held = np.random.default_rng(1), 0
    for _ in range(simulations):
        documents = random.normal(size=(40, 2)) @ np.array([[0.02, 0.02], [0.0, 0.03]]) + [0.016, 0.04]
        weights = random.multinomial(40, np.full(40, 1 / 40), size=500)
        drawn = weights @ documents / 40
        found = ratio(*(Bootstrap(documents[:, place].mean(), drawn[:, place], 40) for place in (0, 1)))
        held += found.interval.low <= 0.4 <= found.interval.high
    assert abs(held / simulations - 0.95) < 0.04
