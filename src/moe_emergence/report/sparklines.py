"""What moved over training, one line of text a run and layer: domain information, the largest load, LM loss."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import ABSENT, count, loss, percent_range
from moe_emergence.report.shown import TextTable
from moe_emergence.report.verdicts import corrected_share

BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
"""Low to high; the second for outputs that cannot show the first."""
POINTS = 10
Series = tuple[tuple[int, float], ...]
"""(step, value), rising steps."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One layer of one run over training; None is a dense run's layer.

    Attributes:
        information: domain information, share of H(D), at each trace.
        load: largest share of assignments that one expert gets, 1/E..1/k, in training.
        lm_loss: macro mean on dev, nats a token; the run's, whatever the layer.
    """

    arm: str
    seed: int
    layer: int | None
    information: Series
    load: Series
    lm_loss: Series


def suite_curves(tables: Tables) -> tuple[Curves, ...]:
    """One a run and layer, in the order of the tables."""
    losses = _series((p.arm, p.seed, None, p.step, p.lm_loss) for p in tables.loss_over_steps if p.domain is None)
    loads = _series((p.arm, p.seed, p.layer, p.step, p.load) for p in tables.load_over_steps)
    information = _series(
        (row.arm, row.seed, row.layer, row.step, corrected_share(row))
        for row in tables.information
        if row.counted == FIRST_CHOICE
    )
    layers = {(arm, seed): [at for at in loads if at[:2] == (arm, seed)] for arm, seed, _ in losses}
    return tuple(
        Curves(
            arm=arm,
            seed=seed,
            layer=layer,
            information=information.get((arm, seed, layer), ()),
            load=loads.get((arm, seed, layer), ()),
            lm_loss=losses[arm, seed, None],
        )
        for (arm, seed), mine in layers.items()
        for _, _, layer in (mine or [(arm, seed, None)])
    )


def _series(points: Iterable[tuple[str, int, int | None, int, float]]) -> dict[tuple[str, int, int | None], Series]:
    """(arm, seed, layer) to its series; of several values at one step, as those of experts, the largest."""
    found: dict[tuple[str, int, int | None], dict[int, float]] = {}
    for arm, seed, layer, step, value in points:
        mine = found.setdefault((arm, seed, layer), {})
        mine[step] = max(value, mine.get(step, value))
    return {key: tuple(sorted(values.items())) for key, values in found.items()}


def curve_table(suite: Suite, curves: Sequence[Curves], bars: str = BARS) -> TextTable:
    """A sparkline and the last value a quantity; bars of a column share one scale, from its lowest to its highest."""
    several = len(suite.seeds) > 1
    shown = [
        _column([row.information for row in curves], bars, _share),
        _column([row.load for row in curves], bars, _share),
        _column([row.lm_loss for row in curves], bars, loss),
    ]
    last = max((step for row in curves for step, _ in row.lm_loss), default=0)
    return TextTable(
        title=f"Over training, step 0 to {count(last)}; bars of a column share one scale, numbers are the last",
        columns=(
            "arm",
            *(("seed",) if several else ()),
            "layer",
            "domain information, % of H(D)",
            "largest load",
            "LM loss on dev",
        ),
        numeric=(False, *((True,) if several else ()), True, False, False, False),
        rows=tuple(
            (
                row.arm,
                *((count(row.seed),) if several else ()),
                ABSENT if row.layer is None else str(row.layer),
                *(column[place] for column in shown),
            )
            for place, row in enumerate(curves)
        ),
    )


def _share(share: float) -> str:
    """A share that its correction for bias may bring below 0."""
    return percent_range(share, share)


def _column(all_series: Sequence[Series], bars: str, show: Callable[[float], str]) -> list[str]:
    """Each series' line and its last value."""
    values = [value for series in all_series for _, value in series]
    ends = (min(values), max(values)) if values else (0.0, 0.0)
    return [f"{sparkline(series, *ends, bars)} {show(series[-1][1])}" if series else ABSENT for series in all_series]


def sparkline(series: Series, low: float, high: float, bars: str = BARS, points: int = POINTS) -> str:
    """`points` characters at even steps from the series' first to its last, between which it is taken as straight;
    `low` is the lowest bar, `high` the highest, and a flat column stays low."""
    steps, values = np.array(series, dtype=np.float64).T
    even = np.interp(np.linspace(steps[0], steps[-1], points), steps, values)
    height = (even - low) / (high - low) if high > low else np.zeros(points)
    places = np.floor(height.clip(0, 1) * len(bars)).astype(int).clip(0, len(bars) - 1)
    return "".join(bars[place] for place in places)
