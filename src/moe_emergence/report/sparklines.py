"""What moved over training, one line of text a run and layer: domain information, the largest load, LM loss."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moe_emergence.analysis.evolution import LoadPoint, LossPoint, load_points, loss_points
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, InformationRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import ABSENT, count, loss, percent_range
from moe_emergence.report.shown import TextTable, so_far
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
    return _curves(tables.loss_over_steps, tables.load_over_steps, tables.information)


def going_curves(suite: Suite) -> tuple[Curves, ...]:
    """The same of runs still going, as far as their records go; no measure includes them, so without information."""
    going = so_far(suite)
    return _curves(loss_points(going), load_points(going), ())


def _curves(
    lm_loss: Sequence[LossPoint], load: Sequence[LoadPoint], rows: Sequence[InformationRow]
) -> tuple[Curves, ...]:
    losses = _series((p.arm, p.seed, None, p.step, p.lm_loss) for p in lm_loss if p.domain is None)
    loads = _series((p.arm, p.seed, p.layer, p.step, p.load) for p in load)
    information = _series(
        (row.arm, row.seed, row.layer, row.step, corrected_share(row)) for row in rows if row.counted == FIRST_CHOICE
    )
    layers = {(arm, seed): [at for at in loads if at[:2] == (arm, seed)] for arm, seed, _ in (*losses, *loads)}
    return tuple(
        Curves(
            arm=arm,
            seed=seed,
            layer=layer,
            information=information.get((arm, seed, layer), ()),
            load=loads.get((arm, seed, layer), ()),
            lm_loss=losses.get((arm, seed, None), ()),
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


def curve_table(curves: Sequence[Curves], bars: str = BARS, *, when: str = "Over training") -> TextTable:
    """A sparkline and the last value a quantity that there is; bars of a column share one scale, from its lowest to its
    highest. The title says when, and what each column is of."""
    several = len({row.seed for row in curves}) > 1
    there = [quantity for quantity in _QUANTITIES if any(map(quantity.of, curves))]
    shown = [_column([quantity.of(row) for row in curves], bars, quantity.show) for quantity in there]
    last = max((step for row in curves for quantity in there for step, _ in quantity.of(row)), default=0)
    sources = "; ".join(f"{quantity.name} {quantity.source}" for quantity in there)
    return TextTable(
        title=f"{when}, step 0 to {count(last)}: {sources}. Bars of a column share one scale, numbers are the last",
        columns=("arm", *(("seed",) if several else ()), "layer", *(quantity.heading for quantity in there)),
        numeric=(False, *((True,) if several else ()), True, *(False for _ in there)),
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


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """A column of `curve_table`; `source` says which text its values are of."""

    name: str
    heading: str
    source: str
    of: Callable[[Curves], Series]
    show: Callable[[float], str]


_QUANTITIES = (
    _Quantity(
        name="domain information",
        heading="domain information, % of H(D)",
        source="of probe documents at each trace",
        of=lambda row: row.information,
        show=_share,
    ),
    _Quantity(
        name="largest load",
        heading="largest load",
        source="of the training steps' own tokens",
        of=lambda row: row.load,
        show=_share,
    ),
    _Quantity(
        name="LM loss",
        heading="LM loss on dev",
        source="of dev text at each evaluation",
        of=lambda row: row.lm_loss,
        show=loss,
    ),
)
