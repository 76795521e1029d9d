"""Short held-out excerpts around the tokens that an expert is sent most, chosen by rule from a trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from moe_emergence.analysis.token_types import token_bytes
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.data.blocks import PreparedData
from moe_emergence.report.passages import token_texts
from moe_emergence.report.visible import visible

WINDOW = 12
"""Tokens of an excerpt."""
EXCERPTS = 3
"""How many an expert gets at most, each of another document."""
_BREAKS = str.maketrans({"\n": "⏎", "\t": "⇥"})


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A stretch of a probe document.

    Attributes:
        parts: (text, whether its tokens' first choice is the expert) in order; line breaks and tabs are spelled.
        tokens: of the stretch; own: of them the expert's.
    """

    domain: str
    document: str
    parts: tuple[tuple[str, bool], ...]
    tokens: int
    own: int


def layer_excerpts(
    data: PreparedData, trace: Trace, layer: LayerTrace, experts: Sequence[int]
) -> dict[int, list[Excerpt]]:
    """Of each of `experts`, its excerpts (`richest_windows`)."""
    first = layer.experts[:, 0]
    found = richest_windows(first, trace.document, experts)
    return {expert: [_excerpt(data, trace, first, expert, start) for start in found[expert]] for expert in experts}


def richest_windows(
    first: Int[np.ndarray, " tokens"],
    document: Int[np.ndarray, " tokens"],
    experts: Sequence[int],
    window: int = WINDOW,
    most: int = EXCERPTS,
) -> dict[int, list[int]]:
    """Expert to the first tokens of its windows: of the documents whose best window holds the most of its tokens the
    first in order, and of such a document the first such window. None without a token; windows stay in a document.

    Args:
        document: rising; a document shorter than the window is one window.
    """
    begins = np.flatnonzero(np.diff(document, prepend=-1))
    ends = np.append(begins[1:], len(document))
    starts = np.concatenate([np.arange(b, max(b + 1, e - window + 1)) for b, e in zip(begins, ends, strict=True)])
    stops = np.minimum(starts + window, np.repeat(ends, np.maximum(1, ends - begins - window + 1)))
    return {expert: _richest(first == expert, document, starts, stops, most) for expert in experts}


def _richest(
    own: NDArray[np.bool_], document: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64], most: int
) -> list[int]:
    running = np.append(0, own.cumsum())
    counts = running[stops] - running[starts]
    chosen: list[int] = []
    taken: set[int] = set()
    for place in np.argsort(-counts, kind="stable").tolist():
        if len(chosen) == most or counts[place] == 0:
            break
        if int(document[starts[place]]) not in taken:
            taken.add(int(document[starts[place]]))
            chosen.append(int(starts[place]))
    return chosen


def _excerpt(data: PreparedData, trace: Trace, first: NDArray[np.int64], expert: int, start: int) -> Excerpt:
    row = int(trace.document[start])
    stop = min(start + WINDOW, int(np.searchsorted(trace.document, row, side="right")))
    own = (first[start:stop] == expert).tolist()
    texts = token_texts(token_bytes(trace.token_id[start:stop].tolist(), data.tokenizer))
    marked = groupby(zip(texts, own, strict=True), key=lambda pair: pair[1])
    record = data.documents[data.probe.document[row]]
    return Excerpt(
        domain=visible(data.domains[trace.domain[row]]),
        document=visible(str(record["id"])),
        parts=tuple((_one_line(visible("".join(text for text, _ in pairs))), mine) for mine, pairs in marked),
        tokens=stop - start,
        own=sum(own),
    )


def _one_line(text: str) -> str:
    return text.translate(_BREAKS)
