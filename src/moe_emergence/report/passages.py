"""Text as tokens on the colours of experts: what each token adds, what would be invisible, and the colours' rules."""

import codecs
import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

from moe_emergence.report.visible import visible

CONTRAST = 4.5
"""What text needs against its ground [WCAG 2.2, criterion 1.4.3]."""
_HUES = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#56B4E9", "#D55E00", "#5A5A5A")
"""Okabe and Ito's palette, which colour-blind readers tell apart; grey for black, which a dark page swallows."""
_INKS = ("#000000", "#FFFFFF")
_BLANKS = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


@dataclass(frozen=True)
class ExpertStyle:
    """Class name and colours (#rrggbb) of one expert's tokens: contrast at least 4.5."""

    name: str
    ground: str
    ink: str

    @property
    def rule(self) -> str:
        return f".{self.name} {{ background: {self.ground}; color: {self.ink}; }}"


def token_texts(pieces: Sequence[bytes]) -> list[str]:
    """What each token adds to the text: a character split over tokens stands at the one that completes it, the others
    add nothing, nor does one that the end cuts. Bytes that are no text are �."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(piece) for piece in pieces]


def spelled(text: str) -> str:
    """`text` with its blanks shown: ␣ ⏎ ⇥."""
    return text.translate(_BLANKS)


def spelled_token(piece: bytes) -> str:
    """One token by itself; bytes that are a part of a character as numbers, ⟨E2 80⟩, and a token of no text as ⟨⟩."""
    try:
        return spelled(visible(piece.decode())) or "⟨⟩"
    except UnicodeDecodeError:
        return f"⟨{piece.hex(' ').upper()}⟩"


def expert_styles(n_experts: int) -> tuple[ExpertStyle, ...]:
    """Colours of `n_experts` experts, the same on a light and a dark page: 8 hues, then the same ones lighter and
    darker by turns."""
    rounds = math.ceil(n_experts / len(_HUES))
    return tuple(_style(expert, rounds) for expert in range(n_experts))


def style_rules(n_experts: int) -> str:
    """CSS rules of all experts' colours, for the page's style element."""
    return "\n".join(style.rule for style in expert_styles(n_experts))


def readable_ink(ground: str) -> str:
    """Black or white, whichever stands out more: at least 4.58 on any ground."""
    return max(_INKS, key=lambda ink: contrast(ink, ground))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 (alike) … 21 (black and white) [WCAG 2.2]."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _style(expert: int, rounds: int) -> ExpertStyle:
    turn, hue = divmod(expert, len(_HUES))
    ground = _HUES[hue] if rounds == 1 else _lightened(_HUES[hue], turn / (rounds - 1))
    return ExpertStyle(f"x{expert}", ground, readable_ink(ground))


def _lightened(colour: str, share: float) -> str:
    """The hue with a lightness from 0.3 (share 0) to 0.85 (share 1)."""
    hue, _, saturation = colorsys.rgb_to_hls(*_channels(colour))
    return _hex(colorsys.hls_to_rgb(hue, 0.3 + 0.55 * share, saturation))


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red / 255, green / 255, blue / 255


def _hex(channels: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02X}" for channel in channels)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
