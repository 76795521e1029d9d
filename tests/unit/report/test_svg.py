"""A figure's SVG as the page shows it: without its title, in an attribute."""

from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from moe_emergence.report import style
from moe_emergence.report.pictures import _svg
from moe_emergence.report.svg import cropped, data_uri, numbered


def test_a_picture_loses_its_topmost_points() -> None:
    with style.styled():
        written = _svg(Figure(figsize=(4, 2)))
    assert 'height="144pt" viewBox="0 0 288 144"' in written
    assert 'height="108.00pt" viewBox="0 36.00 288 108.00"' in cropped(written, 36.0)
    with pytest.raises(ValueError, match="no height and viewBox"):
        cropped("<svg>", 1.0)


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
