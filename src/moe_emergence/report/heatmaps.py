"""Domains × experts and loads: functions from a table to a figure."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from moe_emergence.analysis.balance import RoutingRow, ShareRow
from moe_emergence.report.numbers import percent
from moe_emergence.report.style import DIVERGING, WIDTH, label, new_figure

CELL_TEXT_EXPERTS = 16
"""Up to this many experts each cell is wide enough for its number."""
WIDE_CELL_EXPERTS = 10
"""Up to this many, for a decimal too."""


def colour_limit(shares: Sequence[ShareRow]) -> float:
    """log2 of the largest share ÷ uniform in the table, at least 1: where the colour scale ends, on both sides."""
    return max([1.0, *(math.log2(row.share / row.uniform) for row in shares if row.share > 0)])


def share_heatmaps(shares: Sequence[ShareRow], routing: Sequence[RoutingRow], limit: float) -> Figure:
    """One panel a layer (and seed): share of each domain's assignments that go to each expert.

    White is the uniform baseline 1/E; colour is log2(share ÷ uniform), from −limit to limit.

    Args:
        shares: rows of one arm; routing: its rows, for the hot and dead marks.
        limit: of `colour_limit`, over all arms that are to be compared.
    """
    panels = [(key, list(rows)) for key, rows in groupby(shares, key=lambda row: (row.seed, row.layer))]
    domains, experts = (len({getattr(row, name) for row in panels[0][1]}) for name in ("domain", "expert"))
    width = max(WIDTH, 1.4 + 0.13 * experts)
    figure = new_figure(0.75 + len(panels) * (0.62 + 0.27 * domains), width)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    seeds = len({seed for (seed, _), _ in panels})
    for axis, ((seed, layer), rows) in zip(axes, panels, strict=True):
        flagged = next(row for row in routing if (row.seed, row.layer) == (seed, layer))
        image = _heatmap(axis, rows, flagged, limit)
        axis.set_title(f"layer {layer}" + (f", seed {seed}" if seeds > 1 else ""))
    axes[-1].set_xlabel("expert")
    _colour_bar(figure, image, axes, limit, panels[0][1][0].uniform)
    return figure


def _heatmap(axis: Any, rows: Sequence[ShareRow], flagged: RoutingRow, limit: float) -> Any:
    domains = list(dict.fromkeys(row.domain for row in rows))
    values = np.array([row.share for row in rows]).reshape(len(domains), -1)
    with np.errstate(divide="ignore"):
        ratios = np.log2(values / rows[0].uniform).clip(-limit, limit)
    image = axis.imshow(ratios, cmap=DIVERGING, norm=Normalize(-limit, limit), aspect="auto")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    for edge in range(1, max(values.shape)):
        axis.axhline(edge - 0.5, color="white", linewidth=1.2)
        axis.axvline(edge - 0.5, color="white", linewidth=1.2)
    axis.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(len(domains) - 0.5, -0.5))
    axis.set_yticks(range(len(domains)), [label(domain) for domain in domains])
    axis.tick_params(length=0)
    _expert_ticks(axis, flagged)
    if values.shape[1] <= CELL_TEXT_EXPERTS:
        _write_cells(axis, values, ratios, limit)
    return image


def _expert_ticks(axis: Any, flagged: RoutingRow) -> None:
    every = math.ceil(flagged.experts / CELL_TEXT_EXPERTS)
    marks = {**dict.fromkeys(flagged.hot, "\nhot"), **dict.fromkeys(flagged.dead, "\ndead")}
    shown = range(0, flagged.experts, every)
    axis.set_xticks(shown, [f"{expert}{marks.get(expert, '') if every == 1 else ''}" for expert in shown])


def _write_cells(axis: Any, values: Any, ratios: Any, limit: float) -> None:
    for (row, column), share in np.ndenumerate(values):
        colour = "white" if abs(ratios[row, column]) > 0.62 * limit else "black"
        axis.text(column, row, _cell_text(share, values.shape[1]), ha="center", va="center", color=colour, fontsize=8)


def _cell_text(share: float, experts: int) -> str:
    """Per cent without the sign: `12.5`, `0`; without decimals where cells are narrow."""
    return f"{100 * share:.0f}" if share == 0 or share == 1 or experts > WIDE_CELL_EXPERTS else f"{100 * share:.1f}"


def _colour_bar(figure: Figure, image: Any, axes: Any, limit: float, uniform: float) -> None:
    powers = range(-math.floor(limit), math.floor(limit) + 1, max(1, math.floor(limit) // 3))
    ticks = sorted({*powers, 0})
    bar = figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.9, aspect=40, pad=0.02)
    bar.set_ticks(ticks, labels=[_ratio(power) for power in ticks])
    bar.set_label(f"share ÷ uniform share, 1/E = {percent(uniform)}")
    bar.outline.set_visible(False)
    bar.ax.axvline(0, color="black", linewidth=1)


def _ratio(power: int) -> str:
    return f"{2**power}×" if power >= 0 else f"1/{2**-power}×"
