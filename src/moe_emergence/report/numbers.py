"""Numbers as a reader meets them, on the page, in figures and in the terminal alike."""

import math
from collections.abc import Sequence

GAP = "\u00a0"
ABSENT = "–"


def loss(value: float | None) -> str:
    """A loss or an entropy, in nats or bits: `3.816`."""
    return ABSENT if value is None else f"{value:.3f}"


def difference(value: float | None) -> str:
    """A signed loss difference: `+0.004`, `−0.004`, `0.000`."""
    if value is None:
        return ABSENT
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def percent(share: float | int | None) -> str:
    """A share of 1, to three figures: `12.5 %`, `0.31 %`, `100 %`."""
    if share is None or math.isnan(share):
        return ABSENT
    return f"{float(f'{100 * share:.3g}'):.12g}{GAP}%"


def count(value: float | int | None) -> str:
    """A number of things: `983,040`."""
    return ABSENT if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    """A plain quantity, two decimals: `0.71`."""
    return ABSENT if value is None else f"{value:.2f}"


def tiny(value: float | None) -> str:
    """A quantity that may be small: three figures, `1.2e-06`."""
    return ABSENT if value is None else f"{value:.3g}".replace("e-", "e−")


def seconds(value: float | int | None) -> str:
    """A duration: `8.4 s`, `12 min 4 s`, `3 h 5 min`."""
    if value is None:
        return ABSENT
    if value < 60:
        return f"{value:.1f}{GAP}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{GAP}h {minutes}{GAP}min" if hours else f"{minutes}{GAP}min {rest}{GAP}s"


def number_list(values: Sequence[int]) -> str:
    """Expert or layer numbers: `0, 3, 5`, or `none`."""
    return ", ".join(map(str, values)) or "none"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def plural(value: int, thing: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{value:,}{GAP}{thing}{'' if value == 1 else 's'}"
