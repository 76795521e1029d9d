"""matplotlib's SVG as the page shows it."""

import re
from urllib.parse import quote

_CLIP = re.compile(r'clip-path="url\(#(p[0-9a-f]{10})\)"')
_SIZE = re.compile(r'height="([\d.]+)pt" viewBox="0 0 ([\d.]+) [\d.]+"')


def cropped(svg: str, points: float) -> str:
    """The picture without its topmost points.

    Raises:
        ValueError: the text does not begin as matplotlib's SVG does.
    """
    found = _SIZE.search(svg)
    if found is None:
        raise ValueError("the SVG has no height and viewBox where matplotlib writes them")
    height = float(found[1]) - points
    size = f'height="{height:.2f}pt" viewBox="0 {points:.2f} {found[2]} {height:.2f}"'
    return svg[: found.start()] + size + svg[found.end() :]


def numbered(svg: str) -> str:
    """The picture with its clip paths numbered in the order of their use: matplotlib names them by a hash of
    coordinates that hold the last bit of a layout, which can differ between processes where nothing drawn does."""
    names = dict.fromkeys(_CLIP.findall(svg))
    places = {name: f"clip{number}" for number, name in enumerate(names)}
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], svg) if places else svg


def data_uri(svg: str) -> str:
    """For an `img`'s source; shorter than base64."""
    return "data:image/svg+xml," + quote(svg, safe=" !$()*+,-./:;=?@[]^_`{|}~")
