"""A figure to be made, with the words that belong to it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure to be made.

    Attributes:
        name: of its files.
        section: where on the page it belongs: answer, loss, specialisation, shares, classes, collapse, routing,
            evidence or going.
        tables: names of the tables that it is drawn from, whose CSV files hold its data.
        title: the finding, computed; reading: units, n, and how to read it.
    """

    name: str
    section: str
    title: str
    reading: str
    tables: tuple[str, ...]
    make: Callable[[], Figure]
