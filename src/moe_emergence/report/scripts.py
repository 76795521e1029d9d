"""The page's own scripts and Plotly's bundle, with the hashes by which its policy lets them run, and nothing else."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from moe_emergence.errors import AnalysisError

_STATIC = Path(__file__).parent / "static"
_OWN = ("tokens.js", "emergence_data.js", "emergence_panel.js", "emergence_curves.js", "emergence.js")


@dataclass(frozen=True)
class Script:
    """What stands between a script's tags, from this package or Plotly's: never from a user's data."""

    text: str

    @property
    def source(self) -> Markup:
        """For the template, which escapes all else."""
        return Markup(self.text)

    @property
    def hash(self) -> str:
        """As a policy's `script-src` names it."""
        digest = hashlib.sha256(self.text.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def own_script() -> Script:
    """The page's scripts, one after another."""
    return _inline("\n".join((_STATIC / name).read_text("utf-8") for name in _OWN))


@cache
def plotly_script() -> Script:
    """Plotly's bundle, as its Python package has it."""
    return _inline(get_plotlyjs())


def _inline(text: str) -> Script:
    """HTML would end or reread a script at these, and its hash would be of other bytes."""
    for odd in ("</script", "<script", "<!--", "\r", "\0"):
        if odd in text.lower():
            raise AnalysisError(f"a script that is to stand in the page holds {odd!r}: install another plotly version")
    return Script(text)
