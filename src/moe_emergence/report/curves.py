"""Quantities over training steps: functions from a table to a figure."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moe_emergence.analysis.evolution import LossPoint, RoutingPoint
from moe_emergence.report.numbers import GAP
from moe_emergence.report.style import arm_styles, label, new_figure

Styles = Mapping[str, Mapping[str, Any]]
Lines = Mapping[tuple[str, int], tuple[list[int], list[float]]]
"""(arm, seed) to its steps and values."""


@dataclass(frozen=True)
class Legend:
    """Arms in the order of the suite, and which of them has no experts."""

    arms: list[str]
    dense: str | None

    def styles(self) -> Styles:
        return arm_styles(self.arms, self.dense)


def entropy_curves(
    points: Sequence[RoutingPoint], legend: Legend, quantity: Literal["entropy_per_token", "entropy_of_load"]
) -> Figure:
    """One panel a layer, one line an arm (thin: each seed): an entropy ÷ ln E over training steps."""
    layers = sorted({point.layer for point in points})
    figure, axes = stacked_panels(len(layers), 1.6, legend=True)
    for axis, layer in zip(axes, layers, strict=True):
        mine = [point for point in points if point.layer == layer and point.maximum > 0]
        lines = lines_of(mine, lambda point: getattr(point, quantity) / point.maximum)
        draw_arms(axis, lines, legend.styles())
        axis.set_title(f"layer {layer}")
        axis.set_ylabel("÷ ln E")
    axes[0].set_ylim(0, 1.04)
    add_legend(figure, axes, legend, {point.arm for point in points})
    return figure


def loss_curves(points: Sequence[LossPoint], legend: Legend) -> Figure:
    """The macro LM loss on dev over steps and, where there is a dense arm, each arm's difference to it."""
    macro = [point for point in points if point.domain is None]
    compared = [point for point in macro if point.difference_to_dense is not None and point.arm != legend.dense]
    figure, axes = stacked_panels(2 if compared else 1, 2.0, legend=True, same_y=False)
    draw_arms(axes[0], lines_of(macro, lambda point: point.lm_loss), legend.styles(), marker="o")
    axes[0].set_title("all domains, each weighing the same")
    axes[0].set_ylabel(f"LM loss, nats{GAP}/{GAP}token")
    if compared:
        draw_arms(
            axes[1], lines_of(compared, lambda point: point.difference_to_dense or 0.0), legend.styles(), marker="o"
        )
        axes[1].axhline(0, **legend.styles()[legend.dense or ""], linewidth=0.9)
        axes[1].set_title(f"minus {label(legend.dense or '')}, same seed and step (below 0: better)")
        axes[1].set_ylabel(f"difference, nats{GAP}/{GAP}token")
    add_legend(figure, axes, legend, {point.arm for point in points})
    return figure


def domain_loss_curves(points: Sequence[LossPoint], legend: Legend) -> Figure:
    """One panel a domain: LM loss on dev over steps, one line an arm."""
    domains = list(dict.fromkeys(point.domain for point in points if point.domain is not None))
    figure, axes = stacked_panels(len(domains), 1.45, legend=True, same_y=False)
    for axis, domain in zip(axes, domains, strict=True):
        mine = [point for point in points if point.domain == domain]
        draw_arms(axis, lines_of(mine, lambda point: point.lm_loss), legend.styles(), marker="o")
        axis.set_title(label(domain, 40))
        axis.set_ylabel(f"nats{GAP}/{GAP}token")
    add_legend(figure, axes, legend, {point.arm for point in points})
    return figure


def stacked_panels(number: int, height: float, *, legend: bool = False, same_y: bool = True) -> tuple[Figure, Any]:
    """An empty figure of `number` panels over training steps, each `height` inches."""
    figure = new_figure(0.4 + height * number + (0.4 if legend else 0))
    axes = figure.subplots(number, 1, sharex=True, sharey=same_y, squeeze=False)[:, 0]
    axes[-1].set_xlabel("training step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure, axes


def lines_of(points: Iterable[Any], value: Callable[[Any], float]) -> Lines:
    """Steps and values of each arm and seed."""
    lines: dict[tuple[str, int], tuple[list[int], list[float]]] = {}
    for point in points:
        steps, values = lines.setdefault((point.arm, point.seed), ([], []))
        steps.append(point.step)
        values.append(value(point))
    return lines


def draw_arms(axis: Any, lines: Lines, styles: Styles, marker: str = "") -> None:
    """Each arm's mean over its seeds; behind it, thin, each seed where there are several."""
    for arm in dict.fromkeys(arm for arm, _ in lines):
        mine = [line for (name, _), line in lines.items() if name == arm]
        steps, mean = mean_line(mine)
        axis.plot(steps, mean, **styles[arm], marker=marker, markersize=3)
        for seed_steps, values in mine if len(mine) > 1 else []:
            axis.plot(seed_steps, values, **styles[arm], linewidth=0.7, alpha=0.45)


def mean_line(lines: Sequence[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """Mean over the lines at the steps they all have."""
    tables = [dict(zip(steps, values, strict=True)) for steps, values in lines]
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    return shared, [float(np.mean([table[step] for table in tables])) for step in shared]


def add_legend(
    figure: Figure, axes: Any, legend: Legend, drawn: set[str], others: Mapping[str, Any] | None = None
) -> None:
    """The arms that are drawn, below the panels, then `others`: name to handle."""
    arms = [arm for arm in legend.arms if arm in drawn]
    handles = {label(arm): axes[0].plot([], [], **legend.styles()[arm])[0] for arm in arms} | dict(others or {})
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=_columns(len(handles)))


def _columns(entries: int) -> int:
    """Columns of a legend: at most four, rows as even as can be."""
    return math.ceil(entries / math.ceil(entries / 4))
