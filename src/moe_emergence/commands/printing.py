"""Tables and sentences on stdout: as wide as the terminal, in characters that its encoding has, and nothing that would
steer it."""

import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moe_emergence.report.numbers import GAP
from moe_emergence.report.visible import visible

PIPED_WIDTH = 200
"""Columns of a line where neither a terminal nor COLUMNS says how wide it is: wide enough that no cell is cut."""
_TIE = "\ue000"
"""Stands for a non-breaking space while lines are laid out, since rich breaks lines there as at any other space."""
_PLAIN = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "\u00a0": " ", "≥": ">=", "≤": "<=", "×": "x", "÷": "/", "→": "->", "…": "..."}
)


def is_first_process() -> bool:
    """Whether this process is the one that reports, of those that torchrun or `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table whose columns are the keys of the first row; numbers right, everything else left."""
    if rows:
        numeric = [not isinstance(value, str) for value in rows[0].values()]
        print_table(title, list(rows[0]), numeric, [[_cell(value) for value in row.values()] for row in rows])


def print_table(title: str, columns: Sequence[str], numeric: Sequence[bool], rows: Iterable[Sequence[str]]) -> None:
    """A table of strings; numeric columns are right-aligned. Where it is wider than the output, headings are wrapped
    before cells."""
    console = _console()
    cells = [[_tied(cell) for cell in row] for row in rows]
    headings = [_tied(column) for column in columns]
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    if sum(widths) + 3 * len(widths) > console.width:
        headings = [_wrapped(heading, [row[place] for row in cells]) for place, heading in enumerate(headings)]
    table = Table(title=Text(_tied(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for heading, is_number in zip(headings, numeric, strict=True):
        table.add_column(Text(heading), justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    _draw(console, table)


def _wrapped(heading: str, cells: Sequence[str]) -> str:
    """As narrow as its longest word, or as wide as the widest cell."""
    width = max(map(cell_len, (*heading.split(), *cells)), default=1)
    return "\n".join(textwrap.wrap(heading, max(1, width)))


def print_sentence(sentence: str, mark: str = "") -> None:
    """One sentence behind its mark, wrapped where the width is known."""
    if not _width_is_known():
        print(f"{mark}{showable(sentence)}")
        return
    lines = Table.grid()
    lines.add_row(*([Text(mark)] if mark else []), Text(_tied(sentence), overflow="fold"))
    _draw(_console(), lines)


def showable(text: str) -> str:
    """`text` without what would steer a terminal, in characters that stdout's encoding has."""
    seen, encoding = visible(text), sys.stdout.encoding or "utf-8"
    if _encodes(seen, encoding):
        return seen
    return seen.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)


def _tied(text: str) -> str:
    """`showable`, to be laid out and then drawn by `_draw`."""
    return _TIE.join(map(showable, text.split(GAP)))


def shows(characters: str) -> bool:
    """Whether stdout's encoding has all of `characters`."""
    return _encodes(characters, sys.stdout.encoding or "utf-8")


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _width_is_known() -> bool:
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


def _console() -> Console:
    return Console(
        file=sys.stdout,
        width=None if _width_is_known() else PIPED_WIDTH,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def _draw(console: Console, table: Table) -> None:
    with console.capture() as drawn:
        console.print(table)
    text = drawn.get().replace(_TIE, showable(GAP))
    print("\n".join(line.rstrip() for line in text.splitlines()))


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
