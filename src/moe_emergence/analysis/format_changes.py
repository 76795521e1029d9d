"""Changes of a text's format that leave its content: case, spacing, comments, indentation, a marker at its start.

Each is a function from text to text. Which a domain's documents get goes by its scheme of classes, not its name.
"""

import re
from collections.abc import Callable, Mapping

from moe_emergence.analysis.text_classes import MATHEMATICS, PROSE
from moe_emergence.analysis.token_types import PYTHON, TokenClass, python_spans

Change = Callable[[str], str]

_SIGN = re.compile(r"([-+*/<>=|\\~^&]+|[^\w\s])")
_BLANKS = re.compile(r"(?<=\S)[ \t]+(?=[ \t]|$)", re.MULTILINE)
_WORD = re.compile(r"[^\W\d_]{2,}")
_ROUND_SIGNS = re.compile(r"(?<=[^\w\s])[ \t]+|[ \t]+(?=[^\w\s])")
_INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)
_STRING_START = re.compile(r"[rRuU]?(?:'|\")")
_TO_LINE_END = re.compile(r"[ \t]*(?:#[^\r\n]*)?")
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")


def lower_cased(text: str) -> str:
    return text.lower()


def lower_cased_and_spaced(text: str) -> str:
    """In lower case, with blanks round every punctuation mark, as in MathQA: `it ' s time , he said .`"""
    return spaced_out(text.lower())


def title_cased(text: str) -> str:
    """Every word of two letters or more with a capital and small letters; single letters stay, since in mathematics `x`
    and `X` are two things."""
    return _WORD.sub(lambda found: found[0].capitalize(), text)


def spaced_out(text: str) -> str:
    """One blank on both sides of every bracket, mark and run of operators: `f ( x ) = 2 ** x`."""
    return _BLANKS.sub("", _SIGN.sub(r" \1 ", text))


def closed_up(text: str) -> str:
    """No blank beside a sign, bracket or punctuation mark: `f(x)=2*x`; between words and numbers blanks stay."""
    return _ROUND_SIGNS.sub("", text)


def without_indentation(text: str) -> str:
    """No blanks at the start of a line, strings of several lines included."""
    return _INDENTATION.sub("", text)


def without_comments(text: str) -> str:
    """Without Python comments and docstrings, nor the lines that held nothing else.

    A docstring is a string that is a line of its own, in no bracket. Where the text stops tokenising, the rest stays;
    but if a docstring is what it stops in, as where a text is cut short, the docstring goes.
    """
    kept, reached = [], 0
    for start, end in _commentary(text):
        line = text.rfind("\n", 0, start) + 1
        alone = not text[line:start].strip() and text[end : end + 1] in ("", "\n", "\r")
        begin = line if alone else len(text[:start].rstrip(" \t"))
        kept.append(text[reached : max(begin, reached)])
        reached = end + len(_line_break(text, end)) if alone else end
    return "".join([*kept, text[reached:]])


def marked(marker: str) -> Change:
    """`marker` put before the text."""
    return lambda text: marker + text


MARKERS = {PYTHON.name: "def ", MATHEMATICS.name: "Problem: ", PROSE.name: "CHAPTER I.\n\n"}
"""Scheme to what a text of it may begin with, and one of another scheme hardly."""
_OF_SCHEME: Mapping[str, Mapping[str, Change]] = {
    PYTHON.name: {"without comments": without_comments, "without indentation": without_indentation},
    MATHEMATICS.name: {"title-cased": title_cased, "spaced out": spaced_out, "closed up": closed_up},
    PROSE.name: {"lower-cased": lower_cased, "lower-cased and spaced": lower_cased_and_spaced},
}


def changes_of(scheme: str) -> dict[str, Change]:
    """Name to each change that a domain of this scheme gets: its own, and the markers of other schemes."""
    foreign = {f"marker of {other}": marked(marker) for other, marker in MARKERS.items() if other != scheme}
    return {**_OF_SCHEME[scheme], **foreign}


def _commentary(text: str) -> list[tuple[int, int]]:
    """First and last character (exclusive) of each comment and docstring, in order."""
    spans, depth, found = python_spans(text), 0, []
    for place, (start, end, kind) in enumerate(spans):
        if kind == TokenClass.OPERATOR:
            depth += (text[start] in _OPEN) - (text[start] in _CLOSE)
        unfinished = kind == TokenClass.OTHER and place == len(spans) - 1
        string = kind == TokenClass.STRING and _ends_line(text, end)
        if (string or unfinished) and not depth and _is_docstring(text, start):
            found.append((start, len(text) if unfinished else _line_end(text, end)))
        elif kind == TokenClass.COMMENT and not (found and start < found[-1][1]):
            found.append((start, end))
    return found


def _is_docstring(text: str, start: int) -> bool:
    line = text.rfind("\n", 0, start) + 1
    continued = text[:line].rstrip("\r\n").endswith("\\")
    return not text[line:start].strip() and not continued and bool(_STRING_START.match(text, start))


def _ends_line(text: str, end: int) -> bool:
    return text[_line_end(text, end) :][:1] in ("", "\n", "\r")


def _line_end(text: str, place: int) -> int:
    """Behind the blanks and the comment that follow, if any."""
    behind = _TO_LINE_END.match(text, place)
    return behind.end() if behind else place


def _line_break(text: str, place: int) -> str:
    return "\r\n" if text.startswith("\r\n", place) else text[place : place + 1]
