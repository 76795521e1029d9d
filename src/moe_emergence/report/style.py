"""How figures look: one width that a phone can show, colours that colour-blind readers can tell apart, no mathtext."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from moe_emergence.report.numbers import GAP

WIDTH = 4.8
"""Inches; wider figures could not be read on a phone."""
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#777777")
"""Okabe and Ito's palette, without the yellow that paper swallows."""
DENSE_COLOUR = "#222222"
DASHES = ("-", "--", "-.", ":")
HOT, DEAD, ORDINARY = "#D55E00", "#0072B2", "#a8a8a8"
DIVERGING = LinearSegmentedColormap.from_list(
    "below-and-above",
    matplotlib.colormaps["PuOr_r"](np.linspace(0.1, 0.9, 256)),  # the ends are too dark to tell apart
)
"""Purple below the uniform baseline, orange above."""
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans", "Microsoft YaHei", "Hiragino Sans", "WenQuanYi Zen Hei")
"""matplotlib's own, then what a machine may have for scripts that it lacks."""

_SETTINGS: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "path.simplify_threshold": 0.5,  # pixels that a line may be off: noisy ones make a figure's file large
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.07,
    "text.parse_math": False,  # names come from users' files and may hold dollar signs
    "svg.fonttype": "path",
    "svg.hashsalt": "moe-emergence",
}


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved inside look alike, whatever the user's own matplotlib settings are."""
    installed = {font.name for font in fontManager.ttflist}
    fonts = [name for name in FONTS if name in installed]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS | {"font.family": fonts})
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure with constrained layout, inches."""
    return Figure(figsize=(width, height), layout="constrained")


def add_title(figure: Figure, title: str) -> float:
    """Lay the figure out and put `title` above it, wrapped; returns the inches of room made for it."""
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    lines = textwrap.wrap(label(title, len(title)), int(figure.get_figwidth() * 11))
    before = figure.get_figheight()
    after = before + 0.18 * len(lines) + 0.1
    places = [(axes, axes.get_position()) for axes in figure.axes]
    figure.set_layout_engine("none")
    figure.set_figheight(after)
    for axes, box in places:
        axes.set_position((box.x0, box.y0 * before / after, box.width, box.height * before / after))
    figure.text(0.015, 1 - 0.07 / after, "\n".join(lines), ha="left", va="top", fontsize=10, fontweight="bold")
    return after - before


def label(name: str, longest: int = 18) -> str:
    """A name from the user's data as a figure can show it: one line, printable, cut to `longest` characters."""
    shown = "".join(_printable(character) for character in name)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _printable(character: str) -> str:
    if character.isprintable() or character == GAP:
        return character
    return " " if character.isspace() else "\ufffd"


def arm_styles(arms: list[str], dense: str | None) -> dict[str, dict[str, Any]]:
    """Arm to line colour and dash; the dense arm is black, and no two arms share both."""
    others = [arm for arm in arms if arm != dense]
    styles: dict[str, dict[str, Any]] = {
        arm: {"color": ARM_COLOURS[n % len(ARM_COLOURS)], "linestyle": DASHES[n // len(ARM_COLOURS) % len(DASHES)]}
        for n, arm in enumerate(others)
    }
    return styles | ({dense: {"color": DENSE_COLOUR, "linestyle": "--"}} if dense in arms and dense else {})
