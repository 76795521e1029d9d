"""Whether a finished run's traces are all there, and are of the probe sets that its data prepared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.traces import WAY_OUT, torn, trace_steps
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import AnalysisError
from moe_emergence.training.trace import probe_columns, trace_name


def check_traces(run: Run, data: PreparedData | None) -> None:
    """Refuse a run that lacks a trace it recorded, or that has one of other rows than the probe set's.

    Args:
        data: what the run was made with; None where only the presence of its traces is to be checked.

    Raises:
        AnalysisError: names the files, or the file, the row and both values.
    """
    _refuse_missing(run, wide=data is not None and data.wide is not None)
    if data is None:
        return
    for wide, probe in ((False, data.probe), (True, data.wide)):
        if probe is not None:
            expected = probe_columns(probe)
            for step in trace_steps(run, wide=wide):
                _compare(run.folder / "traces" / f"{trace_name(step, wide=wide)}.parquet", expected)


def _refuse_missing(run: Run, *, wide: bool) -> None:
    """Every evaluation on dev is followed by a trace; both ends also by one of the wide probe set, where there is
    one."""
    names = {trace_name(look.step): look.step for look in run.evaluations if look.split == "dev"}
    if wide:
        names |= {trace_name(step, wide=True): step for step in (0, run.last_step)}
    folder = run.folder / "traces"
    missing = [f"{name}.parquet" for name in names if not (folder / f"{name}.parquet").exists()]
    if missing:
        raise AnalysisError(
            f"{folder} lacks {', '.join(missing)}, which the run recorded before it ended at step {run.last_step}: put "
            f"{'it' if len(missing) == 1 else 'them'} back, or train the run again"
        )


def _compare(path: Path, expected: Mapping[str, NDArray[Any]]) -> None:
    try:
        table = pq.read_table(path, columns=list(expected))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise torn(path, error) from error
    for name, values in expected.items():
        if name not in table.column_names:
            raise AnalysisError(f"{path}: no column {name!r}: {WAY_OUT}")
        found = table[name].to_numpy()
        if len(found) != len(values):
            raise AnalysisError(f"{path} has {len(found):,} rows, but its probe set {len(values):,}: {WAY_OUT}")
        others = np.flatnonzero(found != values)
        if len(others):
            row = int(others[0])
            raise AnalysisError(
                f"{path}: {name!r} is {found[row]} in row {row}, but the probe set has {values[row]} there: {WAY_OUT}"
            )
