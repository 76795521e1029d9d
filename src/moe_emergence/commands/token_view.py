"""Tokens with the experts they used: coloured text on a terminal of many colours, else (or with NO_COLOR) a table."""

import colorsys
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")


@dataclass(frozen=True, kw_only=True)
class TokenUse:
    """One token.

    Attributes:
        text: what it adds to the text.
        generated: whether the model wrote it.
        experts: for each MoE layer the experts it was sent to, most probable first; empty for a dense model.
        of: experts a layer.
    """

    text: str
    generated: bool
    experts: dict[int, tuple[int, ...]]
    of: int


def print_tokens(tokens: Sequence[TokenUse], console: Console | None = None) -> None:
    """Write them to stdout."""
    out = console or Console(file=sys.stdout)
    if _shows_colours(out) and tokens[0].experts:
        for layer in tokens[0].experts:
            out.print(_coloured(tokens, layer), soft_wrap=True, highlight=False)
    else:
        out.print(plain(tokens), soft_wrap=True, highlight=False, markup=False, emoji=False)


def _shows_colours(console: Console) -> bool:
    """Whether it is a terminal that can tell the experts' colours apart: one of 16 colours cannot."""
    enough = console.color_system in ("256", "truecolor")
    return console.is_terminal and enough and not os.environ.get("NO_COLOR")


def plain(tokens: Sequence[TokenUse]) -> str:
    """The text; then a line a token: `+` where the model wrote it, the token, its experts in each layer."""
    text = "".join(_visible(token.text) for token in tokens)
    layers = list(tokens[0].experts)
    if not layers:
        return f"{text}\n\n(a dense model: no experts)"
    cells = [
        ["+" if t.generated else " ", repr(t.text), *(",".join(map(str, t.experts[n])) for n in layers)] for t in tokens
    ]
    table = [[" ", "token", *(f"layer {layer}" for layer in layers)], *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([text, "", *lines])


def _coloured(tokens: Sequence[TokenUse], layer: int) -> Text:
    """The text with each token on its first expert's colour, what the model wrote in bold, and a legend."""
    view = Text.assemble((f"layer {layer}", "underline"), "\n")
    for token in tokens:
        view.append(_visible(token.text), _style(token.experts[layer][0], token.of, token.generated))
    view.append("\n")
    for expert, count in sorted(Counter(token.experts[layer][0] for token in tokens).items()):
        view.append(f" {expert} ", _style(expert, token.of, False)).append(f" {count / len(tokens):.0%}  ")
    return view.append("\n")


def _style(expert: int, experts: int, bold: bool) -> Style:
    """Black or white on a colour that colour-blind readers tell apart (up to 8 experts; beyond, evenly spaced hues)."""
    if experts <= len(_OKABE_ITO):
        red, green, blue = Color.parse(_OKABE_ITO[expert]).get_truecolor()
    else:
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(expert / experts, 0.6, 0.9))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 110
    return Style(color="white" if dark else "black", bgcolor=Color.from_rgb(red, green, blue), bold=bold)


def _visible(text: str) -> str:
    """Line breaks and tabs as they are; any other character that could steer a terminal by its escape."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
