import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_emergence.data.cleaning import (
    BINARY,
    EMPTY,
    NOT_UTF8,
    RULES,
    UTF16,
    clean,
    clean_documents,
    decode,
    unreadable,
)
from moe_emergence.data.documents import Document
from moe_emergence.errors import DataError

ANY_TEXT = st.text(
    st.characters(codec=None) | st.sampled_from("\r\n\t \x00\x0b\x0c\x1b\x85\ufeff\ud800\udc00\u200d\u202e")
)


def document(text: str, number: int = 0) -> Document:
    return Document(id=f"a/{number}", domain="a", source="s", licence="l", text=text)


@pytest.mark.parametrize(
    ("rule", "text", "expected", "times"),
    [
        ("byte-order marks deleted", "\ufeffa\ufeffb", "ab", 2),
        ("line breaks written as LF", "a\r\nb\rc\x0cd\x0be\x85f", "a\nb\nc\nd\ne\nf", 5),
        ("NUL characters deleted", "a\x00b\x00", "ab", 2),
        ("control characters deleted", "a\x07\x1b[0m\x7f\x9fb", "a[0mb", 4),
        ("lone surrogates deleted", "a\ud83db\udc00", "ab", 2),
        ("lines stripped of trailing blanks", "a \t\n\tb\nc ", "a\n\tb\nc", 2),
        ("runs of blank lines cut to two", "a\n\n\n\nb\n\n\n\n\n\n\nc", "a\n\n\nb\n\n\nc", 2),
        ("outer line breaks deleted", "\n\n  a\n", "  a", 3),
    ],
)
def test_each_rule_alone_is_counted(rule: str, text: str, expected: str, times: int) -> None:
    assert clean(text) == (expected, {rule: times})


def test_every_rule_has_an_example() -> None:
    marks = test_each_rule_alone_is_counted.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1]} == set(RULES)


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n\tif x:\n\t    return 'e\u0301'  # two blanks\n\n\nclass A: ...",
        "e\u0301 and \u00e9 and \ufb01",
        "\u05d0\u200f \u202eabc\u202c \U0001f469\u200d\U0001f680 zero\u200bwidth",
        "one line of <|endoftext|> and <|pad|>",
        "  indented first line\n\n\nafter two blank lines",
    ],
)
def test_what_code_and_scripts_need_stays_as_it_is(text: str) -> None:
    assert clean(text) == (text, {})


@given(ANY_TEXT)
def test_any_text_ends_clean(text: str) -> None:
    once, _ = clean(text)
    assert clean(once) == (once, {})
    assert not set(once) & set("\x00\r\x0c\x0b\x85\x7f\x1b\ufeff")
    assert once.encode().decode() == once


@given(ANY_TEXT)
def test_letters_survive_in_order(text: str) -> None:
    assert [c for c in clean(text)[0] if c.isalnum()] == [c for c in text if c.isalnum()]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [" " * 3_000_000 + "x", "\n" * 3_000_000 + "x", "\r" * 3_000_000, "\t \n" * 1_000_000])
def test_long_runs_take_linear_time(text: str) -> None:
    assert clean(text)[0] in {text, "x", ""}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80 stray continuation", NOT_UTF8),
        (b"caf\xe9 in latin-1", NOT_UTF8),
        (b"overlong \xc0\xaf", NOT_UTF8),
        (b"surrogate \xed\xa0\x80", NOT_UTF8),
        (b"beyond \xf4\x90\x80\x80", NOT_UTF8),
        (b"never valid \xff", NOT_UTF8),
        (b"cut off \xe2\x82", NOT_UTF8),
        ("text".encode("utf-16"), UTF16),
        (b"\xfe\xff" + "text".encode("utf-16-be"), UTF16),
        ("text".encode("utf-32"), UTF16),
        (b"\x00\x00\xfe\xff" + "text".encode("utf-32-be"), UTF16),
        ("text without a mark".encode("utf-16-le"), BINARY),
        (bytes(100), BINARY),
    ],
)
def test_unreadable_bytes_of_each_class(data: bytes, reason: str) -> None:
    assert unreadable(data) == reason
    with pytest.raises(DataError, match=rf"^notes\.txt must be text in UTF-8; it is {reason}.*: save it as UTF-8$"):
        decode(data, "notes.txt")


def test_the_message_names_the_first_bad_byte() -> None:
    with pytest.raises(DataError, match=r"byte 0xe9 at offset 3: invalid continuation byte"):
        decode(b"caf\xe9 au lait", "a.txt")


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9 \U0001f680", "\ufeffmarked", "one NUL \x00 in a long line"])
def test_readable_bytes_come_back_as_they_are(text: str) -> None:
    assert unreadable(text.encode()) is None
    assert decode(text.encode(), "a.txt") == text


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    if unreadable(data) is None:
        assert decode(data, "x").encode() == data
    else:
        with pytest.raises(DataError):
            decode(data, "x")


def test_counts_add_up_to_the_input() -> None:
    texts = ["kept", "", " \t\n", "\x00\x00", "a\r\nb\r\nc", "d\r\n e", "\ufeff"]
    kept, report = clean_documents([document(t, n) for n, t in enumerate(texts)], unread={NOT_UTF8: 3})
    assert [d.text for d in kept] == ["kept", "a\nb\nc", "d\n e"]
    assert [d.id for d in kept] == ["a/0", "a/4", "a/5"]
    assert (report.seen, report.kept, report.dropped) == (10, 3, {NOT_UTF8: 3, EMPTY: 4})
    assert report.applied["line breaks written as LF"] == 3
    assert report.touched["line breaks written as LF"] == 2
    assert report.applied["NUL characters deleted"] == 2
    assert set(report.applied) == set(report.touched) == set(RULES)


@given(st.lists(ANY_TEXT, max_size=8))
def test_kept_and_dropped_are_all(texts: list[str]) -> None:
    kept, report = clean_documents(document(t, n) for n, t in enumerate(texts))
    assert report.seen == len(texts) == len(kept) + sum(report.dropped.values())


def test_a_document_keeps_all_but_its_text() -> None:
    before = Document(id="i", domain="a", source="s", licence="l", text="x \n", group="g")
    [after] = clean_documents([before])[0]
    assert after == Document(id="i", domain="a", source="s", licence="l", text="x", group="g")


def test_global_random_state_is_untouched() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    clean_documents([document("a \r\n\n\n\n\nb")])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
