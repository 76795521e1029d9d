"""A figure's SVG as the page shows it: without its title, in an attribute."""

import re
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from moe_emergence.report import style
from moe_emergence.report.pictures import _svg
from moe_emergence.report.svg import compact, cropped, data_uri, numbered


def test_a_picture_loses_its_topmost_points() -> None:
    with style.styled():
        written = _svg(Figure(figsize=(4, 2)))
    assert 'height="144pt" viewBox="0 0 288 144"' in written
    assert 'height="108.00pt" viewBox="0 36.00 288 108.00"' in cropped(written, 36.0)
    with pytest.raises(ValueError, match="no height and viewBox"):
        cropped("<svg>", 1.0)


def test_a_compact_picture_holds_the_same_shapes_at_the_same_places_to_a_hundredth() -> None:
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "a"\n "b">\n<svg xmlns:xlink="x">\n <metadata>\n <b/></metadata>\n'
        '<!-- a name -->\n<g id="line_1">\n<path id="Font-1f" '
        'd="M 1.23456 -0.0001 \nL 2 3.999 \nL 4 5 \nQ 1 2 3 4 \nz \n" '
        'transform="scale(0.015625)" style="fill: #ffffff; stroke: none"/></g>'
        '<use xlink:href="#Font-1f" transform="translate(61.523438 0)"/><use xlink:href="#Font-1f" x="7.129" y="8.0"/>'
        '<g transform="translate(1.005 2.123456) scale(0.09 -0.09)"/><rect id="kept" x="1" height="144.017778"/>'
        "</svg>\n"
    )
    assert compact(svg) == (
        '<?xml version="1.0"?><svg xmlns:xlink="x"><g><path id="g0" d="M1.23 0L2 4 4 5Q1 2 3 4z" '
        'transform="scale(0.015625)" style="fill:#ffffff;stroke:none"/></g>'
        '<use xlink:href="#g0" x="61.52"/><use xlink:href="#g0" x="7.13" y="8"/>'
        '<g transform="translate(1 2.12) scale(0.09 -0.09)"/><rect id="kept" x="1" height="144.017778"/></svg>'
    )


def test_a_compact_figure_is_far_smaller_the_same_each_time_and_names_all_that_it_uses() -> None:
    with style.styled():
        figure = Figure(figsize=(4, 2))
        figure.subplots().plot(range(99), [(7 * place) % 13 for place in range(99)], marker="o")
        figure.suptitle("a title <&>")
        written = _svg(figure)
    small = compact(written)
    assert len(data_uri(small)) < 0.75 * len(data_uri(written))
    assert compact(written) == small
    ET.fromstring(small)
    asked = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', small))
    assert {"".join(names) for names in asked} <= set(re.findall(r' id="([^"]*)"', small))
    assert small.count("<use") == written.count("<use")


def test_a_data_uri_holds_the_svg_and_nothing_that_could_end_an_attribute() -> None:
    svg = '<svg a="1">\'&#%é</svg>'
    uri = data_uri(svg)
    assert unquote(uri.removeprefix("data:image/svg+xml,")) == svg
    assert not set("<>\"'&#") & set(uri)


def test_clip_paths_are_numbered_in_the_order_of_their_use() -> None:
    first, second = "p0123456789", "pabcdef0123"
    svg = (
        f'<g clip-path="url(#{second})"/><g clip-path="url(#{first})"/><g clip-path="url(#{second})"/>'
        f'<clipPath id="{first}"/><clipPath id="{second}"/><path id="p999"/>'
    )
    assert numbered(svg) == (
        '<g clip-path="url(#clip0)"/><g clip-path="url(#clip1)"/><g clip-path="url(#clip0)"/>'
        '<clipPath id="clip1"/><clipPath id="clip0"/><path id="p999"/>'
    )
    assert numbered("<svg/>") == "<svg/>"
