"""Held-out passages with each token on the colour of the expert it went to first, as values a template prints."""

import codecs
import colorsys
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_emergence.data.probe import Probe
from moe_emergence.errors import AnalysisError
from moe_emergence.report import numbers
from moe_emergence.report.visible import visible

TOKENS = 120
"""How many tokens of a document a passage shows."""
CONTRAST = 4.5
"""What text needs against its ground [WCAG 2.2, criterion 1.4.3]."""
_HUES = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#56B4E9", "#D55E00", "#5A5A5A")
"""Okabe and Ito's palette, which colour-blind readers tell apart; grey for black, which a dark page swallows."""
_INKS = ("#000000", "#FFFFFF")
_BLANKS = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


@dataclass(frozen=True)
class PassageToken:
    """A piece of text with the expert its (last) token was sent to first, and what to say on hovering over it."""

    text: str
    expert: int
    note: str

    @property
    def spelled(self) -> str:
        """The text with its blanks shown."""
        return self.text.translate(_BLANKS)

    @property
    def is_break(self) -> bool:
        """Whether it is line breaks and space alone, which have no area to colour or to hover over."""
        return "\n" in self.text and self.text.isspace()


@dataclass(frozen=True, kw_only=True)
class ExpertShare:
    """How many of a passage's tokens an expert was first choice for, and of all of them, 0..1."""

    expert: int
    tokens: int
    share: float

    @property
    def percent(self) -> str:
        return numbers.percent(self.share)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The beginning of one held-out document as one layer of one arm routed it.

    Attributes:
        domain, document, source: what the passage is from.
        tokens: in order; their texts joined are the passage.
        shares: of the experts that got any, in order of their numbers.
    """

    domain: str
    document: str
    source: str
    arm: str
    layer: int
    tokens: tuple[PassageToken, ...]
    shares: tuple[ExpertShare, ...]

    @property
    def title(self) -> str:
        return f"{self.domain}: first choice in layer {self.layer} of {self.arm}"

    @property
    def counted(self) -> int:
        """Tokens, also those that show nothing because a later one completes their character."""
        return sum(share.tokens for share in self.shares)


@dataclass(frozen=True)
class ExpertStyle:
    """Class name and colours (#rrggbb) of one expert's tokens: contrast at least 4.5."""

    name: str
    ground: str
    ink: str

    @property
    def rule(self) -> str:
        return f".{self.name} {{ background: {self.ground}; color: {self.ink}; }}"


@dataclass(frozen=True, kw_only=True)
class TokenRoute:
    """Where one layer sent one token.

    Attributes:
        experts: most probable first.
        entropy: of the clean probabilities, nats.
        next_loss: of the token that follows, nats; None at a document's last.
        token_class: its class in the domain's scheme, where it has one.
    """

    experts: tuple[int, ...]
    entropy: float
    next_loss: float | None = None
    token_class: str | None = None

    @property
    def note(self) -> str:
        first, *others = self.experts
        after = f" (second: {others[0]})" if others else ""
        parts = [f"expert {first}{after}", f"entropy {self.entropy:.2f} nats"]
        if self.next_loss is not None and not math.isnan(self.next_loss):
            parts.append(f"loss of the next token {self.next_loss:.2f} nats")
        if self.token_class is not None:
            parts.append(f"class: {self.token_class}")
        return ", ".join(parts)


def choose_passage(probe: Probe, domain: int) -> int:
    """The probe's row of the first document of `domain`, in the probe's own order: none is picked by its looks.

    Raises:
        AnalysisError: the probe has no document of that domain.
    """
    rows = np.flatnonzero(probe.domain == domain)
    if not len(rows):
        raise AnalysisError(
            f"the probe has no document of domain {domain}: it has {sorted(set(probe.domain.tolist()))}"
        )
    return int(rows[0])


def make_passage(
    pieces: Sequence[bytes],
    routes: Sequence[TokenRoute],
    *,
    domain: str,
    document: str,
    source: str,
    arm: str,
    layer: int,
    tokens: int = TOKENS,
) -> Passage:
    """The first `tokens` of a document, from each one's bytes (`token_types.token_bytes`) and route.

    A character of several tokens is shown at the last of them; shares are of tokens, not of what is shown.
    """
    pieces, routes = pieces[:tokens], routes[:tokens]
    shown = [
        PassageToken(visible(text), route.experts[0], route.note)
        for text, route in zip(token_texts(pieces), routes, strict=True)
        if text
    ]
    counted = Counter(route.experts[0] for route in routes)
    shares = tuple(ExpertShare(expert=e, tokens=n, share=n / len(routes)) for e, n in sorted(counted.items()))
    return Passage(
        domain=visible(domain),
        document=visible(document),
        source=visible(source),
        arm=visible(arm),
        layer=layer,
        tokens=tuple(shown),
        shares=shares,
    )


def token_texts(pieces: Sequence[bytes]) -> list[str]:
    """What each token adds to the text: a character split over tokens stands at the one that completes it, the others
    add nothing, nor does one that the end cuts. Bytes that are no text are �."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(piece) for piece in pieces]


def expert_styles(n_experts: int) -> tuple[ExpertStyle, ...]:
    """Colours of `n_experts` experts, the same on a light and a dark page: 8 hues, then the same ones lighter and
    darker by turns."""
    rounds = math.ceil(n_experts / len(_HUES))
    return tuple(_style(expert, rounds) for expert in range(n_experts))


def style_rules(n_experts: int) -> str:
    """CSS rules of all experts' colours, for the page's style element."""
    return "\n".join(style.rule for style in expert_styles(n_experts))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 (alike) … 21 (black and white) [WCAG 2.2]."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _style(expert: int, rounds: int) -> ExpertStyle:
    turn, hue = divmod(expert, len(_HUES))
    ground = _HUES[hue] if rounds == 1 else _lightened(_HUES[hue], turn / (rounds - 1))
    return ExpertStyle(f"x{expert}", ground, max(_INKS, key=lambda ink: contrast(ink, ground)))


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
