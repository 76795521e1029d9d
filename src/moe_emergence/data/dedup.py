"""Exact and near duplicates, without sampling: the same texts give the same answer, no pair is missed by chance.

Near duplicates are pairs that share many runs of words. Instead of sketches (MinHash), whose recall is a probability
and which cannot see a short text inside a long one, an index from each run to its documents gives exact counts. It
stays quick because two texts that share a given part of their runs must also share one of their rarest, so only those
are looked up first (prefix filter: Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
"""

import hashlib
import itertools
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]
Score = Callable[[Indices, int, Indices], NDArray[np.float64]]

NEAR_WORDS, NEAR_JACCARD = 5, 0.8
CONTAINED_WORDS, CONTAINED_SHARE, CONTAINED_MINIMUM = 13, 0.5, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """One document that goes because of another.

    Attributes:
        dropped: index of the document that goes.
        other: index of the one it repeats; usually kept, but it may itself repeat a third.
        rule: `exact`, `near` (Jaccard index of word 5-grams) or `contained` (share of the dropped one's 13-grams).
        share: that index or share, up to 1; 1 for exact.
    """

    dropped: int
    other: int
    rule: Literal["exact", "near", "contained"]
    share: float


@dataclass(frozen=True, kw_only=True)
class DedupReport:
    """Indices into the texts given: len(keep) + len(exact) + len(near) is their number.

    Attributes:
        keep: the documents that stay, ascending.
        exact: those equal to an earlier one.
        near: those that nearly repeat, or are contained in, another one.
    """

    keep: tuple[int, ...]
    exact: tuple[Duplicate, ...]
    near: tuple[Duplicate, ...]


def deduplicate(texts: Sequence[str]) -> DedupReport:
    """Which of `texts` to keep.

    1. Exact: equal but for white space and Unicode form (case counts). The first is kept.
    2. Near: Jaccard index of the sets of word 5-grams at least 0.8. The first is kept. A word is what white space
       separates, its case folded; a text of fewer than five words is one gram.
    3. Contained: of texts of at least 50 words, one that has at least half of its 13-grams in another. Of two that
       contain each other the first is kept, otherwise the one that contains.

    Texts in scripts written without spaces are one long word a line, so for them only 1 is to be relied on.
    Empty texts equal each other.
    """
    exact = _exact(texts)
    alive = np.ones(len(texts), dtype=bool)
    alive[[pair.dropped for pair in exact]] = False
    words = _word_numbers(text if live else "" for text, live in zip(texts, alive, strict=True))
    near = _sweep(_Index([_grams(row, NEAR_WORDS) for row in words]), alive, "near", reverse=False)
    long = _Index(
        [
            _grams(row if live and len(row) >= CONTAINED_MINIMUM else row[:0], CONTAINED_WORDS)
            for row, live in zip(words, alive, strict=True)
        ]
    )
    near += _sweep(long, alive, "contained", reverse=False)
    near += _sweep(long, alive, "contained", reverse=True)
    keep = tuple(int(index) for index in np.flatnonzero(alive))
    return DedupReport(keep=keep, exact=tuple(exact), near=tuple(sorted(near, key=lambda pair: pair.dropped)))


def exact_key(text: str) -> bytes:
    """Equal for texts that differ in white space and Unicode form only."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normal.encode(errors="surrogatepass"), digest_size=16).digest()


def _exact(texts: Sequence[str]) -> list[Duplicate]:
    first: dict[bytes, int] = {}
    return [
        Duplicate(dropped=index, other=other, rule="exact", share=1.0)
        for index, text in enumerate(texts)
        if (other := first.setdefault(exact_key(text), index)) != index
    ]


def _word_numbers(texts: Iterable[str]) -> list[Hashes]:
    """Each text's words as 64-bit numbers, equal for equal words; numbered by first use, then mixed (splitmix64)."""
    numbers: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
    rows = []
    for text in texts:
        words = unicodedata.normalize("NFC", text).casefold().split()
        rows.append(_mix(np.fromiter(map(numbers.__getitem__, words), dtype=np.uint64, count=len(words))))
    return rows


def _mix(values: Hashes) -> Hashes:
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _grams(words: Hashes, size: int) -> Hashes:
    """The set of hashes of all runs of `size` words, ascending; shorter texts are one run, empty ones none."""
    if len(words) == 0:
        return words
    size = min(size, len(words))
    runs = len(words) - size + 1
    hashes = np.full(runs, size, dtype=np.uint64)
    for offset in range(size):
        hashes = hashes * np.uint64(0xD6E8FEB86659FD93) + words[offset : offset + runs]
    return np.unique(hashes)


class _Index:
    """Which documents hold each gram."""

    def __init__(self, grams: Sequence[Hashes]) -> None:
        self.sizes = np.array([len(row) for row in grams], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, dtype=np.uint64), *grams])
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        new = np.append(True, ordered[1:] != ordered[:-1])[: len(flat)]
        self.starts = np.flatnonzero(new)
        self.counts = np.diff(self.starts, append=len(flat))
        self.holders = np.repeat(np.arange(len(grams)), self.sizes)[order]
        numbers = np.empty(len(flat), dtype=np.int64)
        numbers[order] = np.cumsum(new) - 1
        self._rows = np.split(numbers, np.cumsum(self.sizes)[:-1])

    def overlaps(self, document: int, share: float, among: NDArray[np.bool_]) -> tuple[Indices, Indices]:
        """Documents of `among` that hold at least `share` of this one's grams, ascending, and how many they hold."""
        need = math.ceil(share * int(self.sizes[document]) - 1e-9)
        row = self._rows[document]
        shared = row[self.counts[row] > 1]
        if need == 0 or len(shared) < need:
            return shared[:0], shared[:0]
        shared = shared[np.argsort(self.counts[shared], kind="stable")]
        rarest = len(shared) - need + 1
        if not among[self._holders_of(shared[:rarest])].any():
            return shared[:0], shared[:0]
        holders = self._holders_of(shared)
        found, counts = np.unique(holders[among[holders]], return_counts=True)
        enough = counts >= need
        return found[enough], counts[enough]

    def _holders_of(self, numbers: Indices) -> Indices:
        counts = self.counts[numbers]
        before = np.cumsum(counts) - counts
        places = np.repeat(self.starts[numbers] - before, counts) + np.arange(int(counts.sum()))
        return self.holders[places]


def _sweep(
    index: _Index, alive: NDArray[np.bool_], rule: Literal["near", "contained"], *, reverse: bool
) -> list[Duplicate]:
    """In order, drop (in `alive`) and list each document that repeats one that was passed before it and stayed."""
    threshold = NEAR_JACCARD if rule == "near" else CONTAINED_SHARE
    passed = np.zeros_like(alive)
    found = []
    order = np.flatnonzero(alive)
    for document in map(int, order[::-1] if reverse else order):
        others, shared = index.overlaps(document, threshold, passed)
        size = index.sizes[document]
        scores = shared / (size + index.sizes[others] - shared if rule == "near" else max(int(size), 1))
        if len(scores) and scores.max() >= threshold:
            best = int(scores.argmax())
            found.append(Duplicate(dropped=document, other=int(others[best]), rule=rule, share=float(scores[best])))
            alive[document] = False
        else:
            passed[document] = True
    return found
