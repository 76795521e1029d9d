"""Domains × experts and token classes × experts: functions from a table to a figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.token_rows import TokenClassRow
from moe_emergence.report.numbers import count, percent
from moe_emergence.report.passages import readable_ink
from moe_emergence.report.style import DIVERGING, WIDTH, label, new_figure

Row = TypeVar("Row", ShareRow, TokenClassRow)
CELL_TEXT_EXPERTS = 16
"""Up to this many experts each cell is wide enough for its number."""
WIDE_CELL_EXPERTS = 10
"""Up to this many, for a decimal too."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One panel: [rows, experts] shares, each row summing to 1; `marks` are words under an expert's number."""

    title: str
    rows: Sequence[str]
    shares: NDArray[np.float64]
    marks: Mapping[int, str]


def colour_limit(shares: Sequence[ShareRow | TokenClassRow]) -> float:
    """log2 of the largest share ÷ uniform in the table, at least 1: where the colour scale ends, on both sides."""
    return max([1.0, *(math.log2(row.share / row.uniform) for row in shares if row.share > 0)])


def share_heatmaps(shares: Sequence[ShareRow], routing: Sequence[RoutingRow], limit: float) -> Figure:
    """One panel a layer (and seed): share of each domain's assignments that go to each expert.

    White is the uniform baseline 1/E; colour is log2(share ÷ uniform), from −limit to limit.

    Args:
        shares: rows of one arm; routing: its rows, for the hot and dead marks.
        limit: of `colour_limit`, over all arms that are to be compared.
    """
    flagged = {(row.seed, row.layer): row for row in routing}
    several = len({row.seed for row in shares}) > 1
    grids = [
        Grid(
            title=_where(layer, seed, several),
            rows=[label(name) for name in dict.fromkeys(row.domain for row in rows)],
            shares=_matrix(rows),
            marks=_marks(flagged[seed, layer]),
        )
        for (seed, layer), rows in _by_panel(shares)
    ]
    return _heatmaps(grids, shares[0].uniform, limit)


def class_heatmaps(cells: Sequence[TokenClassRow], limit: float) -> Figure:
    """One panel a layer (and seed, and domain): share of each token class's assignments that go to each expert.

    Classes without a token are left out; behind a class's name is its number of assignments. Colours as in
    `share_heatmaps`.
    """
    several = len({row.seed for row in cells}) > 1
    domains = list(dict.fromkeys(row.domain for row in cells))
    grids = []
    for (seed, layer), of_layer in _by_panel(cells):
        for domain in domains:
            rows = [row for row in of_layer if row.domain == domain]
            totals = {name: sum(r.assignments for r in rows if r.token_class == name) for name in _classes(rows)}
            kept = [row for row in rows if totals[row.token_class]]
            grids.append(
                Grid(
                    title=_where(layer, seed, several) + (f", {label(domain)}" if len(domains) > 1 else ""),
                    rows=[f"{label(name)} ({count(number)})" for name, number in totals.items() if number],
                    shares=_matrix(kept),
                    marks={},
                )
            )
    return _heatmaps(grids, cells[0].uniform, limit)


def _classes(rows: Sequence[TokenClassRow]) -> list[str]:
    return list(dict.fromkeys(row.token_class for row in rows))


def _by_panel(rows: Sequence[Row]) -> list[tuple[tuple[int, int], list[Row]]]:
    panels: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.seed, row.layer), []).append(row)
    return list(panels.items())


def _where(layer: int, seed: int, several: bool) -> str:
    return f"layer {layer}" + (f", seed {seed}" if several else "")


def _matrix(rows: Sequence[ShareRow | TokenClassRow]) -> NDArray[np.float64]:
    """[rows, experts]; a table's rows run expert by expert."""
    experts = len({row.expert for row in rows})
    return np.array([row.share for row in rows], dtype=np.float64).reshape(-1, experts)


def _marks(row: RoutingRow) -> dict[int, str]:
    return {**dict.fromkeys(row.hot, "hot"), **dict.fromkeys(row.dead, "dead")}


def _heatmaps(grids: Sequence[Grid], uniform: float, limit: float) -> Figure:
    width = max(WIDTH, 1.4 + 0.13 * grids[0].shares.shape[1])
    heights = [0.62 + 0.27 * len(grid.rows) for grid in grids]
    figure = new_figure(0.75 + sum(heights), width)
    axes = figure.subplots(len(grids), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, grid in zip(axes, grids, strict=True):
        image = _heatmap(axis, grid, uniform, limit)
        axis.set_title(grid.title)
    axes[-1].set_xlabel("expert")
    _colour_bar(figure, image, axes, limit, uniform)
    return figure


def _heatmap(axis: Any, grid: Grid, uniform: float, limit: float) -> Any:
    values = grid.shares
    with np.errstate(divide="ignore"):
        ratios = np.log2(values / uniform).clip(-limit, limit)
    image = axis.imshow(ratios, cmap=DIVERGING, norm=Normalize(-limit, limit), aspect="auto")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    for edge in range(1, max(values.shape)):
        axis.axhline(edge - 0.5, color="white", linewidth=1.2)
        axis.axvline(edge - 0.5, color="white", linewidth=1.2)
    axis.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(len(grid.rows) - 0.5, -0.5))
    axis.set_yticks(range(len(grid.rows)), grid.rows)
    axis.tick_params(length=0)
    expert_ticks(axis, values.shape[1], grid.marks)
    if values.shape[1] <= CELL_TEXT_EXPERTS:
        _write_cells(axis, values, image.to_rgba(ratios))
    return image


def expert_ticks(axis: Any, experts: int, marks: Mapping[int, str]) -> None:
    """Number the experts below an axis, as many as have room; `marks` are words under an expert's number."""
    every = math.ceil(experts / CELL_TEXT_EXPERTS)
    words = {expert: f"\n{word}" for expert, word in marks.items() if every == 1}
    shown = range(0, experts, every)
    axis.set_xticks(shown, [f"{expert}{words.get(expert, '')}" for expert in shown])


def _write_cells(axis: Any, values: Any, colours: Any) -> None:
    for (row, column), share in np.ndenumerate(values):
        write_cell(axis, row, column, _cell_text(share, values.shape[1]), on=colours[row, column])


def write_cell(axis: Any, row: int, column: int, text: str, *, on: Any, size: float = 8, bold: bool = False) -> None:
    """A number on a cell of the colour `on`. The layout need not know it: it lies inside its panel, and asking
    hundreds of them for their size takes most of a figure's time."""
    axis.text(
        column, row, text, ha="center", va="center", fontsize=size, color=readable_ink(to_hex(on)),
        fontweight="bold" if bold else "normal", in_layout=False,
    )  # fmt: skip


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
