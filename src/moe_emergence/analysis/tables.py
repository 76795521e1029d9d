"""All tables of a suite, and their CSV files: one row a dataclass, one column a field."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.analysis.balance import RoutingRow, ShareRow, routing_rows, share_rows
from moe_emergence.analysis.costs import CostRow, cost_rows
from moe_emergence.analysis.evolution import (
    LoadPoint,
    LossPoint,
    RoutingPoint,
    load_points,
    loss_points,
    routing_points,
)
from moe_emergence.analysis.files import replace_file
from moe_emergence.analysis.losses import ArmRow, RunRow, arm_rows, run_rows
from moe_emergence.analysis.origins import AuditRow, ReceiptRow, audit_rows, receipt_rows
from moe_emergence.analysis.records import Source, Suite


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Every table that the report quotes or draws; the fields' names are those of the CSV files."""

    arms: tuple[ArmRow, ...]
    runs: tuple[RunRow, ...]
    routing: tuple[RoutingRow, ...]
    shares: tuple[ShareRow, ...]
    loss_over_steps: tuple[LossPoint, ...]
    entropy_over_steps: tuple[RoutingPoint, ...]
    load_over_steps: tuple[LoadPoint, ...]
    receipts: tuple[ReceiptRow, ...]
    sources: tuple[Source, ...]
    format_audit: tuple[AuditRow, ...]
    costs: tuple[CostRow, ...]


def make_tables(suite: Suite) -> Tables:
    """Compute every table once.

    Raises:
        AnalysisError: the records lack something that a table needs; names file and key.
    """
    return Tables(
        arms=arm_rows(suite),
        runs=run_rows(suite),
        routing=routing_rows(suite),
        shares=share_rows(suite),
        loss_over_steps=loss_points(suite),
        entropy_over_steps=routing_points(suite),
        load_over_steps=load_points(suite),
        receipts=receipt_rows(suite),
        sources=suite.runs[0].manifest.data.sources if suite.runs else (),
        format_audit=audit_rows(suite),
        costs=cost_rows(suite),
    )


def write_csv(tables: Tables, folder: Path) -> None:
    """`<table>.csv` in `folder` for every table."""
    for field in dataclasses.fields(tables):
        replace_file(folder / f"{field.name}.csv", csv_text(getattr(tables, field.name)))


def csv_text(rows: Sequence[Any]) -> str:
    """Rows as CSV with a header; empty without rows."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    cells = [row_cells(row) for row in rows]
    writer.writerows([list(cells[0])] if cells else [])
    writer.writerows([list(row.values()) for row in cells])
    return file.getvalue()


def row_cells(row: Any) -> dict[str, str]:
    """Column to exact text; a field that is a mapping becomes one column a key, `field:key`."""
    cells: dict[str, str] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        entries: Iterable[tuple[str, Any]] = (
            [(f"{field.name}:{key}", item) for key, item in value.items()]
            if isinstance(value, Mapping)
            else [(field.name, value)]
        )
        cells.update({name: cell_text(item) for name, item in entries})
    return cells


def cell_text(value: Any) -> str:
    """A value as CSV holds it: floats in full, an absent one empty, several separated by spaces."""
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
