"""Parquet and JSON of a suite: the tables as they are, and what they can be traced to."""

import dataclasses
import json
from pathlib import Path

import duckdb
import pytest
from synthetic_suite import PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.export import write_analysis
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables, make_tables

pytestmark = pytest.mark.usefixtures("without_run_measures")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return read_suite(write_suite(tmp_path_factory.mktemp("planted"), quickstart_like(steps=4, looks=(0, 4))))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return make_tables(suite)


def test_every_table_can_be_read_elsewhere(suite: Suite, tables: Tables) -> None:
    folder = write_analysis(suite, tables)
    for field in dataclasses.fields(tables):
        if not getattr(tables, field.name):
            assert not (folder / f"{field.name}.parquet").exists()
            continue
        count = duckdb.sql(f"select count(*) from '{folder / field.name}.parquet'").fetchall()
        assert count == [(len(getattr(tables, field.name)),)]
    found = duckdb.sql(
        f"select verdict, information from '{folder}/verdicts.parquet' where arm = 'moe' order by layer"
    ).fetchall()
    assert found == [(row.verdict, row.information) for row in tables.verdicts if row.arm == "moe"]
    dropped = duckdb.sql(
        f"select \"dropped:1.25\", dead from '{folder}/routing.parquet' where arm = 'no_lb'"
    ).fetchall()
    assert dropped == [(row.dropped["1.25"], list(row.dead)) for row in tables.routing if row.arm == "no_lb"]


def test_the_summary_says_what_it_was_made_from_and_what_a_column_holds(suite: Suite, tables: Tables) -> None:
    summary = json.loads((write_analysis(suite, tables) / "summary.json").read_text("utf-8"))
    origin = summary["made_from"]
    assert (origin["data_digest"], origin["base_digest"]) == ("d" * 64, "b" * 64)
    assert origin["software"]["git_commit"].startswith("01234")
    assert "moe/seed-42" in origin["runs"]
    assert [row["verdict"] for row in summary["verdicts"]] == [row.verdict for row in tables.verdicts]
    assert summary["tables"]["information"]["columns"]["plug_in"] == "double"
    assert "bits" in summary["tables"]["information"]["row"]


def test_a_table_without_rows_leaves_no_file(suite: Suite, tables: Tables, tmp_path: Path) -> None:
    planted = PlantedSuite(arms=(PlantedArm(name="dense"),), steps=4, looks=(0, 4))
    alone = read_suite(write_suite(tmp_path, planted))
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis/verdicts.parquet").write_bytes(b"of an earlier analysis")
    folder = write_analysis(alone, make_tables(alone))
    assert not (folder / "verdicts.parquet").exists()
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["tables"]["verdicts"]["file"] is None
    assert summary["verdicts"] == []
