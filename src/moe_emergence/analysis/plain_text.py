"""Text in which every character beyond ASCII that is no letter or digit is written as an ASCII one of its kind."""

import re
import unicodedata

RELATIONS = frozenset("≤≥≠≈≡∼≃≅∈∉∋⊂⊃⊆⊇⊢⊨→←↔↦⇒⇐⇔⟶⟹≪≫∝")
"""Mathematical symbols that relate two terms; the other ones operate on them."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ENDS_OF_SENTENCES = frozenset("…。！？｡")
_BY_CATEGORY = {"Ps": "(", "Pe": ")", "Pd": "-", "Pc": "_", "Po": ",", "Pi": '"', "Pf": '"', "Sc": "$"}
_OTHER = "\0"
MARK = "\u02bc"
"""Stands for a mark on a letter: to a regular expression a letter itself."""


def plain(text: str) -> str:
    """`text`, character for character, as the lexers of text read it: the same length, so that offsets hold.

    Letters and decimal digits of any script stay; other numbers (², Ⅷ) become 0, quotes " or ', brackets ( or ), dashes
    -, marks of the end of a sentence ., other punctuation a comma, white space a space, currencies $, mathematical
    symbols = where they relate two terms and + elsewhere. A combining mark or joiner is a digit after one,
    and `MARK` after a letter.
    Everything else (emoji, control characters, lone surrogates) becomes the null character.
    """
    return text if text.isascii() else _NOT_ASCII.sub(_stand_in, text)


def _stand_in(found: re.Match[str]) -> str:
    character = found[0]
    category = unicodedata.category(character)
    if category[0] == "M" or category == "Cf":
        return _mark(found.string, found.start())
    if character.isspace():
        return " "
    if category[0] == "L" or category == "Nd":
        return character
    if category[0] == "N":
        return "0"
    if category == "Sm":
        return "=" if character in RELATIONS else "+"
    if character in "‘’":
        return "'"
    return "." if character in _ENDS_OF_SENTENCES else _BY_CATEGORY.get(category, _OTHER)


def _mark(text: str, place: int) -> str:
    """What a mark stands for: a letter where it follows one, whatever marks are between; nothing after an emoji."""
    while place >= 0 and (unicodedata.category(text[place])[0] == "M" or unicodedata.category(text[place]) == "Cf"):
        place -= 1
    if place < 0 or not text[place].isalnum():
        return _OTHER
    return MARK if text[place].isalpha() else "0"
