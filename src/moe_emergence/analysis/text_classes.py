"""Classes of tokens of mathematics and of prose, coarse ones that mean the same in any text, and which a domain gets.

All are found by regular expressions on characters (`plain_text.plain`), so any text has them: there is none that does
not tokenise.
"""

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from moe_emergence.analysis.plain_text import MARK, plain
from moe_emergence.analysis.token_types import PYTHON, Scheme, Span, python_domains

MATHEMATICAL_SHARE = 1 / 10
"""Of a document's characters that are no white space: from this share of signs on it is mathematics. Of the embedded
corpus 98 % or more of each source of mathematics reaches it, and under 1 % of the prose."""
_READ = 4_000
"""Characters of a document that say whether it is mathematics."""
_CODE_LINES = 1 / 4
_MARGIN = 256
"""Characters read beyond the last one asked for, so that what stands there is whole."""


class MathClass(IntEnum):
    """A model token's class in mathematics, ASCII notation (Metamath's, `x**2`), LaTeX or Unicode."""

    NUMBER = 0
    VARIABLE = 1
    """A single letter of any script, but the article and the pronoun; Metamath's `ph`, `ps`, `ch` and `th`."""
    OPERATOR = 2
    RELATION = 3
    """What makes a statement of two terms: =, <, ∈, ->; and the turnstile."""
    BRACKET = 4
    COMMAND = 5
    """LaTeX's: a backslash and letters."""
    WORD = 6
    PUNCTUATION = 7
    WHITESPACE = 8
    OTHER = 9
    """Currencies, emoji and what else has no class."""


class ProseClass(IntEnum):
    """A model token's class in prose, English where it matters."""

    FUNCTION_WORD = 0
    """Of a closed list: articles, pronouns, prepositions, conjunctions, auxiliaries, particles."""
    CONTENT_WORD = 1
    NAME = 2
    """A capital where no sentence begins, and no function word: names, also `Congress`, and words of headings."""
    NUMBER = 3
    QUOTE = 4
    PUNCTUATION = 5
    """Brackets too."""
    WHITESPACE = 6
    OTHER = 7
    """Symbols, emoji and what else has no class."""


class CoarseClass(IntEnum):
    """Classes that depend on the characters alone and so mean the same in every domain, unlike those of a scheme: a
    label that only one domain can have would tell the domain by itself."""

    WORD = 0
    """A letter or underscore and the letters, digits and underscores behind it."""
    NUMBER = 1
    OPERATOR = 2
    """And relations: + - * / ^ = < > | & ~ % @ and the backslash."""
    BRACKET = 3
    PUNCTUATION = 4
    """Quotes, # and $ too."""
    WHITESPACE = 5
    OTHER = 6


_FUNCTION_WORDS = """
a an the this that these those such same other another each every either neither both all any some no none much many
more most few fewer less least several enough own half one
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves thou thee thy thine ye who whom whose which what whoever
whatever whichever someone somebody something anyone anybody anything everyone everybody everything nobody nothing
oneself
of in to for with on at from by about as into like through after over between out against during without before
under around among above below across behind beyond near off onto toward towards upon within along amid amidst
beneath beside besides despite down except inside outside past per since throughout till underneath until unto up
via
and or but nor so yet if because although though unless while whereas whether than lest when whenever where wherever
why how once
be am is are was were been being have has had having do does did doing done will would shall should can could may
might must ought need dare cannot ca wo sha ain art hath doth shalt wilt hast dost
not there here then now too very also only just even still ever never again thus hence therefore however else quite
rather almost perhaps indeed thence whence thereof therein herein hereby
"""
_ABBREVIATIONS = "mr mrs ms dr st prof capt col gen gov sen rep hon rev messrs jr sr no vol vs etc"

_FUNCTION = frozenset(_FUNCTION_WORDS.split())
_SHORTENED = frozenset(_ABBREVIATIONS.split())
_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}+(?:'{_LETTER}+)*"
_NUMBER = r"\d+(?:,\d{3}(?!\d))*(?:\.\d+)?"
_TERM = rf"(?=[ \t]+(?:{_LETTER}(?!\w)|[A-Z][A-Z]|[\d({{`<~_-]))"
_MATHEMATICS = re.compile(
    "|".join(
        (
            r"(?P<BRACKET><\.(?=[ \t])|(?<=[ \t])>\.(?!\S)|[()\[\]{}])",
            # Metamath's symbols stand between blanks; A. and x. may also end a sentence
            r"(?P<RELATION>(?<!\S)(?:e\.|\.<_|<_|C_|~~>?|~<_?|e/|_\|_|\|-|\|\|)(?!\S)|(?<!\S)C\." + _TERM,
            r"<=?>|<?-+>|\|->|=/=|[<>!:=]=|=>|[=<>])",
            r"(?P<OPERATOR>(?<!\S)(?:E[!*]|U_|u\.|i\^i|o\.|\.[+x-]\.?|\.\\/|\./\\)(?!\S)|(?<!\S)[AEUXx]\." + _TERM,
            rf"-\.|/\\|\\/|(?<!{_LETTER}{{2}})-|-(?!{_LETTER}{{2}})|[+*/^|~&%_`]|\\(?![A-Za-z]))",
            r"(?P<COMMAND>\\[A-Za-z]+)",
            rf"(?P<NUMBER>{_NUMBER})",
            rf"(?P<VARIABLE>(?<!{_LETTER})(?:{_LETTER}{MARK}*(?!'?{_LETTER})|(?:ph|ps|ch|th)(?!\w)))",
            rf"(?P<WORD>{_WORD})",
            r"(?P<PUNCTUATION>[.,;:!?'\"-])",
        )
    )
)
_NEXT_WORD = re.compile(rf"[ \t]+({_LETTER}{{2,}})")
_PROSE = re.compile(
    rf"(?P<WORD>{_WORD})|(?P<NUMBER>{_NUMBER}(?:(?:st|nd|rd|th)(?!\w))?)|(?P<QUOTE>[\"'`]+)"
    r"|(?P<PUNCTUATION>[-.,;:!?()\[\]{}/]+)|(?P<PARAGRAPH>\n[^\S\n]*\n)"
)
_COARSE = re.compile(
    rf"(?P<WORD>(?:{_LETTER}|_)\w*(?:'{_LETTER}+)*)|(?P<NUMBER>{_NUMBER})|(?P<OPERATOR>[-+*/^=<>|&~%@\\]+)"
    r"|(?P<BRACKET>[()\[\]{}]+)|(?P<PUNCTUATION>[.,;:!?\"'`#$]+)"
)
_CODE_LINE = re.compile(r"[;{}][ \t]*$", re.MULTILINE)


def math_spans(text: str, until: int | None = None) -> list[Span]:
    """Spans of `MathClass` by their characters, in order, without overlap, up to character `until`.

    `a`, `A` and `I` are words before a word that is no function word (`a prime`), and variables elsewhere (`let a be`).
    """
    return [
        Span(found.start(), found.end(), _letter(found) if kind is MathClass.VARIABLE else kind)
        for found in _found(_MATHEMATICS, text, until)
        for kind in (MathClass[str(found.lastgroup)],)
    ]


def prose_spans(text: str, until: int | None = None) -> list[Span]:
    """Spans of `ProseClass` as in `math_spans`.

    A sentence begins with the text, a paragraph, an opening quote behind punctuation, and after . ! ? and : (but for
    initials and a list of abbreviations).
    """
    spans, begins, last = [], True, ""
    for found in _found(_PROSE, text, until):
        kind, string = found.lastgroup, found[0]
        if kind == "PARAGRAPH":
            begins = True
            continue
        if kind == "WORD":
            spans.append(Span(found.start(), found.end(), _word(string, begins)))
            begins, last = False, string
            continue
        spans.append(Span(found.start(), found.end(), ProseClass[str(kind)]))
        if kind == "QUOTE":
            begins = begins or _opens(found)
        else:
            begins = kind == "PUNCTUATION" and (begins or _ends_sentence(string, last))
            last = ""
    return spans


def coarse_spans(text: str, until: int | None = None) -> list[Span]:
    """Spans of `CoarseClass` as in `math_spans`."""
    return [
        Span(found.start(), found.end(), CoarseClass[str(found.lastgroup)]) for found in _found(_COARSE, text, until)
    ]


MATHEMATICS = Scheme("mathematics", MathClass, math_spans)
PROSE = Scheme("prose", ProseClass, prose_spans)
COARSE = Scheme("coarse", CoarseClass, coarse_spans)
SCHEMES = (PYTHON, MATHEMATICS, PROSE)


def mathematical_share(text: str) -> float:
    """Numbers, variables, operators, relations and commands ÷ characters that are no white space, 0..1, of the text's
    first 4,000 characters; 0 of program text, of whose lines a quarter end in ; or a brace."""
    beginning = text[:_READ]
    shown = sum(not character.isspace() for character in beginning)
    lines = sum(bool(line.strip()) for line in beginning.splitlines())
    if not shown or len(_CODE_LINE.findall(beginning)) >= max(1, _CODE_LINES * lines):
        return 0.0
    signs = {MathClass.NUMBER, MathClass.VARIABLE, MathClass.OPERATOR, MathClass.RELATION, MathClass.COMMAND}
    return sum(end - start for start, end, kind in math_spans(beginning) if kind in signs) / shown


def domain_schemes(texts: Sequence[str], domain: NDArray[np.integer], n_domains: int) -> tuple[Scheme, ...]:
    """The scheme of each domain, by its documents and not its name: Python where at least half of them parse as it,
    else mathematics where at least half reach `MATHEMATICAL_SHARE`, else prose; `domain` holds each text's."""
    python = python_domains(texts, domain, n_domains)
    schemes = []
    for number in range(n_domains):
        shares = [mathematical_share(text) for text, own in zip(texts, domain.tolist(), strict=True) if own == number]
        formal = bool(shares) and 2 * sum(share >= MATHEMATICAL_SHARE for share in shares) >= len(shares)
        schemes.append(PYTHON if python[number] else MATHEMATICS if formal else PROSE)
    return tuple(schemes)


def _found(pattern: re.Pattern[str], text: str, until: int | None) -> Iterator[re.Match[str]]:
    read = plain(text if until is None else text[: until + _MARGIN])
    for found in pattern.finditer(read):
        if until is not None and found.start() >= until:
            return
        yield found


def _letter(found: re.Match[str]) -> MathClass:
    if found[0] in ("a", "A", "I"):
        behind = _NEXT_WORD.match(found.string, found.end())
        if behind and (found[0] == "I" or behind[1].lower() not in _FUNCTION):
            return MathClass.WORD
    return MathClass.VARIABLE


def _word(string: str, begins: bool) -> ProseClass:
    small = string.lower()
    head = small.split("'")[0]
    if small in _FUNCTION or head in _FUNCTION or small.removesuffix("n't") in _FUNCTION:
        return ProseClass.FUNCTION_WORD
    return ProseClass.NAME if string[0].isupper() and not begins else ProseClass.CONTENT_WORD


def _opens(quote: re.Match[str]) -> bool:
    """Whether a quote stands before a word, behind a blank and punctuation: the quotation is a sentence of its own."""
    before, behind = quote.string[: quote.start()], quote.string[quote.end() : quote.end() + 1]
    return behind.isalpha() and before[-1:].isspace() and before.rstrip()[-1:] in tuple(",:;-.!?")


def _ends_sentence(string: str, last: str) -> bool:
    if string == "." and (len(last) == 1 or last.lower() in _SHORTENED):
        return False
    return any(mark in string for mark in ".!?:")
