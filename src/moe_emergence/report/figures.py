"""Every figure of the report as a function from a table's rows to a matplotlib `Figure`, for notebooks and scripts.

    from moe_emergence.report import figures

    suite, tables = figures.read("runs/quickstart")
    figures.made(suite, tables, "specialisation")                   # one of the page's figures, by its name
    moe = [row for row in tables.shares if row.arm == "moe"]
    figures.share_heatmaps(moe, tables.routing, figures.colour_limit(moe))

The functions are those that the page itself draws with, in the page's style; each one's docstring says which rows it
takes. A figure that is added to the page is added here by one line.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from moe_emergence.analysis.reading import read_given
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.stored import analysed
from moe_emergence.analysis.tables import Tables
from moe_emergence.errors import AnalysisError
from moe_emergence.report import (
    causal_figures,
    curves,
    estimates,
    heatmaps,
    information_curves,
    pattern_figures,
)
from moe_emergence.report import load_maps as load_maps_of_runs
from moe_emergence.report.curves import Legend
from moe_emergence.report.drawings import drawings
from moe_emergence.report.heatmaps import colour_limit
from moe_emergence.report.measure_drawings import legend_of
from moe_emergence.report.style import styled

__all__ = [
    "Legend",
    "best_choice_forest",
    "class_heatmaps",
    "coactivation_heatmaps",
    "colour_limit",
    "domain_loss_curves",
    "entropy_curves",
    "expert_count_curves",
    "format_swap_forest",
    "information_difference_forest",
    "information_over_steps",
    "knockout_heatmaps",
    "legend_of",
    "load_maps",
    "loss_curves",
    "loss_difference_forest",
    "made",
    "names",
    "read",
    "regret_forest",
    "saturation_curves",
    "scoreboard",
    "share_heatmaps",
    "specialisation_marks",
    "token_split_marks",
]
Arguments = ParamSpec("Arguments")


def in_style(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """`draw` with the page's style, whatever matplotlib's settings are; its own function is `__wrapped__`."""

    @functools.wraps(draw)
    def drawn(*arguments: Arguments.args, **options: Arguments.kwargs) -> Figure:
        with styled():
            figure = draw(*arguments, **options)
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()  # ticks are made when first drawn, with the settings of that moment
        return figure

    return drawn


specialisation_marks = in_style(estimates.specialisation_marks)
information_over_steps = in_style(information_curves.information_curves)
information_difference_forest = in_style(estimates.information_difference_forest)
share_heatmaps = in_style(heatmaps.share_heatmaps)
class_heatmaps = in_style(heatmaps.class_heatmaps)
load_maps = in_style(load_maps_of_runs.load_maps)
expert_count_curves = in_style(load_maps_of_runs.expert_count_curves)
entropy_curves = in_style(curves.entropy_curves)
loss_curves = in_style(curves.loss_curves)
domain_loss_curves = in_style(curves.domain_loss_curves)
loss_difference_forest = in_style(estimates.loss_difference_forest)
knockout_heatmaps = in_style(causal_figures.knockout_heatmaps)
regret_forest = in_style(causal_figures.regret_forest)
best_choice_forest = in_style(causal_figures.best_choice_forest)
scoreboard = in_style(causal_figures.scoreboard)
token_split_marks = in_style(pattern_figures.token_split_marks)
saturation_curves = in_style(pattern_figures.saturation_curves)
coactivation_heatmaps = in_style(pattern_figures.coactivation_heatmaps)
format_swap_forest = in_style(pattern_figures.format_swap_forest)


def read(*folders: str | Path, out: str | Path | None = None) -> tuple[Suite, Tables]:
    """A suite's or runs' records and tables, as `moe-emergence report` reads them; what was not analysed yet is, which
    takes minutes.

    Args:
        out: where tables of several runs go.

    Raises:
        AnalysisError: a record is missing or torn; names file and key.
    """
    suite = read_given([Path(folder) for folder in folders], None if out is None else Path(out))
    return suite, analysed(suite)


def names(suite: Suite, tables: Tables) -> list[str]:
    """The names of the page's figures, in its order."""
    return [drawing.name for drawing in drawings(suite, tables)]


def made(suite: Suite, tables: Tables, name: str) -> Figure:
    """The figure called `name` on the page.

    Raises:
        AnalysisError: there is none of that name; the message has those there are.
    """
    for drawing in drawings(suite, tables):
        if drawing.name == name:
            return in_style(drawing.make)()
    raise AnalysisError(f"there is no figure {name!r}: {', '.join(names(suite, tables))}")
