"""The arms side by side: each number is that of the table it comes from, with its interval behind it."""

import dataclasses

import pytest
from planted_measures import planted_tables
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.arms_compared import arms_compared, arms_table
from moe_emergence.report.summary import suite_summary


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=4, looks=(0, 4), seeds=(42, 43))
    return read_suite(write_suite(tmp_path_factory.mktemp("arms"), planted))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return planted_tables(suite)


def test_an_arm_has_its_losses_balance_speed_and_size(suite: Suite, tables: Tables) -> None:
    dense, _, no_lb = arms_compared(suite, tables)[:3]
    assert no_lb.lm_loss_macro == pytest.approx(3.6275)
    assert (no_lb.lm_loss_macro_low, no_lb.lm_loss_macro_high) == (pytest.approx(3.5975), pytest.approx(3.6575))
    assert (no_lb.difference_low, no_lb.difference_high) == (pytest.approx(0.003), pytest.approx(0.011))
    assert no_lb.lm_loss_low["code"] == pytest.approx((no_lb.lm_loss["code"] or 0) - 0.03)
    routing = [row for row in tables.routing if row.arm == "no_lb"]
    assert no_lb.max_violation == max(row.max_violation for row in routing)
    assert no_lb.effective_experts == min(row.effective_experts for row in routing)
    assert (no_lb.dead, no_lb.experts) == (5, 8)
    assert no_lb.tokens_per_second == pytest.approx(16 * 256 / 0.25)
    assert (dense.max_violation, dense.effective_experts, dense.dead) == (None, None, None)


def test_a_cell_shows_its_interval_and_keeps_its_exact_value(suite: Suite, tables: Tables) -> None:
    table = arms_table(suite, tables)
    cells = {cell.column.field: cell for cell in table.rows[3]}  # top2: 3.6008, 0.0192 below dense
    assert (cells["lm_loss_macro"].text, cells["lm_loss_macro"].interval) == ("3.601", "[3.571, 3.631]")
    assert float(cells["lm_loss_macro"].exact) == pytest.approx(3.6013)
    assert cells["difference_to_dense"].text == "−0.0192"
    assert cells["difference_to_dense"].interval == "[−0.0232, −0.0152]"
    assert cells["dead"].interval == ""
    assert {cell.text for cell in table.rows[0] if cell.column.field in ("max_violation", "dead")} == {"–"}


def test_without_intervals_or_experts_their_places_are_empty_or_gone(suite: Suite, tables: Tables) -> None:
    bare = dataclasses.replace(tables, arm_losses=(), loss_differences=(), routing=())
    table = arms_table(suite, bare)
    assert {cell.interval for row in table.rows for cell in row} == {""}
    assert "interval" not in table.title
    assert not {"max_violation", "effective_experts", "experts", "dead"} & {column.field for column in table.columns}


def test_a_heading_promises_intervals_only_where_they_are_printed(suite: Suite, tables: Tables) -> None:
    assert "95 % intervals" in arms_table(suite, tables).title
    printed = suite_summary(suite, tables).tables[0]
    assert printed.title == "The arms on test at the last step; LM loss in nats a token"
    assert not any("[" in cell for row in printed.rows for cell in row)
