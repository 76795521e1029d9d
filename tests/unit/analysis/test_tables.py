"""Tables on planted counts and losses, worked by hand, and at both extremes."""

import csv
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import PlantedArm, PlantedSuite, quickstart_like, spread, write_suite

from moe_emergence.analysis.evolution import CURVE_POINTS
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import Tables, csv_text, make_tables, write_csv
from moe_emergence.config import MoEConfig
from moe_emergence.errors import AnalysisError

pytestmark = pytest.mark.usefixtures("without_run_measures")

BY_HAND = np.array([[0.7, 0.1, 0.2, 0.0], [0.3, 0.1, 0.6, 0.0]])  # load .5 .1 .4 0
UNIFORM = np.full((2, 4), 0.25)
COLLAPSED = np.array([[0.0, 0.0, 1.0, 0.0]] * 2)


def tables_of(folder: Path, shares: np.ndarray, top_k: int = 1, **changes: object) -> Tables:
    arm = PlantedArm(
        name="only", moe=MoEConfig(num_experts=shares.shape[1], top_k=top_k), shares={1: shares}, entropy_share=0.25
    )
    domains = tuple(f"domain {number}" for number in range(len(shares)))
    suite = PlantedSuite(arms=(arm,), domains=domains, steps=4, looks=(0, 4), tokens=1000, **changes)  # type: ignore[arg-type]
    return make_tables(read_suite(write_suite(folder / "suite", suite)))


def test_balance_by_hand(tmp_path: Path) -> None:
    (row,) = tables_of(tmp_path, BY_HAND).routing
    assert (row.arm, row.seed, row.step, row.layer, row.experts, row.top_k) == ("only", 42, 4, 1, 4, 1)
    assert row.assignments == 2000
    assert (row.busiest_expert, row.max_load) == (0, pytest.approx(0.5, abs=1e-12))
    assert row.max_violation == pytest.approx(4 * 0.5 - 1, abs=1e-12)
    assert row.excess == pytest.approx((0.5 - 0.25) / 0.75, abs=1e-12)
    assert (row.hot, row.dead) == ((), (3,))
    entropy = -(0.5 * math.log(0.5) + 0.1 * math.log(0.1) + 0.4 * math.log(0.4))
    assert row.entropy_of_load == pytest.approx(entropy, abs=1e-12)
    assert row.effective_experts == pytest.approx(math.exp(entropy), abs=1e-12)
    assert row.entropy_of_load_share == pytest.approx(entropy / math.log(4), abs=1e-12)
    assert row.entropy_per_token == pytest.approx(0.25 * math.log(4), abs=1e-12)
    assert row.entropy_per_token_share == pytest.approx(0.25, abs=1e-12)


def test_dropped_tokens_by_hand(tmp_path: Path) -> None:
    """Loads .5 .1 .4 0 against rooms of 1/4, 5/16 and 1/2 a head."""
    (row,) = tables_of(tmp_path, BY_HAND).routing
    assert dict(row.dropped) == pytest.approx({"1.0": 0.25 + 0.15, "1.25": 0.1875 + 0.0875, "2.0": 0.0}, abs=1e-12)
    (one,) = tables_of(tmp_path / "one", COLLAPSED).routing
    assert dict(one.dropped) == pytest.approx({"1.0": 0.75, "1.25": 0.6875, "2.0": 0.5}, abs=1e-12)


def test_several_experts_a_token_are_counted_in_two_ways(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, BY_HAND, top_k=2)
    (slots,), (first,) = tables.routing, tables.first_choice_routing
    assert (slots.counted, slots.top_k, slots.assignments) == ("slots", 2, 4000)
    assert (first.counted, first.top_k, first.assignments) == ("first choice", 1, 2000)
    assert slots.excess == pytest.approx((0.5 - 0.25) / 0.25)
    assert first.excess == pytest.approx((0.5 - 0.25) / 0.75)
    single = tables_of(tmp_path / "single", BY_HAND)
    assert single.routing[0].counted == "first choice"
    assert single.first_choice_routing == single.first_choice_shares == ()


def test_balance_at_both_extremes(tmp_path: Path) -> None:
    (even,) = tables_of(tmp_path / "even", UNIFORM).routing
    assert (even.max_violation, even.excess, even.hot, even.dead) == (0, 0, (), ())
    assert even.effective_experts == pytest.approx(4)
    (one,) = tables_of(tmp_path / "one", COLLAPSED).routing
    assert (one.busiest_expert, one.max_load, one.max_violation, one.excess) == (2, 1, 3, 1)
    assert (one.hot, one.dead) == ((2,), (0, 1, 3))
    assert (one.effective_experts, one.entropy_of_load) == (1, 0)


def test_two_experts_that_take_every_token_are_collapsed_for_top_two(tmp_path: Path) -> None:
    (row,) = tables_of(tmp_path, np.array([[0.5, 0.0, 0.5, 0.0]] * 2), top_k=2).routing
    assert (row.excess, row.hot, row.dead) == (1, (0, 2), (1, 3))


def test_a_single_expert_has_no_share_of_its_maximal_entropy(tmp_path: Path) -> None:
    (row,) = tables_of(tmp_path, np.ones((2, 1))).routing
    assert (row.max_load, row.excess, row.entropy_per_token_share, row.entropy_of_load_share) == (1, 0, None, None)


def test_losses_an_arm_are_means_over_seeds_and_paired_differences(tmp_path: Path) -> None:
    planted = quickstart_like(seeds=(42, 44), steps=6, looks=(0, 6))
    tables = make_tables(read_suite(write_suite(tmp_path, planted)))
    arms = {row.arm: row for row in tables.arms}
    assert arms["moe"].lm_loss_macro == pytest.approx(3.606)  # 3.605 and 2 thousandths more
    assert arms["moe"].difference_to_dense == pytest.approx(3.605 - 3.62)
    assert arms["dense"].difference_to_dense == 0
    assert dict(arms["no_lb"].lm_loss) == pytest.approx({"code": 3.128, "math": 3.628, "prose": 4.128})
    assert arms["no_lb"].changes == "moe.balance_coef: 0.01 → 0.0"
    assert arms["moe"].changes == "moe.num_experts: none → 8; moe.top_k: none → 1"
    assert (arms["moe"].runs, arms["moe"].runs_planned) == (2, 2)
    assert arms["moe"].tokens_trained == 6 * 16 * 256
    assert (arms["dense"].parameters_active, arms["moe"].parameters_active) == (1_310_720, 1_312_768)
    by_run = {(row.arm, row.seed): row for row in tables.runs}
    assert by_run["top2", 44].lm_loss_macro == pytest.approx(3.6028)
    assert by_run["top2", 44].bits_per_byte["math"] == pytest.approx(3.6028 / 2.2)


def test_a_missing_run_is_a_row_without_numbers(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(seeds=(42, 44), steps=6, looks=(0, 6)))
    shutil.rmtree(folder / "dense/seed-44")
    tables = make_tables(read_suite(folder))
    row = next(row for row in tables.runs if (row.arm, row.seed) == ("dense", 44))
    assert (row.status, row.lm_loss_macro, row.lm_loss["math"]) == ("not started", None, None)
    moe = next(row for row in tables.arms if row.arm == "moe")
    assert moe.lm_loss_macro == pytest.approx(3.606)
    assert moe.difference_to_dense == pytest.approx(3.605 - 3.62)  # the seed that both have


def test_without_a_dense_arm_there_is_no_difference(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, BY_HAND)
    assert tables.arms[0].difference_to_dense is None
    assert {point.difference_to_dense for point in tables.loss_over_steps} == {None}


def test_loss_over_steps_is_dev_macro_then_domains(tmp_path: Path) -> None:
    points = tables_of(tmp_path, BY_HAND).loss_over_steps
    assert [(point.step, point.domain) for point in points] == [
        (0, None), (0, "domain 0"), (0, "domain 1"), (4, None), (4, "domain 0"), (4, "domain 1"),
    ]  # fmt: skip
    assert [point.lm_loss for point in points[3:]] == pytest.approx([3.62, 3.37, 3.87])


def test_curves_follow_the_records_step_by_step(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, BY_HAND)
    entropies = tables.entropy_over_steps
    assert [(point.step, point.steps) for point in entropies] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    last = [point for point in tables.load_over_steps if point.step == 4]
    assert sum(point.load for point in last) == pytest.approx(1)
    expected = -sum(point.load * math.log(point.load) for point in last if point.load > 0)
    assert entropies[-1].entropy_of_load == pytest.approx(expected, abs=1e-12)
    assert entropies[-1].entropy_per_token == pytest.approx(0.25 * math.log(4))
    assert entropies[-1].maximum == pytest.approx(math.log(4))


def test_long_curves_are_means_over_groups_of_steps(tmp_path: Path) -> None:
    arm = PlantedArm(name="only", moe=MoEConfig(num_experts=2), shares={0: np.stack([spread(2, {0: 0.6})] * 2)})
    steps = 2 * CURVE_POINTS + 1
    planted = PlantedSuite(arms=(arm,), domains=("a", "b"), steps=steps, looks=(0, steps))
    suite = read_suite(write_suite(tmp_path, planted))
    points = [point for point in make_tables(suite).load_over_steps if point.expert == 0]
    assert len(points) <= CURVE_POINTS
    assert [point.step for point in points][:2] == [3, 6]
    assert points[-1].step == steps
    assert sum(point.steps for point in points) == steps
    recorded = suite.runs[0].scalar("router/layer_0_expert_0_load")
    assert points[0].load == pytest.approx(recorded[:3].mean())


def test_a_metric_that_was_not_recorded_is_named(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(steps=6, looks=(0, 6)))
    path = folder / "moe/seed-42/metrics.jsonl"
    path.write_text(path.read_text("utf-8").replace("layer_2_expert_7_load", "layer_2_expert_7_lode"), "utf-8")
    with pytest.raises(AnalysisError, match=r"moe/seed-42.*metrics\.jsonl have no key 'router/layer_2_expert_7_load'"):
        make_tables(read_suite(folder))


def test_costs_by_hand(tmp_path: Path) -> None:
    (row,) = tables_of(tmp_path, BY_HAND).costs
    assert (row.training, row.recording) == (4 * 0.25, 4 * 0.5)
    assert row.recording_share == pytest.approx(2 / 3)
    assert row.tokens_per_second == 16 * 256 / 0.25
    assert row.peak_memory_mib == pytest.approx(700.4)


def test_csv_holds_every_number_in_full(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, BY_HAND)
    read = list(csv.DictReader(io.StringIO(csv_text(tables.routing))))
    assert [float(row["max_violation"]) for row in read] == [row.max_violation for row in tables.routing]
    assert read[0]["dead"] == "3"
    runs = list(csv.DictReader(io.StringIO(csv_text(tables.runs))))
    assert float(runs[0]["lm_loss:domain 1"]) == tables.runs[0].lm_loss["domain 1"]
    assert runs[0]["difference_to_dense"] == ""


def test_csv_of_hostile_names_reads_back_the_same(tmp_path: Path) -> None:
    names = ('a,"b"\n</script>', "\u2028=1+1", "\udc80")
    sources = [{"domain": name, "source": name, "licence": name, "documents": 1} for name in names]
    tables = tables_of(tmp_path, np.full((3, 2), 0.5), sources=sources)
    write_csv(tables, tmp_path / "out")
    with (tmp_path / "out/sources.csv").open(encoding="utf-8", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [names[0], names[1], "\\udc80"]
    assert csv_text(()) == ""
