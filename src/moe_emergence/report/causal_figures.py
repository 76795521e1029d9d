"""What experts are worth: functions from a table of interventions to a figure."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.causal.regret import RegretRow
from moe_emergence.analysis.scoreboard import ScoreRow
from moe_emergence.analysis.specialisation import ALPHA
from moe_emergence.report import numbers
from moe_emergence.report.curves import Legend
from moe_emergence.report.estimates import Mark, forest
from moe_emergence.report.heatmaps import CELL_TEXT_EXPERTS, expert_ticks, write_cell
from moe_emergence.report.numbers import GAP
from moe_emergence.report.style import DIVERGING, WIDTH, label, new_figure
from moe_emergence.report.verdicts import beyond_chance

MEAN = "all domains"
MILLI = 1000
NEUTRAL = "#444444"


def effect_limit(rows: Sequence[KnockoutRow]) -> float:
    """The largest effect of either sign in the table, milli-nats: where the colour scale ends on both sides."""
    return MILLI * max((abs(row.effect) for row in rows), default=0.0) or 1.0


def knockout_heatmaps(rows: Sequence[KnockoutRow], limit: float) -> Figure:
    """One panel a layer: what taking an expert away does to each domain's loss, milli-nats a token.

    White is no change, orange worse without the expert; numbers that differ from 0 beyond chance are bold.

    Args:
        rows: of one run, step and intervention; `domain` None is the mean over domains, drawn last.
        limit: of `effect_limit`, over all that is to be compared.
    """
    layers = sorted({row.layer for row in rows})
    domains = sorted({row.domain for row in rows}, key=lambda name: (name is None, name or ""))
    experts = len({row.expert for row in rows})
    height = 0.55 + 0.27 * len(domains)
    figure = new_figure(0.95 + height * len(layers), max(WIDTH, 1.4 + 0.13 * experts))
    axes = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
    judged = list(zip(rows, beyond_chance([row.p for row in rows]), strict=True))
    for axis, layer in zip(axes, layers, strict=True):
        cells = {(row.domain, row.expert): (row, bold) for row, bold in judged if row.layer == layer}
        image = _effects(axis, [[cells[domain, expert] for expert in range(experts)] for domain in domains], limit)
        axis.set_yticks(range(len(domains)), [MEAN if domain is None else label(domain) for domain in domains])
        axis.set_title(f"layer {layer}")
    axes[-1].set_xlabel("expert")
    bar = figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.9, aspect=40, pad=0.02)
    bar.set_label(f"loss change, milli-nats{GAP}/{GAP}token of the domain")
    bar.outline.set_visible(False)
    return figure


def _effects(axis: Any, cells: Sequence[Sequence[tuple[KnockoutRow, bool]]], limit: float) -> Any:
    values = np.array([[MILLI * cell.effect for cell, _ in row] for row in cells])
    image = axis.imshow(values, cmap=DIVERGING, norm=Normalize(-limit, limit), aspect="auto")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    expert_ticks(axis, values.shape[1], {})
    if values.shape[1] <= CELL_TEXT_EXPERTS:
        places = 1 if limit >= 1 else 2
        for (row, column), value in np.ndenumerate(values):
            text, bold = numbers.minus(value, places), cells[row][column][1]
            write_cell(axis, row, column, text, on=image.to_rgba(value), size=7.5, bold=bold)
    return image


def regret_forest(rows: Sequence[RegretRow], legend: Legend) -> Figure:
    """One panel a layer, one row an arm and seed: loss with another expert in the chosen one's place minus the loss.

    At 0 a choice is no better than chance; filled marks differ from it (p < 0.05).
    """
    figure, axes = forest(
        _by_layer(rows, legend, lambda row: (row.regret, row.low, row.high), lambda row: row.p < ALPHA)
    )
    axes[-1].set_xlabel(f"another expert minus the chosen, nats{GAP}/{GAP}token")
    return figure


def best_choice_forest(rows: Sequence[RegretRow], legend: Legend) -> Figure:
    """One panel a layer, one row an arm and seed: share of tokens whose own expert has the smallest loss of all.

    The line is chance, 1/(E − k + 1), of the first row; a tick marks that of each row. Filled marks are above the share
    of tokens whose own expert is the worst, with the intervals apart: chance alone is no bar for a choice.
    """
    figure, axes = forest(
        _by_layer(
            rows,
            legend,
            lambda row: (row.best_share, row.best_low, row.best_high),
            lambda row: row.best_low > row.worst_high,
            lambda row: row.chance_share,
        ),
        rows[0].chance_share,
    )
    axes[-1].set_xlabel("tokens whose own expert is the best for them")
    axes[-1].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=f"{GAP}%"))
    return figure


def _by_layer(
    rows: Sequence[RegretRow], legend: Legend, value: Any, filled: Any, chance: Any = None
) -> dict[str, list[Mark]]:
    seeds = len({row.seed for row in rows})
    ordered = sorted(rows, key=lambda row: (row.layer, legend.arms.index(row.arm), row.seed))
    panels: dict[str, list[Mark]] = {}
    for row in ordered:
        middle, low, high = value(row)
        mark = Mark(
            text=f"{label(row.arm, 14)}{f' · {row.seed}' if seeds > 1 else ''}",
            value=middle,
            low=low,
            high=high,
            colour=legend.styles()[row.arm]["color"],
            filled=filled(row),
            ticks=() if chance is None else (chance(row),),
        )
        panels.setdefault(f"layer {row.layer}", []).append(mark)
    return panels


_TITLE = 38
"""Characters of a line of a panel's title that have room between the measures' names and the figure's edge."""


def scoreboard(rows: Sequence[ScoreRow]) -> Figure:
    """One panel a causal effect, one row a measure, from the highest rank correlation down.

    At 0 a measure does not tell the order of experts; filled marks are beyond chance (p < 0.05, Benjamini–Hochberg).
    """
    panels: dict[str, list[Mark]] = {}
    known = [(row, row.rho) for row in rows if row.rho is not None]
    for row, rho in sorted(known, key=lambda pair: -pair[1]):
        panels.setdefault(row.effect, []).append(
            Mark(
                text=label(row.measure, 34),
                value=rho,
                low=rho if row.low is None else row.low,
                high=rho if row.high is None else row.high,
                colour=NEUTRAL,
                filled=row.p_adjusted is not None and row.p_adjusted < ALPHA,
            )
        )
    titles = {effect: "\n".join(textwrap.wrap(effect, _TITLE)) for effect in panels}
    figure, axes = forest({titles[effect]: panels[effect] for effect in sorted(panels)})
    axes[-1].set_xlabel("Spearman's rho within layers")
    axes[-1].set_xlim(-1.02, 1.02)
    return figure
