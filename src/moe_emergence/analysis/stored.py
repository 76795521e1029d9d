"""Tables that an analysis left on disk, taken again while nothing that they were made from has changed."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from moe_emergence.analysis.export import FOLDER, SUMMARY, write_analysis
from moe_emergence.analysis.fingerprints import are_current, fingerprints
from moe_emergence.analysis.measures import Progress, silent
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.scope import ALL, QUICK, Scope
from moe_emergence.analysis.tables import Tables, make_tables
from moe_emergence.training.run_directory import CONFIG, MANIFEST, METRICS, TIMINGS

_SHOWING = ("report", "explore", "commands", "tracking", "cli.py")
"""Parts of the package that show tables and make none."""


def analysed(suite: Suite, progress: Progress = silent, scope: Scope = QUICK, workers: int = 1) -> Tables:
    """The suite's tables: those in its folder while they are current and hold what `scope` asks for, or more, else made
    and written there, by `workers` processes.

    Raises:
        AnalysisError: as `make_tables` and `write_analysis`.
    """
    tables = read_analysis(suite)
    if tables is None or not {scope, ALL} & set(tables.scope):
        tables = make_tables(suite, progress, scope, workers)
        write_analysis(suite, tables, inputs=inputs_digest(suite), weights=fingerprints(suite))
    return tables


def read_analysis(suite: Suite) -> Tables | None:
    """What `write_analysis` wrote; None where it is missing, torn, or made from other records or weights, or by other
    code."""
    folder = suite.folder / FOLDER
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
        if summary["inputs"] != inputs_digest(suite) or not are_current(summary["weights"], suite):
            return None
        files = {name: table["file"] for name, table in summary["tables"].items()}
        return Tables(
            **{
                field.name: _rows(typing.get_args(field.type)[0], folder, files[field.name])
                for field in dataclasses.fields(Tables)
            }
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def inputs_digest(suite: Suite) -> str:
    """sha256 of what tables are made from: code that makes them, the suite's description, every run's records."""
    digest = hashlib.sha256()
    code = Path(str(resources.files("moe_emergence")))
    for file in sorted(code.rglob("*.py")):
        if file.relative_to(code).parts[0] not in _SHOWING:
            _add(digest, file, code)
    digest.update(json.dumps([dataclasses.asdict(arm) for arm in suite.arms], default=dict).encode())
    digest.update(repr([suite.seeds, suite.missing, suite.conclusive, suite.note, suite.question]).encode())
    for run in suite.runs:
        traces = sorted((run.folder / "traces").glob("*"))
        for file in (*(run.folder / name for name in (CONFIG, MANIFEST, METRICS, TIMINGS)), *traces):
            _add(digest, file, run.folder.parent.parent)
    return digest.hexdigest()


def _add(digest: Any, file: Path, root: Path) -> None:
    digest.update(f"{file.relative_to(root)} ".encode())
    with file.open("rb") as content:
        digest.update(hashlib.file_digest(content, "sha256").digest())


def _rows(kind: type, folder: Path, file: str | None) -> tuple[Any, ...]:
    if file is None:
        return ()
    makers = {name: _maker(annotation) for name, annotation in typing.get_type_hints(kind).items()}
    fields = [field.name for field in dataclasses.fields(kind)]
    return tuple(
        kind(**{name: makers[name](name, row) for name in fields}) for row in pq.read_table(folder / file).to_pylist()
    )


def _maker(annotation: Any) -> Callable[[str, Mapping[str, Any]], Any]:
    """From a field's name and a row of columns to the field's value."""
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        return _maker(next(part for part in typing.get_args(annotation) if part is not types.NoneType))
    if origin is Mapping:
        return _mapping
    if origin is tuple:
        return lambda name, row: None if row[name] is None else tuple(row[name])
    return lambda name, row: row[name]


def _mapping(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {key.partition(":")[2]: value for key, value in row.items() if key.partition(":")[0] == name and ":" in key}
