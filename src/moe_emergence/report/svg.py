"""matplotlib's SVG as the page shows it."""

import re
from urllib.parse import quote

_CLIP = re.compile(r'clip-path="url\(#(p[0-9a-f]{10})\)"')
_SIZE = re.compile(r'height="([\d.]+)pt" viewBox="0 0 ([\d.]+) [\d.]+"')
_UNSEEN = re.compile(r"<!--.*?-->|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_UNUSED_NAME = re.compile(r'(<g) id="[^"]*"')
_STYLE = re.compile(r'style="[^"]*"')
_SHAPE = re.compile(r' d="([^"]*)"')
_PLACE = re.compile(r' (x|y)="(-?[\d.]+)"')
_SHIFT = re.compile(r"translate\(([^)]*)\)")
_GLYPH = re.compile(r'(<use xlink:href="#[^"]*") transform="translate\((-?[\d.]+) 0\)"/>')
_USED = re.compile(r'xlink:href="#([^"]*)"')
_NAME = re.compile(r'((?:xlink:href="#)|(?: id="))([^"]*)"')
_NUMBER = re.compile(r"-?\d+\.\d+")
_DECIMALS = 2
"""Of a point, of a screen's pixel three quarters."""


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


def compact(svg: str) -> str:
    """The same picture in about half the text: no comments, metadata or names of groups that nothing asks for, lines
    and places to a hundredth of a point. Sizes and scales stay as they are: what is multiplied must not be rounded."""
    svg = _UNUSED_NAME.sub(r"\1", _UNSEEN.sub("", svg))
    svg = _STYLE.sub(lambda found: found[0].replace(": ", ":").replace("; ", ";"), svg)
    svg = _SHAPE.sub(lambda found: f' d="{_short_shape(found[1])}"', svg)
    svg = _PLACE.sub(lambda found: f' {found[1]}="{_rounded(found[2])}"', svg)
    svg = _SHIFT.sub(lambda found: f"translate({_short_numbers(found[1])})", svg)
    svg = _GLYPH.sub(r'\1 x="\2"/>', _short_names(svg))
    return re.sub(r">\s+<", "><", svg.replace("base64,\n", "base64,")).strip()


def _short_names(svg: str) -> str:
    """With what is drawn again and again, as letters and marks are, called g0, g1, ... in the order of its use."""
    short = {name: f"g{number}" for number, name in enumerate(dict.fromkeys(_USED.findall(svg)))}
    return _NAME.sub(lambda found: f'{found[1]}{short.get(found[2], found[2])}"', svg)


def _short_shape(shape: str) -> str:
    """A path's commands, each written once for as long as it is repeated."""
    said, last = [], ""
    for command, given in re.findall(r"([A-Za-z])([^A-Za-z]*)", shape):
        values = _short_numbers(given)
        said.append(f" {values}" if command == last and command in "LQC" else command + values)
        last = command
    return "".join(said)


def _short_numbers(text: str) -> str:
    return _NUMBER.sub(lambda found: _rounded(found[0]), " ".join(text.split()))


def _rounded(number: str) -> str:
    short = f"{float(number):.{_DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def data_uri(svg: str) -> str:
    """For an `img`'s source; shorter than base64."""
    return "data:image/svg+xml," + quote(svg, safe=" !$()*+,-./:;=?@[]^_`{|}~")
