"""A finished run's traces: all there, and of the rows of its probe sets."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_suite import PlantedArm, PlantedSuite, spread, write_suite

from moe_emergence.analysis.measures import run_measures
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import make_tables, prepared
from moe_emergence.analysis.trace_checks import check_traces
from moe_emergence.config import MoEConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import AnalysisError

SHARES = np.stack([spread(4, {0: 0.7}), spread(4, {1: 0.6})])


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    arm = PlantedArm(name="moe", moe=MoEConfig(num_experts=4), shares={1: SHARES})
    return read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), domains=("code", "prose"), looks=(0, 2, 4, 6))))


@pytest.fixture
def with_wide(suite: Suite) -> PreparedData:
    """Data with a wide probe set that is the other one again, traced at both ends."""
    data, last = prepared(suite), suite.runs[0].last_step
    for step in (0, last):
        _trace(suite, f"wide-{step:06d}").write_bytes(_trace(suite, f"step-{step:06d}").read_bytes())
    return dataclasses.replace(data, wide=data.probe)


def _trace(suite: Suite, name: str) -> Path:
    return suite.runs[0].folder / "traces" / f"{name}.parquet"


def _change(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    table = pq.read_table(path)
    columns = {column: table[column].to_numpy() for column in table.column_names}
    columns[name] = change(columns[name])
    pq.write_table(type(table).from_pydict(columns).replace_schema_metadata(table.schema.metadata), path)


def test_whole_traces_are_taken(suite: Suite, with_wide: PreparedData) -> None:
    check_traces(suite.runs[0], with_wide)


def test_missing_traces_of_a_finished_run_are_named(suite: Suite) -> None:
    _trace(suite, "step-000004").unlink()
    with pytest.raises(AnalysisError, match=r"traces lacks step-000004\.parquet, which the run recorded"):
        make_tables(suite)
    _trace(suite, "step-000002").unlink()
    with pytest.raises(AnalysisError, match=r"lacks step-000002\.parquet, step-000004\.parquet, which"):
        make_tables(suite)


@pytest.mark.parametrize("end", ["first", "last"])
def test_a_wide_trace_of_one_end_alone_is_refused(suite: Suite, with_wide: PreparedData, end: str) -> None:
    step = 0 if end == "first" else suite.runs[0].last_step
    _trace(suite, f"wide-{step:06d}").unlink()
    with pytest.raises(AnalysisError, match=rf"lacks wide-{step:06d}\.parquet"):
        check_traces(suite.runs[0], with_wide)
    with pytest.raises(AnalysisError, match=rf"wide-{step:06d}\.parquet is missing"):
        run_measures(suite.runs[0], with_wide)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("domain", lambda values: values[::-1].copy(), r"'domain' is 1 in row 0, but the probe set has 0 there"),
        ("token_id", lambda values: values + 1, r"'token_id' is \d+ in row 0, but the probe set has \d+ there"),
        ("doc", lambda values: values + 1, r"'doc' is 1 in row 0, but the probe set has 0 there"),
        ("pos", lambda values: values + 1, r"'pos' is 1 in row 0, but the probe set has 0 there"),
    ],
)
def test_a_trace_of_other_rows_than_the_probe_sets_is_refused(
    suite: Suite, name: str, change: Callable[[Any], Any], message: str
) -> None:
    _change(_trace(suite, "step-000002"), name, change)
    with pytest.raises(AnalysisError, match=rf"step-000002\.parquet: {message}"):
        make_tables(suite)


def test_a_trace_of_fewer_rows_is_refused(suite: Suite) -> None:
    path = _trace(suite, "step-000002")
    pq.write_table(pq.read_table(path)[:-1], path)
    with pytest.raises(AnalysisError, match=r"step-000002\.parquet has 1,919 rows, but its probe set 1,920"):
        make_tables(suite)
