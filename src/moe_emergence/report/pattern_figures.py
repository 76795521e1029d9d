"""Token or domain, saturation, co-activation and format: functions from a table to a figure."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from moe_emergence.analysis.coactivation import CoactivationRow
from moe_emergence.analysis.format_swaps import FormatSwapRow
from moe_emergence.analysis.saturation import SaturationRow
from moe_emergence.analysis.specialisation import ALPHA
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.curves import Legend, add_legend, draw_arms, lines_of, mean_line, stacked_panels
from moe_emergence.report.estimates import PERMUTED, Mark, draw_marks, forest, mark_panels
from moe_emergence.report.heatmaps import WIDE_CELL_EXPERTS, expert_ticks, write_cell
from moe_emergence.report.numbers import GAP
from moe_emergence.report.style import DIVERGING, WIDTH, label, new_figure

Term = Literal["token", "domain_given_token"]
_VALUES = {"token": "token_information", "domain_given_token": "domain_given_token"}
_AXES = {"token": "I(E;X), bits", "domain_given_token": "I(E;D|X), bits"}


def token_split_marks(rows: Sequence[TokenSplitRow], legend: Legend, term: Term) -> Figure:
    """One panel a layer, one row an arm and step: one term of I(E;D,X) beside its null, bits.

    Black bars are the term's null, less the bias that was taken off the value; filled marks are beyond it (p < 0.05).
    """
    panels: dict[int, list[TokenSplitRow]] = {}
    for row in sorted(rows, key=lambda row: (row.layer, legend.arms.index(row.arm), -row.step)):
        panels.setdefault(row.layer, []).append(row)
    figure, axes = mark_panels([len(mine) for mine in panels.values()], legend_lines=1)
    for axis, (layer, mine) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color="black", linewidth=0.9)
        for place, row in enumerate(mine):
            low, high = split_null(row, term)
            axis.barh(place, high - low, height=0.5, left=low, color=PERMUTED, linewidth=0)
        draw_marks(axis, [_split_mark(row, legend, term) for row in mine])
        axis.set_title(f"layer {layer}")
    axes[-1].set_xlabel(_AXES[term])
    handles = {
        "beyond its null": Line2D([], [], color="#444444", marker="o", markersize=5),
        "not": Line2D([], [], color="#444444", marker="o", markersize=5, markerfacecolor="white"),
        "null, central 95 %": Patch(color=PERMUTED),
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3)
    return figure


def split_null(row: TokenSplitRow, term: Term) -> tuple[float, float]:
    """The null's central 95 %, bits, less the bias of the value it stands beside."""
    bias = getattr(row, f"{term}_plug_in") - getattr(row, _VALUES[term])
    return getattr(row, f"{term}_null_low") - bias, getattr(row, f"{term}_null_high") - bias


def _split_mark(row: TokenSplitRow, legend: Legend, term: Term) -> Mark:
    return Mark(
        text=f"{label(row.arm, 12)}, step {row.step}",
        value=getattr(row, _VALUES[term]),
        low=getattr(row, f"{term}_low"),
        high=getattr(row, f"{term}_high"),
        colour=legend.styles()[row.arm]["color"],
        filled=getattr(row, f"{term}_p") < ALPHA,
    )


def saturation_curves(rows: Sequence[SaturationRow], legend: Legend) -> Figure:
    """One panel a layer, one line an arm (thin: each seed): share of a token's last experts that it has already.

    Bands: 95 % intervals over documents, where there is one seed. Dashed, in the arm's colour: what the loads of both
    steps give (k/E when they are even), mean of seeds.
    """
    layers = sorted({row.layer for row in rows})
    seeds = len({row.seed for row in rows})
    figure, axes = stacked_panels(len(layers), 1.6, legend=True)
    for axis, layer in zip(axes, layers, strict=True):
        mine = [row for row in rows if row.layer == layer]
        draw_arms(axis, lines_of(mine, lambda row: row.overlap), legend.styles(), marker="o")
        for arm in dict.fromkeys(row.arm for row in mine):
            of_arm = [row for row in mine if row.arm == arm]
            colour = legend.styles()[arm]["color"]
            by_loads = mean_line(list(lines_of(of_arm, lambda row: row.chance_loads).values()))
            axis.plot(*by_loads, color=colour, linestyle="--", linewidth=1)
            if seeds == 1:
                steps, low, high = zip(*((row.step, row.low, row.high) for row in of_arm), strict=True)
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_title(f"layer {layer}")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=f"{GAP}%"))
    axes[0].set_ylim(0, 1.04)
    add_legend(figure, axes, legend, {row.arm for row in rows})
    return figure


def coactivation_heatmaps(rows: Sequence[CoactivationRow], experts: int) -> Figure:
    """One panel a layer of one run: experts × experts, how often a token uses both ÷ by independent choice.

    White is chance at these loads; colour is log2 of the ratio, numbers are ratios; grey: an expert with itself, or
    without tokens.
    """
    layers = sorted({row.layer for row in rows})
    limit = max([1.0, *(abs(math.log2(excess(row))) for row in rows if excess(row) > 0)])
    figure = new_figure(0.9 + 3.1 * len(layers), WIDTH)
    axes = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
    for axis, layer in zip(axes, layers, strict=True):
        values = np.full((experts, experts), np.nan)
        for row in rows:
            if row.layer == layer:
                values[row.expert, row.other] = excess(row)
        image = _pairs(axis, values, limit)
        axis.set_title(f"layer {layer}")
    axes[-1].set_xlabel("expert")
    bar = figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.9, aspect=40, pad=0.02)
    bar.set_ticks([-limit, 0, limit], labels=[f"{2**-limit:.2g}×", "1× (chance)", f"{2**limit:.2g}×"])
    bar.set_label("used together ÷ by independent choice at these loads")
    bar.outline.set_visible(False)
    return figure


def excess(row: CoactivationRow) -> float:
    """Lift ÷ the lift of independent choice: 1 at chance, 0 when two experts never serve a token together."""
    return row.lift / row.lift_chance if row.lift_chance else 1.0


def _pairs(axis: Any, values: Any, limit: float) -> Any:
    with np.errstate(divide="ignore"):
        ratios = np.log2(values).clip(-limit, limit)
    axis.set_facecolor("#d9d9d9")
    image = axis.imshow(ratios, cmap=DIVERGING, norm=Normalize(-limit, limit), aspect="equal")
    axis.grid(False)
    axis.tick_params(length=0)
    expert_ticks(axis, len(values), {})
    axis.set_ylabel("expert")
    if len(values) <= WIDE_CELL_EXPERTS:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                write_cell(axis, row, column, f"{value:.2f}", on=image.to_rgba(ratios[row, column]), size=7)
    return image


def format_swap_forest(rows: Sequence[FormatSwapRow], colour: str) -> Figure:
    """One panel a layer of one run, one row a domain and swap: how far the swap moves a document's experts, bits.

    The tick on a row is as large a change of content; the line is the interval of the difference, laid at the tick.
    Filled marks differ from the content's (p < 0.05).
    """
    panels: dict[str, list[Mark]] = {}
    for row in rows:
        panels.setdefault(f"layer {row.layer}", []).append(
            Mark(
                text=f"{label(row.domain, 10)}: {label(row.swap, 26)}",
                value=row.format_divergence,
                low=row.content_divergence + row.low,
                high=row.content_divergence + row.high,
                colour=colour,
                filled=row.p < ALPHA,
                ticks=(row.content_divergence,),
            )
        )
    figure, axes = forest(panels)
    axes[-1].set_xlabel("Jensen–Shannon divergence, bits")
    return figure
