"""Domain information over training: a function from a table to a figure."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from moe_emergence.analysis.specialisation import InformationRow
from moe_emergence.report.curves import Legend, add_legend, draw_arms, lines_of, stacked_panels
from moe_emergence.report.numbers import GAP
from moe_emergence.report.verdicts import corrected_share, fresh_range, null_range

PERMUTED = "#bdbdbd"


def information_curves(rows: Sequence[InformationRow], legend: Legend) -> Figure:
    """One panel a layer, one line an arm (thin: each seed): I(E;D) as a share of H(D), over steps.

    The grey band around 0 holds the permutation null of every arm and seed; bars beside the first and last step the
    fresh gates, as far as those of any seed reach.
    """
    layers = sorted({row.layer for row in rows})
    figure, axes = stacked_panels(len(layers), 1.75, legend=True)
    for axis, layer in zip(axes, layers, strict=True):
        mine = [row for row in rows if row.layer == layer]
        _permutation_band(axis, mine)
        draw_arms(axis, lines_of(mine, corrected_share), legend.styles(), marker="o")
        _fresh_bars(axis, mine, legend)
        axis.set_title(f"layer {layer}")
        axis.set_ylabel("% of H(D)")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=f"{GAP}%"))
    add_legend(figure, axes, legend, {row.arm for row in rows})
    return figure


def _permutation_band(axis: Any, rows: Sequence[InformationRow]) -> None:
    steps = sorted({row.step for row in rows})
    ranges = [[null_range(row) for row in rows if row.step == step] for step in steps]
    lows, highs = ([end(r[side] for r in at) for at in ranges] for side, end in ((0, min), (1, max)))
    axis.fill_between(steps, lows, highs, color=PERMUTED, linewidth=0)


def _fresh_bars(axis: Any, rows: Sequence[InformationRow], legend: Legend) -> None:
    """Left of the first step one bar an arm, right of the last step too, in the order of the legend."""
    arms = [arm for arm in legend.arms if any(row.arm == arm for row in rows)]
    first, last = min(row.step for row in rows), max(row.step for row in rows)
    width = 0.017 * max(1, last - first)
    for step, outwards in ((first, -1), (last, 1)):
        for place, arm in enumerate(arms):
            found = [ends for row in rows if (row.arm, row.step) == (arm, step) and (ends := fresh_range(row))]
            if found:
                low, high = min(low for low, _ in found), max(high for _, high in found)
                middle = step + outwards * width * (place + 1.5)
                axis.bar(middle, high - low, 0.8 * width, low, color=legend.styles()[arm]["color"], alpha=0.45)
