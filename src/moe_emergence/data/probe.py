"""The probe sets: the windows of test documents on which routing is traced."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_emergence.config import DataConfig
from moe_emergence.data.corpora import Corpus
from moe_emergence.data.packing import IndexArray, TokenArray
from moe_emergence.errors import DataError

Encoded = list[tuple[int, list[int]]]
"""A domain's documents: index and token ids."""
_SEED = 0
_Window = tuple[int, int, int, list[int]]
"""Domain, document, place in it, token ids."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Windows of test documents, on which routing is traced; as many tokens of each domain.

    A window is read with no context before it. The windows of a document lie together, in order.

    Attributes:
        tokens: [windows, block_size], filled up with the end-of-text token.
        length: [windows] tokens that count.
        document: [windows] index into the corpus.
        domain: [windows] index into the domains.
        start: [windows] place in the document of the first token.
        texts: the whole text of each window's document.
    """

    tokens: TokenArray
    length: IndexArray
    document: IndexArray
    domain: IndexArray
    start: IndexArray
    texts: tuple[str, ...]


def probe_of(encoded: Sequence[Encoded], corpus: Corpus, config: DataConfig, end_of_text: int) -> Probe:
    """The beginnings of documents, `data.probe_tokens` at most.

    Raises:
        DataError: fewer tokens than domains are asked for.
    """
    return _chosen(encoded, corpus, config.probe_tokens, config.block_size, end_of_text, windows=1)


def wide_probe_of(encoded: Sequence[Encoded], corpus: Corpus, config: DataConfig, end_of_text: int) -> Probe | None:
    """The same documents, and others where they do not suffice, read on; None where `data.wide_probe_tokens` is 0.

    Raises:
        DataError: fewer tokens than domains are asked for.
    """
    if config.wide_probe_tokens == 0:
        return None
    return _chosen(encoded, corpus, config.wide_probe_tokens, config.block_size, end_of_text, windows=None)


def _chosen(
    encoded: Sequence[Encoded], corpus: Corpus, tokens: int, size: int, end_of_text: int, *, windows: int | None
) -> Probe:
    """The first windows of all documents in a seeded order, then the second ones, up to `windows` of each (None: all),
    until each domain has its share of `tokens`; the last is cut to fit."""
    domains = len(encoded)
    if tokens < domains:
        field = "probe_tokens" if windows else "wide_probe_tokens"
        raise DataError(f"data.{field} must be at least {domains}, one for each domain; got {tokens}")
    cut = [_windows(domain, number, size, windows) for number, domain in enumerate(encoded)]
    available = min(sum(len(ids) for *_, ids in domain) for domain in cut)
    share = min(tokens // domains, available)
    chosen = [window for domain in cut for window in _first_tokens(domain, share)]
    filled = np.full((len(chosen), size), end_of_text, dtype=np.uint16)
    for row, (*_, ids) in enumerate(chosen):
        filled[row, : len(ids)] = ids
    domain, document, start = (np.array(column, dtype=np.int32) for column in list(zip(*chosen, strict=True))[:3])
    return Probe(
        tokens=filled,
        length=np.array([len(ids) for *_, ids in chosen], dtype=np.int32),
        document=document,
        domain=domain,
        start=start,
        texts=tuple(corpus.documents[index].text for index in document),
    )


def _windows(encoded: Encoded, number: int, size: int, most: int | None) -> list[_Window]:
    """Round by round; each round in the same seeded order of the documents."""
    documents = [(index, ids) for index, ids in encoded if ids]
    order = np.random.Generator(np.random.Philox(key=[_SEED, 2000 + number])).permutation(len(documents))
    longest = max((len(ids) for _, ids in documents), default=0)
    starts = list(range(0, longest, size))[:most]
    return [
        (number, documents[place][0], start, documents[place][1][start : start + size])
        for start in starts
        for place in order
        if start < len(documents[place][1])
    ]


def _first_tokens(windows: Sequence[_Window], share: int) -> list[_Window]:
    """Windows until `share` tokens are there, a document's brought together in the order the documents came in."""
    chosen: dict[int, list[_Window]] = {}
    for number, index, start, ids in windows:
        if share > 0:
            chosen.setdefault(index, []).append((number, index, start, ids[:share]))
            share -= len(ids[:share])
    return [window for document in chosen.values() for window in document]
