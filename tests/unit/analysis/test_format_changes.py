"""Changes of format by hand: what goes, what stays, and which a scheme gets."""

import ast

import pytest

from moe_emergence.analysis.format_changes import (
    MARKERS,
    changes_of,
    closed_up,
    lower_cased,
    lower_cased_and_spaced,
    spaced_out,
    title_cased,
    without_comments,
    without_indentation,
)
from moe_emergence.analysis.text_classes import SCHEMES
from moe_emergence.data.corpora import load_corpus

MODULE = '''"""A module.

Of two lines."""

import os  # at the end


def f(a,
      b):
    """One."""
    # alone
    x = """kept"""
    y = \\
"kept too"
    return x, ("a"  # between
        "b")


class A:
    r"""Raw.""" # both
    "a # b"
    z = "#"
'''
BARE = '''
import os


def f(a,
      b):
    x = """kept"""
    y = \\
"kept too"
    return x, ("a"
        "b")


class A:
    z = "#"
'''


@pytest.mark.parametrize(
    ("change", "text", "expected"),
    [
        (lower_cased, "The Whale, Ahab.", "the whale, ahab."),
        (lower_cased_and_spaced, "It's time (he said).\nGo!  “Now”", "it ' s time ( he said ) .\ngo ! “ now ”"),
        (title_cased, "Let f(x) be HL and 2x, don't", "Let f(x) Be Hl And 2x, Don't"),
        (spaced_out, "f(x)=2**x, -1 ( a -> b )", "f ( x ) = 2 ** x , - 1 ( a -> b )"),
        (closed_up, "f ( x ) = 2 ** x , a and 3 4\n( b )", "f(x)=2**x,a and 3 4\n(b)"),
        (without_indentation, "if x:\n\t  y = '''\n  z'''\n", "if x:\ny = '''\nz'''\n"),
        (without_comments, MODULE, BARE),
        (without_comments, MODULE.replace("\n", "\r\n"), BARE.replace("\n", "\r\n")),
        (without_comments, "x = 1\n  '''cut short\nhere", "x = 1\n"),
        (without_comments, "x = (\n'''cut short", "x = (\n'''cut short"),
        (without_comments, "a = 1  # b\n$ # not Python\n", "a = 1\n$ # not Python\n"),
        (without_comments, "'''one'''; x = 1", "'''one'''; x = 1"),
        (without_comments, "# all", ""),
    ],
)
def test_by_hand(change, text: str, expected: str) -> None:
    assert change(text) == expected


@pytest.mark.parametrize("scheme", [scheme.name for scheme in SCHEMES])
def test_a_scheme_gets_its_own_changes_and_the_markers_of_others(scheme: str) -> None:
    changes = changes_of(scheme)
    markers = {name for name in changes if name.startswith("marker of ")}
    assert markers == {f"marker of {other.name}" for other in SCHEMES if other.name != scheme}
    assert len(changes) - len(markers) >= 2
    for name in markers:
        assert changes[name]("text") == MARKERS[name.removeprefix("marker of ")] + "text"
    assert all(change("") == (MARKERS.get(name.removeprefix("marker of "), "")) for name, change in changes.items())


def test_code_without_comments_is_the_same_code() -> None:
    """Of the embedded corpus: what Python makes of it, docstrings apart, and every line that has code."""
    documents = [d for _, d in load_corpus().members("test", "code") if len(d.text) < 4000][:20]
    assert len(documents) > 10
    for document in documents:
        text = without_comments(document.text)
        assert "#" not in text or "'" in text or '"' in text
        try:
            found = _bare(text)
        except SyntaxError:  # a function of a docstring alone has no body left
            continue
        assert found == _bare(document.text)


def _bare(text: str) -> str:
    """The tree without statements that are a string, as Python would write it."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body if not _is_string(part)]
    return ast.dump(tree)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
