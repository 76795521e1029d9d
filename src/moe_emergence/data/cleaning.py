r"""Bytes to text, and text to clean text: few rules, the same for every domain, each counted.

No rule depends on the domain, so cleaning itself cannot mark one. Tabs, indentation and up to two blank lines stay,
because code means something by them. Unicode is left as written: NFC would change string literals in code, and the
byte-level tokenizer reads any form; de-duplication compares NFC forms instead. Zero-width and right-to-left marks stay
too, since scripts and emoji need them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from moe_emergence.data.documents import Document
from moe_emergence.errors import DataError

EMPTY = "empty"
NOT_UTF8, UTF16, BINARY = "not UTF-8", "UTF-16 or UTF-32", "binary"

_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_BINARY_SHARE = 0.1

_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x01-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile("\n{4,}")


def unreadable(data: bytes) -> str | None:
    """Why `data` is not a UTF-8 text (`UTF-16 or UTF-32`, `binary`, `not UTF-8`), or None when it is one.

    More than a tenth of NUL bytes make it binary; that is also how UTF-16 without a mark shows.
    """
    if data.startswith(_WIDE_MARKS):
        return UTF16
    if data.count(0) > _BINARY_SHARE * len(data):
        return BINARY
    try:
        data.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return None


def decode(data: bytes, where: str) -> str:
    """The text of UTF-8 bytes, strictly; a byte-order mark at the start is left to `clean`, which counts it.

    Raises:
        DataError: the bytes are UTF-16, binary or invalid UTF-8; the message opens with `where` and names the byte.
    """
    reason = unreadable(data)
    if reason is None:
        return data.decode()
    detail = f"{reason}{_first_bad_byte(data) if reason == NOT_UTF8 else ''}"
    raise DataError(f"{where} must be text in UTF-8; it is {detail}: save it as UTF-8")


def _first_bad_byte(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f" (byte 0x{data[error.start]:02x} at offset {error.start}: {error.reason})"
    raise AssertionError("only called for bytes that cannot be decoded")


def _delete(pattern: re.Pattern[str] | str) -> Callable[[str], tuple[str, int]]:
    return _substitute(pattern, "")


def _substitute(pattern: re.Pattern[str] | str, new: str) -> Callable[[str], tuple[str, int]]:
    compiled = re.compile(pattern)
    return lambda text: compiled.subn(new, text)


def _strip_line_ends(text: str) -> tuple[str, int]:
    # Line by line: a regular expression takes quadratic time on a long run of spaces.
    lines = text.split("\n")
    stripped = [line.rstrip(" \t") for line in lines]
    return "\n".join(stripped), sum(len(old) != len(new) for old, new in zip(lines, stripped, strict=True))


def _strip_outer_lines(text: str) -> tuple[str, int]:
    stripped = text.strip("\n")
    return stripped, len(text) - len(stripped)


RULES: dict[str, Callable[[str], tuple[str, int]]] = {
    "byte-order marks deleted": _delete("\ufeff"),
    "line breaks written as LF": _substitute(_LINE_BREAKS, "\n"),
    "NUL characters deleted": _delete("\x00"),
    "control characters deleted": _delete(_CONTROLS),
    "lone surrogates deleted": _delete(_SURROGATES),
    "lines stripped of trailing blanks": _strip_line_ends,
    "runs of blank lines cut to two": _substitute(_BLANK_LINES, "\n\n\n"),
    "outer line breaks deleted": _strip_outer_lines,
}
"""Name to rule, in the order in which they are applied; a rule returns the new text and how often it applied."""


def clean(text: str) -> tuple[str, Counter[str]]:
    """`text` after every rule in order, and how often each rule that applied did; a second time changes nothing."""
    applied: Counter[str] = Counter()
    for name, rule in RULES.items():
        text, times = rule(text)
        if times:
            applied[name] = times
    return text, applied


@dataclass(frozen=True, kw_only=True)
class CleaningReport:
    """What cleaning did; `seen` = `kept` + the sum of `dropped`.

    Attributes:
        seen: documents in the input, those that could not be read included.
        kept: documents in the output.
        dropped: reason to documents.
        applied: rule to the number of times it applied; every rule is named, 0 included.
        touched: rule to the number of documents it changed, dropped ones included.
    """

    seen: int
    kept: int
    dropped: Mapping[str, int]
    applied: Mapping[str, int]
    touched: Mapping[str, int]


def clean_documents(
    documents: Iterable[Document], *, unread: Mapping[str, int] | None = None
) -> tuple[list[Document], CleaningReport]:
    """The documents with clean texts, in order, without those that have no text left.

    Args:
        documents: any documents.
        unread: reason to count of documents that reading already had to drop; they enter the report.
    """
    dropped = Counter(unread or {})
    applied, touched = Counter(dict.fromkeys(RULES, 0)), Counter(dict.fromkeys(RULES, 0))
    kept: list[Document] = []
    for document in documents:
        text, counts = clean(document.text)
        applied.update(counts)
        touched.update(counts.keys())
        if text.strip():
            kept.append(replace(document, text=text) if counts else document)
        else:
            dropped[EMPTY] += 1
    report = CleaningReport(
        seen=len(kept) + dropped.total(),
        kept=len(kept),
        dropped=dict(dropped),
        applied=dict(applied),
        touched=dict(touched),
    )
    return kept, report
