"""Runs measured side by side: the tables of one process, in the same order; what fails is said."""

from pathlib import Path

import pytest
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.run_by_run import measures_of_runs
from moe_emergence.analysis.tables import prepared
from moe_emergence.errors import AnalysisError


@pytest.mark.timeout(300)
def test_processes_side_by_side_find_what_one_finds(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4))))
    data, told = prepared(suite), list[tuple[str, int, int]]()
    found = measures_of_runs(suite.runs, data, lambda *words: told.append(words), workers=2)
    assert found == measures_of_runs(suite.runs, data)
    assert {row.arm for row in found["lift"]} == {run.arm for run in suite.runs if run.manifest.moe_layers}
    (suite.runs[1].folder / "traces" / "step-000004.parquet").write_bytes(b"torn")
    with pytest.raises(AnalysisError, match=r"step-000004\.parquet"):
        measures_of_runs(suite.runs, data, workers=2)
