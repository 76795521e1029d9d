"""Tables on stdout."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 200
"""Columns of a line where no terminal says how wide it is: wide enough that no cell is cut."""


def is_first_process() -> bool:
    """Whether this process is the one that reports, of those that torchrun or `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table whose columns are the keys of the first row; numbers right, everything else left."""
    if rows:
        numeric = [not isinstance(value, str) for value in rows[0].values()]
        print_table(title, list(rows[0]), numeric, [[_cell(value) for value in row.values()] for row in rows])


def print_table(title: str, columns: Sequence[str], numeric: Sequence[bool], rows: Iterable[Sequence[str]]) -> None:
    """A table of strings; numeric columns are right-aligned."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column, is_number in zip(columns, numeric, strict=True):
        table.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def human(amount: float, units: Sequence[str], step: int = 1000) -> str:
    """`124.4 M` for 124,439,808 of the units ("", "k", "M")."""
    for unit in units[:-1]:
        if amount < step:
            return f"{amount:.4g} {unit}".strip()
        amount /= step
    return f"{amount:.4g} {units[-1]}".strip()


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
