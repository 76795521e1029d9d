"""Loads over training: maps of layer × expert × step, and how many experts that amounts to."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moe_emergence import routing
from moe_emergence.analysis.evolution import LoadPoint
from moe_emergence.report.curves import Legend, add_legend, draw_arms, lines_of, stacked_panels
from moe_emergence.report.numbers import percent
from moe_emergence.report.style import DIVERGING, new_figure

SLIM_ROW, ROW = 0.045, 0.13
"""Inches that an expert's row takes at least, and where there are few."""
Quantity = Literal["effective", "dead", "hot"]


@dataclass(frozen=True, kw_only=True)
class ExpertCount:
    """How many of a layer's experts are used at `step`: as if `effective` shared the load evenly (k..E); `dead` and
    `hot` ones."""

    arm: str
    seed: int
    layer: int
    step: int
    experts: int
    effective: float
    dead: int
    hot: int


def load_maps(points: Sequence[LoadPoint], top_k: int, collapsed: Mapping[int, int]) -> Figure:
    """One panel a layer of one run: experts × training steps, coloured by log2(load ÷ uniform).

    White is the uniform share 1/E; the scale, the same for all runs with as many experts and slots, reaches beyond
    what is dead, and to all that an expert can take; the colour bar names both thresholds.

    Args:
        collapsed: layer to the step at which the detector first called it collapsed.
    """
    panels = [(layer, list(rows)) for layer, rows in groupby(points, key=lambda point: point.layer)]
    experts = len({point.expert for point in points})
    limit = max(1 - math.log2(routing.DEAD_SHARE), math.log2(experts / top_k))
    height = 0.42 + max(SLIM_ROW * experts, min(1.1, ROW * experts))
    figure = new_figure(1.15 + height * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (layer, rows) in zip(axes, panels, strict=True):
        image = _map(axis, rows, experts, limit)
        axis.set_title(f"layer {layer}")
        if layer in collapsed:
            _mark(axis, collapsed[layer])
    axes[-1].set_xlabel("training step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _scale(figure, image, axes, limit, experts, top_k)
    return figure


def _map(axis: Any, rows: Sequence[LoadPoint], experts: int, limit: float) -> Any:
    steps = sorted({row.step: row.steps for row in rows}.items())
    edges = [steps[0][0] - steps[0][1], *(step for step, _ in steps)]
    ratios = np.array([row.load / row.uniform for row in rows]).reshape(len(steps), experts).T
    with np.errstate(divide="ignore"):
        values = np.log2(ratios).clip(-limit, limit)
    image = axis.pcolormesh(
        edges, np.arange(experts + 1) - 0.5, values, cmap=DIVERGING, norm=Normalize(-limit, limit), rasterized=True
    )
    axis.grid(False)
    axis.set_ylim(experts - 0.5, -0.5)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axis.set_ylabel("expert")
    return image


def _mark(axis: Any, step: int) -> None:
    axis.axvline(step, color="black", linewidth=1.4)
    late = step > sum(axis.get_xlim()) / 2
    axis.annotate(
        f"collapsed at step {step:,}", (step, 1), xycoords=("data", "axes fraction"),
        xytext=(-3 if late else 3, 3), textcoords="offset points", ha="right" if late else "left", fontsize=8,
    )  # fmt: skip


def _scale(figure: Figure, image: Any, axes: Any, limit: float, experts: int, top_k: int) -> None:
    bar = figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.9, aspect=40, pad=0.02)
    dead, hot = math.log2(routing.DEAD_SHARE), hot_ratio(experts, top_k)
    ticks = {dead: "dead", 0.0: "1/E", math.log2(experts / top_k): f"{experts / top_k:g}×"}
    if hot is not None:
        ticks |= {math.log2(hot): "hot"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.set_label(f"load ÷ uniform share, 1/E = {percent(1 / experts)}")
    bar.outline.set_visible(False)
    for threshold in (dead, 0.0, *(() if hot is None else (math.log2(hot),))):
        bar.ax.axvline(threshold, color="black", linewidth=1)


def hot_ratio(experts: int, top_k: int) -> float | None:
    """Load ÷ uniform above which an expert is hot: E·(1/E + 3/7·(1/k − 1/E)); None where none can be (k = E)."""
    return None if experts == top_k else 1 + routing.HOT_EXCESS * (experts / top_k - 1)


def expert_counts(points: Sequence[LoadPoint], top_k: Mapping[str, int]) -> Iterator[ExpertCount]:
    """One row an arm, seed, layer and step; `top_k` is each arm's."""
    for (arm, seed, layer, step), rows in groupby(points, key=lambda p: (p.arm, p.seed, p.layer, p.step)):
        load = np.array([row.load for row in rows])
        yield ExpertCount(
            arm=arm,
            seed=seed,
            layer=layer,
            step=step,
            experts=len(load),
            effective=float(routing.effective_experts(load)),
            dead=int(routing.dead_experts(load).sum()),
            hot=int(routing.hot_experts(load, top_k[arm]).sum()),
        )


def expert_count_curves(counts: Sequence[ExpertCount], legend: Legend, quantity: Quantity) -> Figure:
    """One panel a layer, one line an arm (thin: each seed): a number of experts over training steps.

    Dashed: all E experts for the effective ones, which is balance; 0 for dead and hot ones.
    """
    layers = sorted({row.layer for row in counts})
    figure, axes = stacked_panels(len(layers), 1.5, legend=True)
    for axis, layer in zip(axes, layers, strict=True):
        mine = [row for row in counts if row.layer == layer]
        draw_arms(axis, lines_of(mine, lambda row: getattr(row, quantity)), legend.styles())
        for balance in {row.experts for row in mine} if quantity == "effective" else {0}:
            axis.axhline(balance, color="black", linestyle="--", linewidth=0.9)
        axis.set_title(f"layer {layer}")
        axis.set_ylabel("experts")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes[0].set_ylim(bottom=0 if quantity == "effective" else -0.25)
    add_legend(figure, axes, legend, {row.arm for row in counts})
    return figure
