"""A drawing kept: as PNG and SVG files with its title, and as the page holds it."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moe_emergence.analysis.files import replace_file
from moe_emergence.report.drawings import Drawing
from moe_emergence.report.style import add_title, styled

DOTS_PER_INCH = 170


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
        width = round(figure.get_figwidth() * 96)
        source = "data:image/svg+xml;base64," + base64.b64encode(_saved(figure, format="svg")).decode()
        add_title(figure, drawing.title)
        files = {"svg": _saved(figure, format="svg"), "png": _saved(figure, format="png", dpi=DOTS_PER_INCH)}
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


def _saved(figure: Figure, **options: Any) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if options["format"] == "svg" else {"Software": None}
    figure.savefig(file, metadata=metadata, **options)
    return file.getvalue()
