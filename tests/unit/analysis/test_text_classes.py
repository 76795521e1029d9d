"""Classes of mathematics and prose: golden spans, any text at all, and which scheme a domain gets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.analysis.plain_text import plain
from moe_emergence.analysis.text_classes import (
    COARSE,
    MATHEMATICS,
    PROSE,
    SCHEMES,
    domain_schemes,
    mathematical_share,
)
from moe_emergence.analysis.token_types import Scheme, character_offsets, token_classes, tokenises
from moe_emergence.data.corpora import load_corpus
from moe_emergence.data.tokenizer import encode
from moe_emergence.models.base import load_tokenizer

LETTERS = {MATHEMATICS: "nvor[\\w,.?", PROSE: "fcNnq,.?", COARSE: "wno[,.?"}
"""A letter for each class, in their order."""
GOLDEN_MATHEMATICS = {
    "school": ("Let a be 2*x**3 - 1.5.", "www.v.ww.novoon.o.nnn,"),
    "the article": ("Is a a prime? A number. I think", "ww.v.w.wwwww,.w.wwwwww,.w.wwwww"),
    "Metamath": ("|- ( A. x e. A ph -> -. F : B --> C )", "rr.[.oo.v.rr.w.vv.rr.oo.v.,.v.rrr.v.["),
    "Metamath's brackets": ("<. X , .0. >. .<_ ( P .\\/ Q )", "[[.v.,.,n,.[[.rrr.[.v.ooo.v.["),
    "Metamath's signs": ("A \\ B i^i C_ D E! x", "v.o.v.ooo.rr.v.oo.v"),
    "a letter that ends a sentence": ("The set A. Then x.", "www.www.v,.wwww.v,"),
    "LaTeX": ("\\frac{1}{2} \\le x_1 \\\\ \\,", "\\\\\\\\\\[n[[n[.\\\\\\.von.oo.o,"),
    "Unicode": ("α ≤ ∑ x² − ½ ∈ ℝ", "v.r.o.vn.o.n.r.v"),
    "numbers": ("1,000 + (1,2) 10. .5", "nnnnn.o.[n,n[.nn,.,n"),
    "hyphens": ("common-denominator a-b -x don't", "wwwwww,wwwwwwwwwww.vov.ov.wwwww"),
    "relations": ("x = y <-> z != 2 <= 3", "v.r.v.rrr.v.rr.n.rr.n"),
    "currencies and emoji": ("cost $5 (£3) 50% 😀", "wwww.?n.[?n[.nno.?"),
    "no blanks": ("2x+3y=7!", "nvonvrn,"),
    "names of letters": ("ph ps phase ch", "vv.vv.wwwww.vv"),
    "combining characters": ("e\u0301 + 3\ufe0f x\u0302\u0304y", "vv.o.nn.wwww"),
    "CRLF": ("\r\n\t x\r\n", "....v.."),
    "empty": ("", ""),
}
GOLDEN_PROSE = {
    "sentences": ("The Pequod met Some. Run we must.\n\nAhab's men", "fff.NNNNNN.ccc.ffff,.ccc.ff.ffff,..cccccc.ccc"),
    "abbreviations": ("Mr. Speaker, J. Smith: Go.", "cc,.NNNNNNN,.N,.NNNNN,.cc,"),
    "quotes": ("“Has he?” cried Tom; he said, “Go, Tom.”", "qfff.ff,q.ccccc.NNN,.ff.cccc,.qcc,.NNN,q"),
    "a quoted name": ('the "Rachel" and `code\'', "fff.qNNNNNNq.fff.qccccq"),
    "numbers": ("It cost $5 in 1973, the 10th", "ff.cccc.?n.ff.nnnn,.fff.nnnn"),
    "apostrophes and dashes": ("whale-boat — Ahab’s can’t I’m", "ccccc,cccc.,.NNNNNN.fffff.fff"),
    "other scripts": ("nai\u0308ve 中文。好 Москва", "cccccc.cc,c.NNNNNN"),
    "symbols": ("I 😀 ok & fine\tx\r\ny", "f.?.cc.?.cccc.c..c"),
    "what cannot be seen": ("\u200bso so\u00adft \x00 ½", "?ff.ccccc.?.n"),
    "one line break is no paragraph": ("the\nWhale", "fff.NNNNN"),
    "a colon and a bracket": ("see: Whale (I know)", "ccc,.ccccc.,f.cccc,"),
    "empty": ("", ""),
}
GOLDEN_COARSE = {
    "code": ("def f_x(a): return a**2 != 3.5 # it's", "www.www[w[,.wwwwww.woon.,o.nnn.,.wwww"),
    "Metamath": ("A. x e. ( B -> C )", "w,.w.w,.[.w.oo.w.["),
    "prose": ('It cost $5, "ok"? 😀e\u0301', "ww.wwww.,n,.,ww,,.?ww"),
}
CASES = [
    pytest.param(scheme, *case, id=f"{scheme.name}: {name}")
    for scheme, cases in ((MATHEMATICS, GOLDEN_MATHEMATICS), (PROSE, GOLDEN_PROSE), (COARSE, GOLDEN_COARSE))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("scheme", "text", "letters"), CASES)
def test_golden_classes(scheme: Scheme, text: str, letters: str) -> None:
    """One letter a character, as a token of that character alone is seen."""
    places = np.arange(len(text))
    found = token_classes(text, np.stack([places, places + 1], 1), scheme)
    assert "".join(LETTERS[scheme][kind] for kind in found) == letters


def test_tokens_take_the_class_of_most_of_their_characters() -> None:
    tokenizer = load_tokenizer()
    text = "Let x be 12. Then x + 1 > x."
    (ids,) = encode(tokenizer, [text])
    offsets = character_offsets(ids, text, tokenizer, document="d")
    found = {
        text[a:b].strip(): MATHEMATICS.label(kind)
        for (a, b), kind in zip(offsets.tolist(), token_classes(text, offsets, MATHEMATICS), strict=True)
    }
    assert (
        found.items() >= {"x": "variable", "+": "operator", ">": "relation", "be": "word", ".": "punctuation"}.items()
    )


@given(st.text(max_size=60) | st.text("aAI.e <>\\/-`'\"\n\u0301😀漢2²", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_has_ordered_spans_and_keeps_its_length(text: str) -> None:
    assert len(plain(text)) == len(text)
    assert plain(plain(text)) == plain(text)
    for scheme in (MATHEMATICS, PROSE, COARSE):
        reached = 0
        for start, end, kind in scheme.spans(text, None):
            assert reached <= start < end <= len(text)
            scheme.classes(kind)
            reached = end
        half = len(text) // 2
        assert scheme.spans(text, half) == [span for span in scheme.spans(text, None) if span.start < half]


def test_classes_name_white_space_and_what_has_none() -> None:
    for scheme in (*SCHEMES, COARSE):
        assert [kind.value for kind in scheme.classes] == list(range(len(scheme.classes)))
        assert {"WHITESPACE", "OTHER"} <= set(scheme.classes.__members__)
    assert PROSE.label(0) == "function word"


def test_every_domain_of_the_embedded_corpus_gets_its_scheme() -> None:
    corpus = load_corpus()
    texts, domain = [], []
    for number, name in enumerate(corpus.domains):
        own = [document.text for _, document in corpus.members("test", name)][:40]
        texts += own
        domain += [number] * len(own)
    assert [scheme.name for scheme in domain_schemes(texts, np.array(domain), 3)] == ["Python", "mathematics", "prose"]
    own = {name: [mathematical_share(t) >= 0.1 for t, d in zip(texts, domain, strict=True) if d == n] for n, name in enumerate(corpus.domains)}  # fmt: skip # noqa: E501
    assert np.mean(own["math"]) > 0.9
    assert np.mean(own["prose"]) < 0.05


WORDS = "The store sold apples for two dollars each, and in the end all were gone. "
KINDS = {
    "Python": "def f(x):\n    return x\n",
    "mathematics": "Proof. Let $x \\in A$; then $x + 1 > x$, so $f(x) = x^2$ and 2 + 2 = 4.\n",
    "prose": WORDS,
}


@pytest.mark.parametrize(("name", "text"), KINDS.items())
def test_the_scheme_goes_by_the_text_whatever_the_domain_is_called(name: str, text: str) -> None:
    others = [other for kind, other in KINDS.items() if kind != name]
    (half,) = domain_schemes([text, *others, text, text], np.zeros(5, dtype=np.int64), 1)
    assert half.name == name
    *_, last = domain_schemes([*others, text], np.array([0, 1, 2]), 3)
    assert last.name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "😀",
        WORDS + "It was 1973.",
        "for (let i = 0; i < 10; i++) {\n  a[i] = i * 2;\n}\nif (a == 3) {\n  b = 1;\n}\n",
    ],
)
def test_other_text_is_prose(text: str) -> None:
    (scheme,) = domain_schemes([text], np.zeros(1, dtype=np.int64), 1)
    assert scheme is PROSE
    assert [s.name for s in domain_schemes([], np.zeros(0, dtype=np.int64), 2)] == ["prose", "prose"]


def test_share_by_hand() -> None:
    assert mathematical_share("x + 1 = y of set") == 5 / 10
    assert mathematical_share("") == 0


@pytest.mark.parametrize(
    ("text", "until", "whole"),
    [
        ("a = 1\n", None, True), ("", None, True), ("\ufeffa = 1", None, True), ("a = 'b", None, False),
        ("a = 1\n$ b", 5, True), ("a = 1\n$ b", 7, False), ("\ufeff$", None, False), ("x = '''a", 9, False),
    ],
)  # fmt: skip
def test_whether_python_tokenises_as_far_as_it_is_read(text: str, until: int | None, whole: bool) -> None:
    assert tokenises(text, until) is whole
