"""Tokens and their experts: colour on a terminal, a plain table elsewhere and with NO_COLOR."""

import io
import re
from typing import Literal

import pytest
from rich.console import Console

from moe_emergence.commands.token_view import TokenUse, plain, print_tokens

ESCAPE = "\x1b"
TOKENS = [
    TokenUse(text="def", generated=False, experts={2: (5, 1), 3: (0, 7)}, of=8),
    TokenUse(text="\n f\x1b", generated=True, experts={2: (1, 5), 3: (0, 2)}, of=8),
]
DENSE = [TokenUse(text="whale", generated=True, experts={}, of=0)]


def _printed(tokens: list[TokenUse], *, terminal: bool) -> str:
    file = io.StringIO()
    print_tokens(tokens, Console(file=file, force_terminal=terminal, color_system="truecolor" if terminal else None))
    return file.getvalue()


@pytest.fixture(autouse=True)
def _colour_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_the_table_has_a_line_a_token_and_a_column_a_layer() -> None:
    lines = plain(TOKENS).splitlines()
    assert lines[:2] == ["def", " f\\x1b"]
    assert lines[3].split() == ["token", "layer", "2", "layer", "3"]
    assert [lines[4].index(cell) for cell in ("5,1", "0,7")] == [lines[3].index(f"layer {n}") for n in (2, 3)]
    assert lines[4].split() == ["'def'", "5,1", "0,7"]
    assert lines[5].split() == ["+", "'\\n", "f\\x1b'", "1,5", "0,2"]


def test_no_terminal_gets_the_table() -> None:
    shown = _printed(TOKENS, terminal=False)
    assert ESCAPE not in shown
    assert shown == plain(TOKENS) + "\n"


def test_a_terminal_gets_a_colour_an_expert_and_a_legend_a_layer() -> None:
    shown = _printed(TOKENS, terminal=True)
    colours = dict(re.findall(r"48;2;(\d+;\d+;\d+)m( ?[a-z0-9 ]+)", shown))
    assert len(colours) >= 3
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "layer 2\ndef\n f\\x1b\n 1  50%   5  50%" in text
    assert "layer 3\ndef\n f\\x1b\n 0  100%" in text


def test_a_terminal_of_16_colours_gets_the_table() -> None:
    file = io.StringIO()
    print_tokens(TOKENS, Console(file=file, force_terminal=True, color_system="standard"))
    assert file.getvalue() == plain(TOKENS) + "\n"


@pytest.mark.parametrize("colours", ["256", "truecolor"])
def test_eight_experts_have_eight_colours(colours: Literal["256", "truecolor"]) -> None:
    tokens = [TokenUse(text="a", generated=False, experts={0: (e,)}, of=8) for e in range(8)]
    file = io.StringIO()
    print_tokens(tokens, Console(file=file, force_terminal=True, color_system=colours))
    assert len(set(re.findall(r"48;[25];([0-9;]+)m", file.getvalue()))) == 8


def test_no_color_gets_the_table_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = _printed(TOKENS, terminal=True)
    assert ESCAPE not in shown
    assert "layer 2" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_dense_model_has_no_experts(terminal: bool) -> None:
    assert _printed(DENSE, terminal=terminal) == "whale\n\n(a dense model: no experts)\n"


def test_more_experts_than_named_colours_have_a_hue_each() -> None:
    tokens = [TokenUse(text="a", generated=False, experts={0: (e,)}, of=12) for e in range(12)]
    assert len(set(re.findall(r"48;2;(\d+;\d+;\d+)m", _printed(tokens, terminal=True)))) == 12
