"""Rows to tables as a reader meets them, on the page and in the terminal; every cell keeps its exact value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import row_cells
from moe_emergence.report import numbers as n

Row = TypeVar("Row", bound=Any)
NUMERIC = {
    n.loss,
    n.difference,
    n.signed,
    n.end,
    n.percent,
    n.signed_percent,
    n.count,
    n.decimal,
    n.p_value,
    n.tiny,
    n.seconds,
}


def so_far(suite: Suite) -> Suite:
    """The suite with its runs still going in place of those that ended; without those that have not recorded a step."""
    return replace(suite, runs=tuple(run for run in suite.going if run.steps.size))


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its heading, the field (or `field:key`) it shows, and how; `ends` are the two fields of its interval,
    which is shown behind it where the row has one."""

    title: str
    field: str
    show: Callable[[Any], str] = str
    ends: tuple[str, str] | None = None

    @property
    def numeric(self) -> bool:
        return self.show in NUMERIC


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is shown, its interval where it has one, and the value in full as the CSV has it."""

    text: str
    interval: str
    exact: str
    column: Column


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table.

    Attributes:
        name: of its CSV file; note: which of the file's rows are shown, where it is not all.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of strings.

    Attributes:
        numeric: for each column, whether it is to be right-aligned.
    """

    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def make_table(name: str, title: str, rows: Sequence[Any], columns: Sequence[Column], note: str = "") -> PageTable:
    """Show `columns` of `rows`."""
    cells = tuple(tuple(_cell(row, column) for column in columns) for row in rows)
    return PageTable(name=name, title=title, note=note, columns=tuple(columns), rows=cells)


def text_table(table: PageTable) -> TextTable:
    """The whole table as strings."""
    return TextTable(
        title=table.title,
        columns=tuple(column.title for column in table.columns),
        numeric=tuple(column.numeric for column in table.columns),
        rows=tuple(tuple(cell.text for cell in row) for row in table.rows),
    )


def _cell(row: Any, column: Column) -> Cell:
    return Cell(
        text=column.show(_value(row, column.field)),
        interval=_interval(row, column),
        exact=row_cells(row)[column.field],
        column=column,
    )


def _interval(row: Any, column: Column) -> str:
    low, high = (_value(row, field) for field in column.ends) if column.ends else (None, None)
    if low is None or high is None:
        return ""
    show = n.end if column.show is n.difference else column.show
    return f"[{show(low)}, {show(high)}]"


def _value(row: Any, name: str) -> Any:
    """Of `field`, or of `field:key`, whose key may hold colons of its own."""
    field, _, key = name.partition(":")
    value = getattr(row, field)
    return value[key] if key else value


def seed_column(suite: Suite) -> list[Column]:
    """The seed, where there is more than one."""
    return [Column(title="seed", field="seed", show=n.count)] if len(suite.seeds) > 1 else []


def of_first_seed(suite: Suite, rows: Sequence[Any]) -> tuple[list[Any], str]:
    """The rows of the suite's first seed, and a note that says so where there are others."""
    several = len(suite.seeds) > 1
    kept = [row for row in rows if row.seed == suite.seeds[0]] if several else list(rows)
    return kept, f"seed {suite.seeds[0]}; every seed" if several else ""


def first_runs(suite: Suite) -> list[Run]:
    """Of every arm with experts its first run, in the suite's order: what stands for the arm where a picture a seed
    would be too many."""
    first = {run.arm: run for run in reversed(suite.runs) if run.manifest.moe_layers}
    return [run for run in suite.runs if first.get(run.arm) is run]


def of_run(run: Run, rows: Sequence[Row]) -> list[Row]:
    """The rows of one run's last step, or all of its rows where they have no step."""
    return [
        row
        for row in rows
        if (row.arm, row.seed) == (run.arm, run.seed) and getattr(row, "step", run.last_step) == run.last_step
    ]


def seed_note(suite: Suite, run: Run) -> str:
    """That a figure is of one seed, where there are others."""
    return f" Seed {run.seed}; the other seeds are in its data." if len(suite.seeds) > 1 else ""


def at_last_step(suite: Suite, rows: Sequence[Any]) -> list[Any]:
    """Of each run the rows of its last step."""
    last = {(run.arm, run.seed): run.last_step for run in suite.runs}
    return [row for row in rows if row.step == last.get((row.arm, row.seed))]


def of_domain(domain: str | None) -> str:
    """None is the mean over domains."""
    return "all domains" if domain is None else domain
