"""A drawing kept: as PNG and SVG files with its title, and as the page holds it."""

import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from moe_emergence.analysis.files import replace_file
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.style import add_title, styled
from moe_emergence.report.svg import compact, cropped, data_uri, numbered

PNG_DOTS_PER_INCH = 170
CSS_DOTS_PER_INCH = 96
POINTS_PER_INCH = 72


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing as the page holds it; `source` is a data: URI, width and height are CSS pixels."""

    name: str
    section: str
    title: str
    reading: str
    tables: tuple[str, ...]
    source: str
    width: int
    height: int


def keep(drawing: Drawing, folder: Path) -> Picture:
    """Draw once: `<name>.png` and `<name>.svg` with the title in `folder`, and the page's picture without it."""
    stop_if_asked()
    with styled():
        figure = drawing.make()
        width = round(figure.get_figwidth() * CSS_DOTS_PER_INCH)
        added = add_title(figure, drawing.title)
        height = round((figure.get_figheight() - added) * CSS_DOTS_PER_INCH)
        svg, png = _svg(figure), _png(figure)
    replace_file(folder / f"{drawing.name}.svg", svg)
    replace_file(folder / f"{drawing.name}.png", png)
    return Picture(
        name=drawing.name,
        section=drawing.section,
        title=drawing.title,
        reading=drawing.reading,
        tables=drawing.tables,
        source=data_uri(cropped(compact(svg), added * POINTS_PER_INCH)),
        width=width,
        height=height,
    )


# Canvases are asked directly: `savefig` would draw everything once more for a layout that is fixed by now.
def _svg(figure: Figure) -> str:
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return numbered(file.getvalue())


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.set_dpi(PNG_DOTS_PER_INCH)
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
