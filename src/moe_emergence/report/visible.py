"""Text from a user's files as a page or a terminal may show it. Loads nothing heavy."""

import unicodedata

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""Without them emoji and some scripts fall apart; they move nothing."""


def visible(text: str) -> str:
    """`text` with what one could not see, or what would reorder the page, made visible: ␀ for control characters,
    ⟨U+202E⟩ for others; line breaks, tabs and joiners stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in _INVISIBLE:
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    return "␡" if character == "\x7f" else f"⟨U+{ord(character):04X}⟩"
