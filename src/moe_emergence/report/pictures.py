"""A drawing kept: as PNG and SVG files with its title, and as the page holds it."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from moe_emergence.analysis.files import replace_file
from moe_emergence.report.drawings import Drawing
from moe_emergence.report.style import add_title, styled

PNG_DOTS_PER_INCH = 170
CSS_DOTS_PER_INCH = 96


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing as the page holds it; `source` is a data: URI."""

    name: str
    section: str
    title: str
    reading: str
    source: str
    width: int


def keep(drawing: Drawing, folder: Path) -> Picture:
    """Draw once: `<name>.png` and `<name>.svg` with the title in `folder`, and the page's picture without it."""
    with styled():
        figure = drawing.make()
        width = round(figure.get_figwidth() * CSS_DOTS_PER_INCH)
        source = "data:image/svg+xml;base64," + base64.b64encode(_svg(figure)).decode()
        add_title(figure, drawing.title)
        files = {"svg": _svg(figure), "png": _png(figure)}
    for kind, content in files.items():
        replace_file(folder / f"{drawing.name}.{kind}", content)
    return Picture(
        name=drawing.name,
        section=drawing.section,
        title=drawing.title,
        reading=drawing.reading,
        source=source,
        width=width,
    )


# Canvases are asked directly: `savefig` would draw everything once more for a layout that drawing makes anyway.
def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.set_dpi(PNG_DOTS_PER_INCH)
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
