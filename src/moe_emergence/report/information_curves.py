"""Domain information over training, between untrained gates and the oracle: a function from a table to a figure."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from moe_emergence.analysis.specialisation import InformationRow
from moe_emergence.report.curves import Legend, add_legend, draw_arms, lines_of, stacked_panels
from moe_emergence.report.numbers import GAP
from moe_emergence.report.verdicts import corrected_share, fresh_range

UNTRAINED = "#cfcfcf"
ORACLE: dict[str, Any] = {"color": "#444444", "linestyle": (0, (1, 1.5)), "linewidth": 1.2}


def information_curves(
    rows: Sequence[InformationRow], legend: Legend, learning: Collection[str] | None = None
) -> Figure:
    """One panel a layer, one line an arm (thin: each seed): I(E;D) as a share of H(D), over steps, on a scale from
    chance (0) to routing by domain (100 %).

    The grey band is what untrained gates reach on the hidden states of the first or the last step: the central 95 %,
    mean over an arm's seeds, from the lowest to the highest of the arms `learning`, whose routers learn (None: all).
    """
    layers = sorted({row.layer for row in rows})
    figure, axes = stacked_panels(len(layers), 2.0, legend=True)
    for axis, layer in zip(axes, layers, strict=True):
        mine = [row for row in rows if row.layer == layer]
        _untrained_band(axis, [row for row in mine if learning is None or row.arm in learning])
        axis.axhline(1, **ORACLE)
        draw_arms(axis, lines_of(mine, corrected_share), legend.styles(), marker="o")
        axis.set_title(f"layer {layer}")
        axis.set_ylabel("% of H(D)")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=f"{GAP}%"))
    axes[0].set_ylim(-0.04, 1.06)
    others = {"untrained gates": Patch(color=UNTRAINED), "routing by domain": Line2D([], [], **ORACLE)}
    add_legend(figure, axes, legend, {row.arm for row in rows}, others)
    return figure


def _untrained_band(axis: Any, rows: Sequence[InformationRow]) -> None:
    ranges: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in rows:
        if (ends := fresh_range(row)) is not None:
            ranges.setdefault((row.arm, row.step), []).append(ends)
    if ranges:
        means = np.array([np.mean(ends, axis=0) for ends in ranges.values()])
        axis.axhspan(means[:, 0].min(), means[:, 1].max(), color=UNTRAINED, linewidth=0)
