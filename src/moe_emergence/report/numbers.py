"""Numbers as a reader meets them, on the page, in figures and in the terminal alike."""

import math
from collections.abc import Callable, Sequence

GAP = "\u00a0"
ABSENT = "–"


def loss(value: float | None) -> str:
    """A loss or an entropy, in nats or bits: `3.816`."""
    return ABSENT if value is None else f"{value:.3f}"


def difference(value: float | None) -> str:
    """A signed difference, to four decimals: arms differ by less than losses are quoted to. `+0.0042`, `0.0000`."""
    if value is None:
        return ABSENT
    text = f"{value:+.4f}"
    return "0.0000" if text in ("+0.0000", "-0.0000") else text.replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """A quantity that is not a difference, with its interval: `0.133 [0.110, 0.156]`."""
    return f"{minus(value, 3)} [{minus(low, 3)}, {minus(high, 3)}]"


def difference_interval(value: float, low: float, high: float) -> str:
    """A difference with its interval: `−0.0031 [−0.0060, −0.0002]`."""
    return f"{difference(value)} [{minus(low, 4)}, {minus(high, 4)}]"


def magnitude_interval(value: float, low: float, high: float) -> str:
    """A difference whose interval leaves out 0 and whose sign words tell: `0.0031 [0.0002, 0.0060]` of −0.0031."""
    small, large = sorted((abs(low), abs(high)))
    return f"{minus(abs(value), 4)} [{minus(small, 4)}, {minus(large, 4)}]"


def percent_interval(share: float, low: float, high: float) -> str:
    """A share with its interval, all per cent: `8.4 % [7.1, 9.6]`."""
    places = _percent_places(share, low, high)
    ends = f"[{minus(100 * low, places)}, {minus(100 * high, places)}]"
    return f"{minus(100 * share, places)}{GAP}% {ends}"


def points_interval(share: float, low: float, high: float) -> str:
    """A difference of two shares with its interval, in percentage points: `−3.1 [−4.3, −2.0]`."""
    places = _percent_places(share, low, high)
    sign = "+" if round(100 * share, places) > 0 else ""
    ends = f"[{minus(100 * low, places)}, {minus(100 * high, places)}]"
    return f"{sign}{minus(100 * share, places)} {ends}"


def percent_range(low: float, high: float) -> str:
    """From one share to another: `3.1 to 5.2 %`."""
    places = _percent_places(low, high)
    ends = dict.fromkeys((minus(100 * low, places), minus(100 * high, places)))
    return f"{' to '.join(ends)}{GAP}%"


def signed(value: float | None) -> str:
    """A quantity that may be below 0, to three decimals, without a plus: `−0.006`."""
    return ABSENT if value is None else minus(value, 3)


def end(value: float | None) -> str:
    """An end of a difference's interval, to as many decimals as the difference, without a plus: `−0.0060`."""
    return ABSENT if value is None else minus(value, 4)


def p_value(value: float | None) -> str:
    """`0.032`, `< 0.001`."""
    if value is None:
        return ABSENT
    return f"{value:.3f}" if value >= 0.001 else f"<{GAP}0.001"


def signed_percent(share: float | None) -> str:
    """A difference of two shares: `+1.2 %`, `−3.1 %`."""
    return percent(share) if share is None or share <= 0 else f"+{percent(share)}"


def span(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The smallest and the largest: `0.41 to 0.52`; one of them where they read the same."""
    return " to ".join(dict.fromkeys((show(min(values)), show(max(values)))))


def _percent_places(*shares: float) -> int:
    """Decimals of per cents that are to be compared: two where all are below half a per cent."""
    return 1 if max(map(abs, shares)) >= 0.005 else 2


def minus(value: float, places: int) -> str:
    """A signed number without a plus: `−0.006`, `0.000`, `0.110`."""
    text = f"{value:.{places}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{places}f}"


def percent(share: float | int | None) -> str:
    """A share of 1, to three figures: `12.5 %`, `0.31 %`, `100 %`."""
    if share is None or math.isnan(share):
        return ABSENT
    return f"{float(f'{100 * share:.3g}'):.12g}{GAP}%".replace("-", "−")


def points(share: float) -> str:
    """A difference of two shares in percentage points, without the unit: `+1.2`, `−3.1`, `0.0`."""
    text = minus(100 * share, 1)
    return text if float(text.replace("−", "-")) <= 0 else f"+{text}"


def count(value: float | int | None) -> str:
    """A number of things: `983,040`."""
    return ABSENT if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    """A plain quantity, two decimals: `0.71`."""
    return ABSENT if value is None else f"{value:.2f}"


def tiny(value: float | None) -> str:
    """A quantity that may be small: three figures, `1.2e-06`."""
    return ABSENT if value is None else f"{value:.3g}".replace("e-", "e−")


def yes_no(value: bool | None) -> str:
    """What a test decided."""
    return ABSENT if value is None else "yes" if value else "no"


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
