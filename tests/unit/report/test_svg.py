"""What is left out of a figure's SVG, and what must stay."""

import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from moe_emergence.report import style
from moe_emergence.report.pictures import _svg
from moe_emergence.report.svg import compact, cropped, data_uri

WRITTEN = """<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "x"
 "y">
<svg height="306pt" viewBox="0 0 345.6 306" version="1.1">
 <metadata>
  <a/>
 </metadata>
 <g id="text_1">
  <!-- 1 -->
  <g transform="translate(1.23456 2.3) scale(0.015625)">
   <defs>
    <path id="DejaVuSans-14" d="M 794 531
L 18.256 531.000000
z
"/>
   </defs>
   <use xlink:href="#DejaVuSans-14"/>
   <use xlink:href="#DejaVuSans-14" transform="translate(63.623047 0)"/>
  </g>
 </g>
</svg>
"""


def test_blanks_comments_metadata_and_long_numbers_are_left_out() -> None:
    assert compact(WRITTEN) == (
        '<svg height="306pt" viewBox="0 0 345.6 306" version="1.1"><g><g transform="translate(1.23 2.3) '
        'scale(0.015625)"><defs><path id="a0" d="M794 531L18.2 531z"/></defs><use href="#a0"/>'
        '<use href="#a0" x="63.62"/></g></g></svg>'
    )


def test_what_matplotlib_writes_stays_whole_and_every_reference_finds_its_mark() -> None:
    with style.styled():
        figure = Figure(figsize=(3, 2))
        axis = figure.subplots()
        axis.plot([0, 1, 2], [0.5, -1.25, 3], marker="o", linestyle="--")
        axis.imshow([[0, 1]], extent=(0, 1, 0, 1))
        axis.set_title("]]><!-- $x_1$ −3 %")
        written = _svg(figure)
    small = compact(written)
    assert len(small) < 0.75 * len(written)
    tree = ET.fromstring(small)
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    used = [element.get("href") for element in tree.iter() if element.get("href", "").startswith("#")]
    assert len(ids) == len(set(ids))
    assert used
    assert {name.removeprefix("#") for name in used} <= set(ids)
    assert small.count("<use ") == written.count("<use ")
    assert small.count("<path ") == written.count("<path ")


def test_a_picture_loses_its_topmost_points() -> None:
    assert 'height="270.00pt" viewBox="0 36.00 345.6 270.00"' in cropped(compact(WRITTEN), 36.0)
    with pytest.raises(ValueError, match="no height and viewBox"):
        cropped("<svg>", 1.0)


def test_a_data_uri_holds_the_svg_and_nothing_that_could_end_an_attribute() -> None:
    svg = '<svg a="1">\'&#%é</svg>'
    uri = data_uri(svg)
    assert unquote(uri.removeprefix("data:image/svg+xml,")) == svg
    assert not set("<>\"'&#") & set(uri)
