"""Passages coloured by expert: text verbatim, colours legible, anything hostile only text."""

import itertools
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.data.probe import Probe
from moe_emergence.errors import AnalysisError
from moe_emergence.report.page import _environment
from moe_emergence.report.passages import (
    CONTRAST,
    Passage,
    PassageToken,
    TokenRoute,
    choose_passage,
    contrast,
    expert_styles,
    make_passage,
    style_rules,
    token_texts,
    visible,
)

HOSTILE = '</script><b onmouseover=alert(1) title="x">\'{{7*7}}&amp;\u202e</p>'


def passage(pieces: list[bytes], experts: list[tuple[int, ...]] | None = None, **changes: object) -> Passage:
    routes = [TokenRoute(experts=e, entropy=1.0) for e in experts or [(0,)] * len(pieces)]
    names = {"domain": "code", "document": "d/1", "source": "s", "arm": "moe", "layer": 3} | changes
    return make_passage(pieces, routes, **names)


def rendered(made: Passage) -> str:
    template = '{% import "passages.html.j2" as passages %}{{ passages.passage(made) }}'
    module = _environment().overlay(autoescape=True).from_string(template)
    return module.render(made=made)


class Elements(HTMLParser):
    """Start tags with their attributes, and the text in `p.tokens`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tokens, self.inside = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside |= tag == "p" and dict(attrs).get("class") == "tokens"

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "p"

    def handle_data(self, data: str) -> None:
        self.tokens += data if self.inside else ""


def test_a_split_character_stands_once_at_the_token_that_completes_it() -> None:
    first, second, third = (bytes([byte]) for byte in "漢".encode())
    assert token_texts([b"a", first, second, third + b"b"]) == ["a", "", "", "漢b"]
    made = passage([b"a", first, second, third + b"b"], [(1, 0), (2, 0), (2, 1), (5, 2)])
    assert [(token.text, token.expert) for token in made.tokens] == [("a", 1), ("漢b", 5)]
    assert [(share.expert, share.tokens, share.share) for share in made.shares] == [(1, 1, 0.25), (2, 2, 0.5), (5, 1, 0.25)]  # fmt: skip # noqa: E501
    assert made.counted == 4


def test_a_character_that_the_end_cuts_is_left_out() -> None:
    assert [token.text for token in passage([b"a", "漢".encode()[:2]]).tokens] == ["a"]


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_any_text_cut_anywhere_comes_back(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=8)) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in itertools.pairwise(cuts)] or [raw]
    made = passage(pieces)
    assert "".join(token.text for token in made.tokens) == text
    assert Elements(rendered(made)).tokens == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n", "a\tb\n"),
        ("\0\x1b\x7f\r\n", "␀␛␡␍\n"),
        ("\u202eabc\u2066", "⟨U+202E⟩abc⟨U+2066⟩"),
        ("\x85\u2028\ufeff\u200b", "⟨U+0085⟩⟨U+2028⟩⟨U+FEFF⟩⟨U+200B⟩"),
        ("👩\u200d👧 é שלום \u00a0", "👩\u200d👧 é שלום \u00a0"),
    ],
)
def test_what_cannot_be_seen_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_names_are_made_visible_too() -> None:
    made = passage([b"a"], domain="\u202ex", document="\0", source="\u2066", arm="\x1b")
    assert (made.domain, made.document, made.source, made.arm) == ("⟨U+202E⟩x", "␀", "⟨U+2066⟩", "␛")
    assert made.title == "⟨U+202E⟩x: first choice in layer 3 of ␛"


def test_hostile_text_is_only_text() -> None:
    made = passage([HOSTILE.encode()], domain=HOSTILE, document=HOSTILE, source=HOSTILE, arm=HOSTILE)
    html = rendered(made)
    found = Elements(html)
    assert {tag for tag, _ in found.tags} == {"section", "h3", "p", "code", "span", "div", "details", "summary", "ol", "li"}  # fmt: skip # noqa: E501
    names = {name for _, attributes in found.tags for name in attributes}
    assert names <= {"class", "data-note", "tabindex", "role", "aria-label", "dir"}
    assert found.tokens == visible(HOSTILE)
    assert "{{7*7}}" in found.tokens
    assert "49" not in html
    assert "\u202e" not in html


def test_the_passage_is_one_tab_stop_and_says_its_experts_without_colour() -> None:
    made = passage([b"a", b"b", b"c", b"\n  "], [(3, 5), (3, 1), (0, 2), (3, 0)])
    html = rendered(made)
    stops = [attributes for _, attributes in Elements(html).tags if attributes.get("tabindex") == "0"]
    assert [stop["class"] for stop in stops] == ["text"]
    notes = [attributes["data-note"] for _, attributes in Elements(html).tags if "data-note" in attributes]
    assert notes[0] == "expert 3 (second: 5), entropy 1.00 nats"
    assert all(note in html.split("<ol")[1] for note in notes)
    assert '<span class="swatch x3">3</span> 75\u00a0%' in html
    assert "First choice of 4 tokens" in html
    assert '<span class="x3 break"' in html
    assert "<code>⏎␣␣</code>" in html


@pytest.mark.parametrize(
    ("route", "note"),
    [
        (TokenRoute(experts=(3,), entropy=0), "expert 3, entropy 0.00 nats"),
        (
            TokenRoute(experts=(3, 5), entropy=1.4249, next_loss=2.309, token_class="keyword"),
            "expert 3 (second: 5), entropy 1.42 nats, loss of the next token 2.31 nats, class: keyword",
        ),
        (TokenRoute(experts=(0,), entropy=2, next_loss=float("nan")), "expert 0, entropy 2.00 nats"),
    ],
)
def test_notes(route: TokenRoute, note: str) -> None:
    assert route.note == note


def test_a_token_that_is_a_break_alone() -> None:
    assert [PassageToken(text, 0, "").is_break for text in ("\n", "\n\n\t", " ", "a\n", "")] == [True, True, False, False, False]  # fmt: skip # noqa: E501


@pytest.mark.parametrize("n_experts", [1, 2, 8, 9, 16, 17, 64])
def test_every_expert_s_text_is_legible_and_its_colour_its_own(n_experts: int) -> None:
    styles = expert_styles(n_experts)
    assert [style.name for style in styles] == [f"x{expert}" for expert in range(n_experts)]
    assert min(contrast(style.ground, style.ink) for style in styles) >= CONTRAST
    assert len({style.ground for style in styles}) == n_experts
    assert style_rules(n_experts).count(".x") == n_experts


def test_contrast_at_its_ends() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#0072B2", "#0072B2") == pytest.approx(1)


TO_EYES = {
    "all cones": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}
"""Linear RGB as those eyes see it [Machado, Oliveira and Fernandes 2009, severity 1]."""


@pytest.mark.parametrize("eyes", TO_EYES)
def test_eight_experts_can_be_told_apart(eyes: str) -> None:
    """CIELAB distance of any two grounds; 2.3 is just noticeable."""
    colours = [_lab(style.ground, TO_EYES[eyes]) for style in expert_styles(8)]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(colours, 2)) > 15


def _lab(colour: str, eyes: np.ndarray) -> np.ndarray:
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.clip(eyes @ np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    root = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def test_the_first_document_of_a_domain_is_chosen() -> None:
    probe = Probe(
        tokens=np.zeros((4, 2), dtype=np.uint16),
        length=np.full(4, 2, dtype=np.int32),
        document=np.array([9, 4, 2, 7], dtype=np.int32),
        domain=np.array([0, 1, 1, 0], dtype=np.int32),
        start=np.zeros(4, dtype=np.int32),
        texts=("",) * 4,
    )
    assert [choose_passage(probe, domain) for domain in (0, 1)] == [0, 1]
    with pytest.raises(AnalysisError, match="no document of domain 2"):
        choose_passage(probe, 2)


def test_a_passage_stops_at_its_number_of_tokens() -> None:
    made = make_passage(
        [b"a"] * 130,
        [TokenRoute(experts=(place % 2,), entropy=0) for place in range(130)],
        domain="d",
        document="x",
        source="s",
        arm="a",
        layer=0,
    )
    assert len(made.tokens) == 120
    assert [share.percent for share in made.shares] == ["50\u00a0%"] * 2


def test_a_route_for_every_token_is_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        make_passage([b"a", b"b"], [TokenRoute(experts=(0,), entropy=0)], domain="", document="", source="", arm="", layer=0)  # fmt: skip # noqa: E501
