"""A suite's tables as Parquet, and what they hold as JSON: for readers who go on computing."""

import dataclasses
import inspect
import json
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_emergence.analysis.files import replace_file
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables

FOLDER, SUMMARY = "analysis", "summary.json"
_FORMAT = 1
_SUMMARISED = (
    "arm_verdicts",
    "verdicts",
    "information_changes",
    "information_differences",
    "loss_differences",
    "scope",
)


def write_analysis(suite: Suite, tables: Tables, *, inputs: str = "", weights: Mapping[str, str] | None = None) -> Path:
    """`analysis/<table>.parquet` in the suite's folder for every table that has rows, and `analysis/summary.json`.

    The summary holds what the tables were made from (digests, versions), the verdicts and differences between arms, and
    each table's schema: its columns with their types, and what a row is. `inputs` is the digest and `weights` the
    fingerprints that tell whether they are still current (`analysis.stored`).

    Raises:
        AnalysisError: the folder cannot be written.
    """
    folder = suite.folder / FOLDER
    schemas: dict[str, Any] = {}
    for field in dataclasses.fields(tables):
        rows = getattr(tables, field.name)
        kind = typing.get_args(field.type)[0]
        table = arrow_table(rows)
        file = folder / f"{field.name}.parquet"
        if rows:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            replace_file(file, sink.getvalue().to_pybytes())
        else:
            file.unlink(missing_ok=True)  # of an earlier analysis
        schemas[field.name] = {
            "file": file.name if rows else None,
            "rows": len(rows),
            "columns": {column.name: str(column.type) for column in table.schema},
            "row": inspect.getdoc(kind),
        }
    summary = {
        "format": _FORMAT,
        "suite": suite.name,
        "command": suite.command,
        "inputs": inputs,
        "weights": dict(weights or {}),
        "made_from": _origin(suite),
    }
    results = {name: arrow_table(getattr(tables, name)).to_pylist() for name in _SUMMARISED}
    replace_file(folder / SUMMARY, json.dumps(summary | results | {"tables": schemas}, indent=1, ensure_ascii=False))
    return folder


def arrow_table(rows: Sequence[Any]) -> pa.Table:
    """One column a field; of a field that is a mapping, one column a key, `field:key`; a tuple becomes a list."""
    return pa.Table.from_pylist([_values(row) for row in rows])


def _values(row: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Mapping):
            values |= {f"{field.name}:{key}": item for key, item in value.items()}
        else:
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def _origin(suite: Suite) -> dict[str, Any]:
    """What every number can be traced to."""
    if not suite.runs:
        return {}
    first = suite.runs[0].manifest
    return {
        "runs": [_place(run, suite) for run in suite.runs],
        "data_digest": first.data.digest,
        "corpus_digest": first.data.corpus_digest,
        "base_digest": first.base.get("digest"),
        "software": dict(first.software),
        "environment": dict(first.environment),
        "continued_inexactly": [_place(run, suite) for run in suite.runs if run.manifest.inexact],
    }


def _place(run: Run, suite: Suite) -> str:
    return os.path.relpath(run.folder, suite.folder)
