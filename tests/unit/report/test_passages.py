"""Tokens on the colours of experts: text verbatim, what is invisible shown, colours legible and told apart."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.report.passages import (
    CONTRAST,
    contrast,
    expert_styles,
    readable_ink,
    style_rules,
    token_texts,
    visible,
)


def test_a_split_character_stands_once_at_the_token_that_completes_it() -> None:
    first, second, third = (bytes([byte]) for byte in "漢".encode())
    assert token_texts([b"a", first, second, third + b"b"]) == ["a", "", "", "漢b"]


def test_a_character_that_the_end_cuts_adds_nothing() -> None:
    assert token_texts([b"a", "漢".encode()[:2]]) == ["a", ""]


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_any_text_cut_anywhere_comes_back(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=8)) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in itertools.pairwise(cuts)] or [raw]
    assert "".join(token_texts(pieces)) == text


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


@pytest.mark.parametrize("n_experts", [1, 2, 8, 9, 16, 17, 64])
def test_every_expert_s_text_is_legible_and_its_colour_its_own(n_experts: int) -> None:
    styles = expert_styles(n_experts)
    assert [style.name for style in styles] == [f"x{expert}" for expert in range(n_experts)]
    assert min(contrast(style.ground, style.ink) for style in styles) >= CONTRAST
    assert len({style.ground for style in styles}) == n_experts
    assert style_rules(n_experts).count(".x") == n_experts


@given(st.integers(0, 0xFFFFFF))
@settings(max_examples=50, deadline=None)
def test_an_ink_is_legible_on_any_ground(colour: int) -> None:
    ground = f"#{colour:06X}"
    assert contrast(readable_ink(ground), ground) >= CONTRAST


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
