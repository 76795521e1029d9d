"""Estimates with their intervals, one mark a row: functions from a table to a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moe_emergence.analysis.comparisons import InformationDifferenceRow, LossDifferenceRow
from moe_emergence.analysis.specialisation import ALPHA, InformationRow, VerdictRow
from moe_emergence.report.curves import Legend
from moe_emergence.report.numbers import GAP
from moe_emergence.report.style import label, new_figure
from moe_emergence.report.verdicts import corrected_share, fresh_range, is_learned, null_range

FRESH_LAST, FRESH_FIRST, PERMUTED = "#9a9a9a", "#d9d9d9", "#222222"
ROW, PANEL = 0.23, 0.42
"""Inches that a row takes, and what a panel needs beside its rows."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An estimate with its interval; `ticks` are other values of its row: the smallest and largest of single seeds, or
    what chance gives."""

    text: str
    value: float
    low: float
    high: float
    colour: str
    filled: bool = True
    ticks: tuple[float, ...] = ()


def specialisation_marks(
    last: Sequence[InformationRow], first: Sequence[InformationRow], verdicts: Sequence[VerdictRow], legend: Legend
) -> Figure:
    """One panel a layer, one row an arm and seed: I(E;D) as a share of H(D) beside both nulls, where 0 is chance.

    Args:
        last, first: rows of each run's last and first trace, whose fresh gates are drawn; marks of runs with a verdict
            of learned specialisation are filled.
    """
    layers = sorted({row.layer for row in last})
    seeds = len({row.seed for row in last})
    learned = {(row.arm, row.seed, row.layer): is_learned(row) for row in verdicts}
    begun = {(row.arm, row.seed, row.layer): fresh_range(row) for row in first}
    panels = {layer: _in_order([row for row in last if row.layer == layer], legend) for layer in layers}
    figure, axes = mark_panels([len(rows) for rows in panels.values()], legend_lines=2)
    for axis, (layer, rows) in zip(axes, panels.items(), strict=True):
        for place, row in enumerate(rows):
            key = (row.arm, row.seed, row.layer)
            _bar(axis, place, begun.get(key), 0.78, FRESH_FIRST)
            _bar(axis, place, fresh_range(row), 0.5, FRESH_LAST)
            _bar(axis, place, null_range(row), 0.24, PERMUTED)
            axis.set_title(f"layer {layer}")
        draw_marks(axis, [_specialisation_mark(row, learned, legend, seeds) for row in rows])
    axes[-1].set_xlabel("domain information beyond chance, % of H(D)")
    axes[-1].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=f"{GAP}%"))
    _specialisation_legend(figure, begun)
    return figure


def _in_order(rows: Sequence[InformationRow], legend: Legend) -> list[InformationRow]:
    return sorted(rows, key=lambda row: (legend.arms.index(row.arm), row.seed))


def _specialisation_mark(
    row: InformationRow, learned: Mapping[tuple[str, int, int], bool], legend: Legend, seeds: int
) -> Mark:
    return Mark(
        text=f"{label(row.arm, 14)}{f' · {row.seed}' if seeds > 1 else ''}",
        value=corrected_share(row),
        low=row.low_share,
        high=row.high_share,
        colour=legend.styles()[row.arm]["color"],
        filled=learned.get((row.arm, row.seed, row.layer), False),
    )


def _specialisation_legend(figure: Figure, begun: Mapping[Any, Any]) -> None:
    handles: dict[str, Any] = {
        "run alone: specialised": Line2D([], [], color="#444444", marker="o", markersize=5),
        "run alone: not shown": Line2D([], [], color="#444444", marker="o", markersize=5, markerfacecolor="white"),
        "permuted documents": Patch(color=PERMUTED),
        "fresh gates, last step": Patch(color=FRESH_LAST),
    }
    if any(found is not None for found in begun.values()):
        handles["fresh gates, first step"] = Patch(color=FRESH_FIRST)
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=2)


def _bar(axis: Any, place: int, ends: tuple[float, float] | None, height: float, colour: str) -> None:
    if ends is not None:
        axis.barh(place, ends[1] - ends[0], height=height, left=ends[0], color=colour, linewidth=0)


def loss_difference_forest(rows: Sequence[LossDifferenceRow], legend: Legend) -> Figure:
    """One panel for the mean over domains and one a domain, one row an arm: LM loss minus that of `against`, nats."""
    domains = sorted({row.domain for row in rows}, key=lambda domain: (domain is not None, domain or ""))
    several = len({row.against for row in rows}) > 1
    panels = {
        ("all domains, each weighing the same" if domain is None else label(domain, 40)): [
            _difference_mark(row, row.difference, row.low, row.high, legend, several, (row.seed_low, row.seed_high))
            for row in rows
            if row.domain == domain
        ]
        for domain in domains
    }
    figure, axes = forest(panels)
    against = "" if several else f" minus {label(rows[0].against)}"
    axes[-1].set_xlabel(f"LM loss{against}, nats{GAP}/{GAP}token (below 0: better)")
    return figure


def information_difference_forest(rows: Sequence[InformationDifferenceRow], legend: Legend) -> Figure:
    """One panel a layer, one row an arm: its I(E;D) minus its baseline's, percentage points of H(D)."""
    several = len({row.against for row in rows}) > 1
    panels = {
        f"layer {layer}": [
            _difference_mark(row, row.share, row.low_share, row.high_share, legend, several, ())
            for row in rows
            if row.layer == layer
        ]
        for layer in sorted({row.layer for row in rows})
    }
    figure, axes = forest(panels)
    against = "" if several else f" minus that of {label(rows[0].against)}"
    axes[-1].set_xlabel(f"domain information{against}, % of H(D)")
    axes[-1].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=f"{GAP}%"))
    return figure


def _difference_mark(
    row: LossDifferenceRow | InformationDifferenceRow,
    value: float,
    low: float,
    high: float,
    legend: Legend,
    several: bool,
    seeds: tuple[float, ...],
) -> Mark:
    return Mark(
        text=f"{label(row.arm, 14)}{f' − {label(row.against, 14)}' if several else ''}",
        value=value,
        low=low,
        high=high,
        colour=legend.styles()[row.arm]["color"],
        filled=row.p_holm < ALPHA,
        ticks=seeds if row.seeds > 1 else (),
    )


def forest(panels: Mapping[str, Sequence[Mark]], baseline: float = 0.0) -> tuple[Figure, Any]:
    """One panel a title, one row a mark, and a line at `baseline`."""
    figure, axes = mark_panels([len(marks) for marks in panels.values()])
    for axis, (title, marks) in zip(axes, panels.items(), strict=True):
        axis.axvline(baseline, color="black", linewidth=0.9)
        axis.set_title(title)
        draw_marks(axis, marks)
    return figure, axes


def mark_panels(rows: Sequence[int], legend_lines: int = 0) -> tuple[Figure, Any]:
    """An empty figure of one panel for each number of rows, which is how tall it is."""
    heights = [PANEL + ROW * number for number in rows]
    figure = new_figure(0.45 + sum(heights) + 0.22 * legend_lines)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure, axes


def draw_marks(axis: Any, marks: Sequence[Mark]) -> None:
    """Marks from top to bottom, each with its interval and ticks; hollow where a mark is not filled."""
    for place, mark in enumerate(marks):
        axis.plot([mark.low, mark.high], [place, place], color=mark.colour, linewidth=1.8, solid_capstyle="butt")
        for tick in mark.ticks:
            axis.plot([tick], [place], color=mark.colour, linewidth=0, marker="|", markersize=7)
        face = mark.colour if mark.filled else "white"
        axis.plot([mark.value], [place], color=mark.colour, marker="o", markersize=5.5, markerfacecolor=face)
    axis.set_yticks(range(len(marks)), [mark.text for mark in marks])
    axis.set_ylim(len(marks) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
