"""What kind of token each model token is: the rule for any scheme of classes, and Python's scheme.

Python's spans come from the standard library's `tokenize`; a model token is laid over spans by its characters' offsets
in the whole document, since a token's kind often shows only far from it (the quote that opened its string).
"""

import ast
import keyword
import re
import token as python_tokens
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from moe_emergence.errors import AnalysisError

_BYTE_ORDER_MARK = "\ufeff"
_LINE_END = re.compile(r"\r\n|\r|\n")
_STRING_START = {getattr(python_tokens, name, None) for name in ("FSTRING_START", "TSTRING_START")}
_STRING_MIDDLE = {getattr(python_tokens, name, None) for name in ("FSTRING_MIDDLE", "TSTRING_MIDDLE")}
_STRING_END = {getattr(python_tokens, name, None) for name in ("FSTRING_END", "TSTRING_END")}


class TokenClass(IntEnum):
    """A model token's class: that of most of its characters."""

    KEYWORD = 0
    """Reserved words; `match`, `case`, `type` and `_`, which are words of the user's elsewhere, are identifiers."""
    IDENTIFIER = 1
    NUMBER = 2
    STRING = 3
    OPERATOR = 4
    """Brackets, commas, colons and dots too."""
    COMMENT = 5
    WHITESPACE = 6
    """Space and line breaks outside strings and comments."""
    OTHER = 7
    """Text after the point where a file does not tokenise, a byte order mark, the backslash that continues a line, a
    token that stands for no text."""


_CLASSES = {
    python_tokens.STRING: TokenClass.STRING,
    python_tokens.NUMBER: TokenClass.NUMBER,
    python_tokens.OP: TokenClass.OPERATOR,
    python_tokens.COMMENT: TokenClass.COMMENT,
}


class Span(NamedTuple):
    """Characters start to end (exclusive) of a text, all of one class."""

    start: int
    end: int
    kind: int


@dataclass(frozen=True)
class Scheme:
    """A set of classes, and how they are found.

    Attributes:
        classes: an enumeration from 0 on, with WHITESPACE and OTHER: what characters in no span are.
        spans: from a text, and the character from which on spans may be left out, to its spans in order.
    """

    name: str
    classes: type[IntEnum]
    spans: Callable[[str, int | None], list[Span]]

    def label(self, kind: int) -> str:
        """A class as rows name it: `function word`."""
        return self.classes(kind).name.lower().replace("_", " ")


def python_spans(text: str, until: int | None = None) -> list[Span]:
    """The Python tokens of `text` by their characters, in order, without overlap; white space belongs to none of them.

    Where the text does not tokenise, what came before keeps its classes and the rest is one span of `other`; nothing is
    raised. The expression inside an f-string's braces has its own classes from Python 3.12 on; Python 3.11 tells no
    more than that the whole f-string is a string. With `until`, spans that begin at that character or later are left
    out.
    """
    begin = len(text) - len(text.removeprefix(_BYTE_ORDER_MARK))
    spans = [Span(0, begin, TokenClass.OTHER)] if begin else []
    try:
        for span in takewhile(lambda span: until is None or span.start < until, _tokenised(text, begin)):
            spans.append(span)
    except (tokenize.TokenError, SyntaxError, ValueError):
        spans.extend(_rest(text, spans[-1].end if spans else 0))
    return spans


def tokenises(text: str, until: int | None = None) -> bool:
    """Whether `text` tokenises as Python up to character `until`: no span of `other` but a byte order mark's."""
    begin = len(text) - len(text.removeprefix(_BYTE_ORDER_MARK))
    spans = python_spans(text, until)
    return all(
        span.kind != TokenClass.OTHER or span.end == begin or (until is not None and span.start >= until)
        for span in spans
    )


def character_offsets(ids: Sequence[int], text: str, tokenizer: Tokenizer, *, document: str) -> NDArray[np.int64]:
    """[tokens, 2] first and last character (exclusive) that each token's bytes touch in `text`, whose beginning `ids`
    encode; tokens inside one multi-byte character all have that character, a special token has none (start = end).

    Raises:
        AnalysisError: the tokens are not the beginning of `text`, or the tokenizer is no byte-level BPE.
    """
    pieces = token_bytes(ids, tokenizer)
    written = b"".join(pieces)
    own = text[: len(written)].encode(errors="surrogatepass")[: len(written)]
    if own != written:
        same = next(n for n in range(len(written)) if written[n : n + 1] != own[n : n + 1])
        raise AnalysisError(
            f"the recorded tokens of document {document!r} are not the beginning of its text: from byte {same} on they "
            f"read {written[same : same + 20]!r}, the text {own[same : same + 20]!r}; give the data the trace was made "
            "with"
        )
    first = np.array([byte & 0xC0 != 0x80 for byte in written], dtype=np.int64)
    character = np.append(np.cumsum(first) - 1, first.sum())  # of each byte, and one past the last
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ends = lengths.cumsum()
    begins = ends - lengths
    last = np.where(ends > begins, character[ends - 1] + 1, character[begins])
    return np.stack([character[begins], last], axis=1)


def token_bytes(ids: Sequence[int], tokenizer: Tokenizer) -> list[bytes]:
    """The UTF-8 bytes each token of a byte-level BPE stands for; a special token stands for none.

    Raises:
        AnalysisError: the tokenizer is of another kind, or has no such token.
    """
    added = tokenizer.get_added_tokens_decoder()
    own = {i: b"" if token.special else token.content.encode() for i, token in added.items()}
    return [own[i] if i in own else _bytes_of(i, tokenizer) for i in map(int, ids)]


def token_classes(text: str, offsets: NDArray[np.int64], scheme: Scheme | None = None) -> NDArray[np.uint8]:
    """[tokens] class, by default Python's, of each token, given by its characters `offsets` [tokens, 2] in `text`.

    It is the class that most of a token's characters have, white space not counted unless there is nothing else; of
    equals the one that comes first. So ` def` is a keyword, and white space inside a string belongs to the string.
    """
    scheme = scheme or PYTHON
    reached = int(offsets.max(initial=0))
    blank = [character.isspace() for character in text[:reached]]
    empty, other = scheme.classes["WHITESPACE"].value, scheme.classes["OTHER"].value
    kinds = [empty if white else other for white in blank]
    for start, end, kind in scheme.spans(text, reached):
        kinds[start:end] = [int(kind)] * (end - start)
    found = [_majority(kinds[a:b], blank[a:b], other) for a, b in offsets.tolist()]
    return np.array(found, dtype=np.uint8)


def is_python(text: str) -> bool:
    """Whether `text` parses as at least one statement of this Python; comments alone are none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return bool(ast.parse(text.removeprefix(_BYTE_ORDER_MARK)).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # null bytes, deep nesting
        return False


def python_domains(texts: Sequence[str], domain: NDArray[np.integer], n_domains: int) -> NDArray[np.bool_]:
    """[domains] whether at least half of a domain's documents parse as Python; `domain` holds each text's."""
    parses = np.array([is_python(text) for text in texts], dtype=bool)
    documents = np.bincount(domain, minlength=n_domains)
    return (documents > 0) & (2 * np.bincount(domain[parses], minlength=n_domains) >= documents)


def _majority(kinds: list[int], blank: list[bool], other: int) -> int:
    shown = [kind for kind, empty in zip(kinds, blank, strict=True) if not empty] or kinds
    if len(set(shown)) <= 1:
        return shown[0] if shown else other
    return Counter(shown).most_common(1)[0][0]  # of equals, what was counted first


def _bytes_of(index: int, tokenizer: Tokenizer) -> bytes:
    token = tokenizer.id_to_token(index)
    if token is None or not set(token) <= _BYTE_OF.keys():
        raise AnalysisError(
            f"token {index} of the tokenizer is {token!r}; only a byte-level BPE such as GPT-2's, with one character a "
            "byte, can be laid over text"
        )
    return bytes(_BYTE_OF[character] for character in token)


def _byte_characters() -> dict[str, int]:
    """Character to byte of byte-level BPE: printable Latin-1 is itself, the rest follow from 256 on [GPT-2's code]."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


def _tokenised(text: str, begin: int) -> Iterator[Span]:
    """Spans of `text` from character `begin` on.

    Raises:
        TokenError, SyntaxError, ValueError: from the point on where it does not tokenise.
    """
    # null bytes and lone surrogates, which tokenize cannot read, become ?, which is no token either
    lines, starts = _lines(text.replace("\0", "?").encode(errors="replace").decode(), begin)
    reached, depth = begin, 0
    middle: int | None = None
    for kind, string, (row, column), _, _ in tokenize.generate_tokens(iter(lines).__next__):
        if kind in _STRING_MIDDLE:
            # it is said to end too early where it holds {{ or }}, which stand for one character
            middle = reached if middle is None else middle
            continue
        start = starts[row - 1] + column
        # not the end it is said to have: that of a string of several lines is wrong before Python 3.13
        breaks = string.count("\n")
        reached = starts[row - 1 + breaks] + len(string) - string.rfind("\n") - 1 if breaks else start + len(string)
        if middle is not None and middle < start:
            yield Span(middle, start, TokenClass.STRING)
        middle = None
        depth += (kind in _STRING_START) - (kind in _STRING_END)
        _check(kind, string, depth)
        found = _class_of(kind, string)
        if found is not None:
            yield Span(start, start + len(string.rstrip()) if kind == python_tokens.COMMENT else reached, found)


def _check(kind: int, string: str, depth: int) -> None:
    """Python 3.11 marks what is no token and goes on, later ones call it a name or an operator: here it is an error."""
    marked = kind == python_tokens.ERRORTOKEN
    no_name = kind == python_tokens.NAME and not string.isidentifier()
    no_operator = kind == python_tokens.OP and (
        string not in python_tokens.EXACT_TOKEN_TYPES or (string == "!" and not depth)
    )
    if marked or no_name or no_operator:
        raise SyntaxError(f"no Python token: {string!r}")


def _class_of(kind: int, string: str) -> TokenClass | None:
    """None for line breaks, indents and the end."""
    if kind == python_tokens.NAME:
        return TokenClass.KEYWORD if keyword.iskeyword(string) else TokenClass.IDENTIFIER
    if kind in _STRING_START or kind in _STRING_END:
        return TokenClass.STRING
    return _CLASSES.get(kind)


def _rest(text: str, reached: int) -> list[Span]:
    start = len(text) - len(text[reached:].lstrip())
    end = len(text.rstrip())
    return [Span(start, end, TokenClass.OTHER)] if start < end else []


def _lines(text: str, begin: int) -> tuple[list[str], list[int]]:
    """Lines as Python breaks them (str.splitlines breaks at more), each ended by one \n, and where each begins; both
    go on one step beyond the text."""
    lines, starts = [], [begin]
    for found in _LINE_END.finditer(text, begin):
        lines.append(text[starts[-1] : found.start()] + "\n")
        starts.append(found.end())
    return [*lines, text[starts[-1] :], ""], [*starts, len(text)]


PYTHON = Scheme("Python", TokenClass, python_spans)
