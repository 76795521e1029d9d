"""Python token classes laid over model tokens: golden spans, offsets against the decoded text, any text at all."""

import keyword
import sys
import tokenize
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from moe_emergence.analysis.token_types import (
    TokenClass,
    character_offsets,
    is_python,
    python_domains,
    python_spans,
    token_bytes,
    token_classes,
)
from moe_emergence.data.blocks import token_byte_lengths
from moe_emergence.data.corpora import load_corpus
from moe_emergence.data.tokenizer import END_OF_TEXT, encode, end_of_text_id
from moe_emergence.errors import AnalysisError
from moe_emergence.models.base import load_tokenizer

LETTERS = dict(zip(TokenClass, "kins-#.?", strict=True))
"""A letter for each class: keyword, identifier, number, string, operator, comment, white space, other."""
EXPRESSIONS_HAVE_CLASSES = sys.version_info >= (3, 12)
GOLDEN = {
    "every class": ("def f(x):  # é\n    return 'a' + 1.5\n", "kkk.i-i--..###.....kkkkkk.sss.-.nnn."),
    "a string of several lines": ('x = """a\n\n b"""\ny', "i.-.sssssssssss.i"),
    "tabs": ("if\tx:\n\t\ty\t# z\tz \n", "kk.i-...i.#####.."),
    "names and wide characters": ("été = '漢😀' ; x", "iii.-.ssss.-.i"),
    "soft keywords are names": ("match _:\n case type: pass", "iiiii.i-..iiii.iiii-.kkkk"),
    "constants are keywords": ("None is not True", "kkkk.kk.kkk.kkkk"),
    "numbers": ("0x_f 1e-3 2j 1_0", "nnnn.nnnn.nn.nnn"),
    "operators": ("a:=b**-c;d@e->...", "i--i---i-i-i-----"),
    "\\r\\n": ("a = '''x\r\ny'''\r\nb\r\n", "i.-.ssssssssss..i.."),
    "a lone \\r": ("a\rb # c\rd", "i.i.###.i"),
    "form feed": ("a\n\x0cb\x0c = 1", "i..i..-.n"),
    "form feed in a comment": ("# a\x0cb", "#####"),
    "line separators that Python knows not": ("a = 'x\u2028y\x85' # z\u2029w\nb", "i.-.ssssss.#####.i"),
    "a continued line": ("a = \\\n  1", "i.-.?...n"),
    "a byte order mark": ("\ufeffa = 1\nb", "?i.-.n.i"),
    "prefixes": ("rb'\\n' u''", "ssssss.sss"),
    "an unfinished string of several lines": ('a = 1\nb = """c\nd ', "i.-.n.i.-.??????."),
    "an unfinished string": ("a = 'b\nc", "i.-.????"),
    "an unfinished bracket": ("a = (1,\nb", "i.-.-n-.i"),
    "a character that is no token": ("a $ b 1", "i.?????"),
    "an exclamation mark": ("a\n!ls 1", "i.?????"),
    "a character that is no letter": ("a = 😀b + 1", "i.-.??????"),
    "a null byte": ("a\0b", "i??"),
    "a lone surrogate": ("a \ud800 'b'", "i.?????"),
    "a wrong dedent": ("if a:\n    b\n  c\nd", "kk.i-.....i...???"),
    "prose": ("It is 5 o'clock", "ii.kk.n.i??????"),
    "empty": ("", ""),
    "white space": (" \n\t\r\n\x0c", "......"),
}
F_STRINGS = {
    "an expression": ("f'a {x + 1} b'", "sssss-i.-.n-sss"[1:]),
    "conversion and format": ("f'{x!r:>{w}.2}'", "ss-i-i-s-i-ss-s"),
    "braces that stand for themselves": ("f'{{a}}{b}}}' + c", "sssssss-i-sss.-.i"),
    "after a wide character": ("f'漢{{{é}}}漢' + é", "sssss-i-ssss.-.i"),
    "one inside another": ("f'{f\"{a}\" + b}'", "ss-ss-i-s.-.i-s"),
    "several lines": ("f'''a\r\n {{ {x\r\n}\r\n'''\r\ny", "sssss" + "s" * 6 + "-i..-" + "s" * 5 + "..i"),
    "a format of white space": ("f'{x:  }'", "ss-i-ss-s"),
    "unfinished": ("f'{x", "ss-i"),
}


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return load_tokenizer()


def classes_of_characters(text: str) -> str:
    """One letter a character, as `token_classes` sees a token of that character alone."""
    places = np.arange(len(text))
    return "".join(LETTERS[TokenClass(c)] for c in token_classes(text, np.stack([places, places + 1], 1)))


def classes_of_tokens(tokenizer: Tokenizer, text: str) -> list[tuple[str, str]]:
    (ids,) = encode(tokenizer, [text])
    offsets = character_offsets(ids, text, tokenizer, document="d")
    return [
        (text[a:b], LETTERS[TokenClass(c)])
        for (a, b), c in zip(offsets.tolist(), token_classes(text, offsets), strict=True)
    ]


@pytest.mark.parametrize(("text", "letters"), GOLDEN.values(), ids=GOLDEN.keys())
def test_golden_classes(text: str, letters: str) -> None:
    assert classes_of_characters(text) == letters


@pytest.mark.skipif(not EXPRESSIONS_HAVE_CLASSES, reason="Python 3.11 reads an f-string as one string")
@pytest.mark.parametrize(("text", "letters"), F_STRINGS.values(), ids=F_STRINGS.keys())
def test_expressions_in_f_strings_have_their_own_classes(text: str, letters: str) -> None:
    assert classes_of_characters(text) == letters


@pytest.mark.skipif(EXPRESSIONS_HAVE_CLASSES, reason="from Python 3.12 on their expressions have classes")
@pytest.mark.parametrize("text", [text for name, (text, _) in F_STRINGS.items() if name not in ("unfinished", "one inside another")])  # fmt: skip # noqa: E501
def test_a_whole_f_string_is_a_string_in_python_3_11(text: str) -> None:
    (first, *_) = python_spans(text)
    quote = text[1:4] if text[1:4] == "'''" else "'"
    assert first == (0, text.rindex(quote) + len(quote), TokenClass.STRING)


def test_spans_of_a_line() -> None:
    assert python_spans("x = 'a b'  # c  \n") == [
        (0, 1, TokenClass.IDENTIFIER),
        (2, 3, TokenClass.OPERATOR),
        (4, 9, TokenClass.STRING),
        (11, 14, TokenClass.COMMENT),
    ]
    assert python_spans("") == []
    assert [span.start for span in python_spans("a b c d", until=4)] == [0, 2]


CHARACTERS = "'\"{}()\\#é漢😀x1:>=!$?²\n\r \t\x0c\v\u2028\x85\ufeff\0\ud800"
FRAGMENTS = st.sampled_from(
    [*CHARACTERS, "f'", 'f"""', "rb'", "'''", '"""', "{{", "}}", "\\\n", "\r\n", "if", "0x", "1e"]
)


@given(st.lists(FRAGMENTS, max_size=16).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_has_ordered_spans_that_leave_out_white_space_alone(text: str) -> None:
    reached, between = 0, []
    for start, end, _ in python_spans(text):
        assert reached <= start < end <= len(text)
        between.append(text[reached:start])
        reached = end
    assert not "".join([*between, text[reached:]]).replace("\\", "").strip()


def test_a_token_with_leading_space_is_what_follows(embedded: Tokenizer) -> None:
    assert (" return", "k") in classes_of_tokens(embedded, "def f():\n    return x")
    assert (" =", "-") in classes_of_tokens(embedded, "x = 1")


def test_white_space_inside_strings_and_comments_is_theirs(embedded: Tokenizer) -> None:
    text = 'x = """a\n\n    b"""\n\n    # c    d\n'
    found = classes_of_tokens(embedded, text)
    assert "".join(piece for piece, _ in found) == text
    blank, place = [], 0
    for piece, letter in found:
        blank += [(place, letter)] if not piece.strip() else []
        place += len(piece)
    inside = {(place, letter) for place, letter in blank if 7 <= place < 15 or 24 <= place < 32}
    assert inside
    assert {letter for _, letter in inside} <= {"s", "#"}
    assert {letter for place, letter in blank if 18 <= place < 23 or place >= 32} == {"."}


def test_most_characters_decide_and_of_equals_the_first() -> None:
    text = "f(x)): 'a'\n"
    tokens = np.array([[0, 2], [1, 4], [2, 6], [6, 10], [9, 11], [10, 11], [3, 3]])
    assert [LETTERS[TokenClass(c)] for c in token_classes(text, tokens)] == ["i", "-", "-", "s", "s", ".", "?"]


def test_offsets_of_pieces_of_a_character(embedded: Tokenizer) -> None:
    text = "a漢é😀b"
    (ids,) = encode(embedded, [text])
    offsets = character_offsets(ids, text, embedded, document="d").tolist()
    lengths = [len(piece) for piece in token_bytes(ids, embedded)]
    bytes_of = [n for n, character in enumerate(text) for _ in character.encode()]
    place = 0
    for (start, end), length in zip(offsets, lengths, strict=True):
        assert (start, end) == (bytes_of[place], bytes_of[place + length - 1] + 1)
        place += length
    assert place == len(text.encode())
    assert offsets.count([1, 2]) > 1


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=150, deadline=None)
def test_offsets_are_the_tokenizer_s_own(text: str) -> None:
    """The library knows its offsets while it encodes; ours come from the recorded ids, long after."""
    tokenizer = load_tokenizer()
    tokenizer.encode_special_tokens = True
    encoded = tokenizer.encode(text, add_special_tokens=False)
    own = character_offsets(encoded.ids, text, tokenizer, document="d")
    assert [tuple(pair) for pair in own.tolist()] == encoded.offsets


def test_a_beginning_may_stop_inside_a_character(embedded: Tokenizer) -> None:
    (ids,) = encode(embedded, ["x = '漢"])
    offsets = character_offsets(ids[:-1], "x = '漢字'", embedded, document="d")
    assert offsets[-1].tolist() == [5, 6]
    assert TokenClass(token_classes("x = '漢字'", offsets)[-1]) is TokenClass.STRING


def test_a_special_token_stands_for_no_text(embedded: Tokenizer) -> None:
    end = end_of_text_id(embedded)
    (ids,) = encode(embedded, ["ab"])
    offsets = character_offsets([end, *ids, end], "abc", embedded, document="d")
    assert offsets[0].tolist() == [0, 0]
    assert offsets[-1].tolist() == [2, 2]
    assert TokenClass(token_classes("abc", offsets)[-1]) is TokenClass.OTHER
    assert token_bytes([end], embedded) == [b""]
    assert END_OF_TEXT.encode() == b"".join(token_bytes(encode(embedded, [END_OF_TEXT])[0], embedded))


def test_no_tokens_have_no_offsets(embedded: Tokenizer) -> None:
    offsets = character_offsets([], "text", embedded, document="d")
    assert offsets.shape == (0, 2)
    assert token_classes("text", offsets).shape == (0,)


@pytest.mark.parametrize("text", ["abd", "ab", "xabc", ""])
def test_another_document_is_refused_by_name(embedded: Tokenizer, text: str) -> None:
    (ids,) = encode(embedded, ["abc"])
    with pytest.raises(AnalysisError, match="'code/7' are not the beginning"):
        character_offsets(ids, text, embedded, document="code/7")


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"two words": 0}, unk_token="two words"))
    with pytest.raises(AnalysisError, match="byte-level BPE"):
        token_bytes([0], words)
    with pytest.raises(AnalysisError, match="token 5 of the tokenizer is None"):
        token_bytes([5], words)


def test_bytes_of_every_token_are_as_many_as_recorded(embedded: Tokenizer) -> None:
    lengths = token_byte_lengths(embedded)
    assert [len(piece) for piece in token_bytes(range(len(lengths)), embedded)] == lengths.tolist()


def found_by_search(text: str) -> str:
    """Classes by looking for each token's string in turn, without lines or columns."""
    letters, place = ["." if character.isspace() else "?" for character in text], 0
    kinds = {tokenize.STRING: "s", tokenize.NUMBER: "n", tokenize.OP: "-", tokenize.COMMENT: "#"}
    for token in tokenize.generate_tokens(StringIO(text).readline):
        letter = kinds.get(token.type, "k" if keyword.iskeyword(token.string) else "i")
        if token.type in {tokenize.NAME, *kinds}:
            place = text.index(token.string, place) + len(token.string)
            letters[place - len(token.string) : place] = letter * len(token.string)
    return "".join(letters)


def test_documents_of_the_embedded_corpus(embedded: Tokenizer) -> None:
    """Offsets tile the text; classes are those of a search for each token's string, character by character."""
    documents = [document for _, document in load_corpus().members("test", "code")]
    plain = [d for d in documents if "f'" not in d.text and 'f"' not in d.text and not d.text.count("\f")]
    chosen = sorted(plain, key=lambda document: len(document.text))[:16]
    seen: set[str] = set()
    for document, ids in zip(chosen, encode(embedded, [document.text for document in chosen]), strict=True):
        text = document.text
        offsets = character_offsets(ids, text, embedded, document=document.id)
        letters = found_by_search(text)
        reached = 0
        assert len(ids) > 100
        for (start, end), kind in zip(offsets.tolist(), token_classes(text, offsets), strict=True):
            assert start == reached or (start == reached - 1 and not text[start].isascii())
            reached = end
            counted = [n for n in range(start, end) if not text[n].isspace()] or range(start, end)
            votes = [letters[n] for n in counted]
            assert LETTERS[TokenClass(kind)] == max(votes, key=votes.count), (document.id, text[start:end])
        assert reached == len(text)
        seen |= set(letters)
    assert seen >= set("kins-#.")


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("import os\n", True),
        ("x = '\\d'\n", True),
        ("print 'two'\n", False),
        ("It is a truth universally acknowledged", False),
        ("", False),
        ("# a comment alone\n", False),
        ("a\0b", False),
        ("(" * 100_000, False),
        ("-" * 100_000 + "1", False),
        ("\ud800", False),
        ("\ufeffx = 1", True),
    ],
)
def test_what_is_python(text: str, python: bool, recwarn: pytest.WarningsRecorder) -> None:
    assert is_python(text[:200_000]) is python
    assert not recwarn.list


def test_a_domain_is_python_when_half_of_its_documents_are() -> None:
    texts = ["x = 1", "no python", "x = 1", "no python", "nor this one", "y"]
    domain = np.array([0, 0, 2, 2, 2, 3])
    assert python_domains(texts, domain, 4).tolist() == [True, False, False, True]
