"""matplotlib's SVG as the page can afford it: the same picture in about half the bytes."""

import re
from urllib.parse import quote

_NEEDLESS = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_GROUP_NAME = re.compile(r'<g id="[^"]*"')  # nothing refers to a group
_PATH = re.compile(r' d="([^"]*)"')
_LONG_NUMBER = re.compile(r"scale\([^)]*\)|(\d+\.\d\d)\d+")
_POINT = re.compile(r"(\d+)\.0+(?!\d)|(\d+\.\d)\d+")
_SHIFTED = re.compile(r'(<use href="#\w+") transform="translate\(([\d.]+) 0\)"')
_GLYPH = re.compile(r'(id="|href="#)([A-Za-z]+(?:-[A-Za-z]+)*-[0-9a-f]+)"')
_SIZE = re.compile(r'height="([\d.]+)pt" viewBox="0 0 ([\d.]+) [\d.]+"')


def compact(svg: str) -> str:
    """Without metadata, comments, group names and blanks; short names for glyphs, lines to a tenth of a point."""
    text = _GROUP_NAME.sub("<g", _NEEDLESS.sub("", svg))
    short: dict[str, str] = {}
    text = _GLYPH.sub(lambda glyph: f'{glyph[1]}{short.setdefault(glyph[2], f"a{len(short)}")}"', text)
    text = _PATH.sub(lambda path: f' d="{_tight(path[1])}"', text)
    text = _LONG_NUMBER.sub(lambda number: number[1] or number[0], text)
    text = _SHIFTED.sub(r'\1 x="\2"', text.replace(' xlink:href="', ' href="'))
    text = re.sub(r">\s+<", "><", text.replace("base64,\n", "base64,"))
    return re.sub(r"\s*\n\s*", " ", text).replace("<g/>", "").strip()


def _tight(path: str) -> str:
    """`M 0 1.234 \\nL 2 3 \\nz` as `M0 1.2L2 3z`."""
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", _POINT.sub(lambda number: number[1] or number[2], path)).strip()


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


def data_uri(svg: str) -> str:
    """For an `img`'s source; shorter than base64."""
    return "data:image/svg+xml," + quote(svg, safe=" !$()*+,-./:;=?@[]^_`{|}~")
