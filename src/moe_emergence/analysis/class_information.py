"""I(E;class): how much the kind of a token tells of the expert it went to, with a null that knows of runs."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from moe_emergence.analysis.information import mutual_information
from moe_emergence.analysis.statistics import (
    REPLICATES,
    Estimate,
    Interval,
    Statistic,
    bootstrap,
    central_range,
    generator,
    null_p_value,
)
from moe_emergence.errors import AnalysisError

SHIFTS = 199
"""Shifts of the null; p is at least 1/200."""
_BATCH = 1 << 21
_SHIFTS_OF_RESAMPLES = 19


def class_counts(
    classes: NDArray[np.integer],
    experts: NDArray[np.integer],
    document: NDArray[np.integer],
    shape: tuple[int, int, int],
) -> NDArray[np.int64]:
    """Assignments by (document, class, expert), as many of each as `shape` says; `experts` [tokens, slots] holds all
    slots, or the first alone.

    Sums to tokens × slots.
    """
    cell = (document.astype(np.int64) * shape[1] + classes) * shape[2]
    cells = (cell[:, None] + experts).reshape(-1)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class ClassInformation:
    """I(E;class), bits, over all tokens of some documents.

    Attributes:
        plug_in: Σ p(e,c) log2 p(e,c) / (p(e) p(c)) of the counts: 0 when independent, `maximum` when the expert tells
            the class; biased upwards by chance.
        null_mean, null_range: the same with each document's classes turned in a circle against its experts: mean and
            central 95 %. It holds chance, and what whole documents share (one of comments that goes to one expert).
        estimate: plug_in − null_mean with its 95 % interval over documents: about 0 when tokens of a document tell
            nothing (it may be below), `maximum` − null_mean when the expert tells the class.
        p: share of shifts, and of the counts as they are, that show as much: one-sided, at least 1/(1 + shifts).
        maximum: H(class): what knowing the class of every token would be.
        documents, assignments: how many these are of.
    """

    plug_in: float
    null_mean: float
    null_range: Interval
    estimate: Estimate
    p: float
    maximum: float
    documents: int
    assignments: int


def class_information(
    classes: NDArray[np.integer],
    experts: NDArray[np.integer],
    document: NDArray[np.integer],
    n_experts: int,
    *,
    shifts: int = SHIFTS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> ClassInformation:
    """How much the class of a token tells of its expert, beyond chance, within documents.

    `classes` (any number of them, from 0) and `document` [tokens], `experts` [tokens, slots]; a document's tokens are
    consecutive and in order. The null keeps each document's class sequence and expert sequence as they are, runs and
    all, and turns one against the other by a random offset: permuting single tokens would call the runs themselves an
    association.

    Raises:
        AnalysisError: there are fewer than 2 documents, or a document's tokens are not consecutive.
    """
    starts, lengths = _runs(document)
    place = np.repeat(np.arange(len(starts)), lengths)
    shape = (len(starts), int(classes.max()) + 1, n_experts)
    counts = class_counts(classes, experts, place, shape)
    null = _shifted_counts(classes, experts, starts, lengths, shape, shifts, seed)
    by_chance = mutual_information(null.sum(1))
    plug_in, null_mean = float(mutual_information(counts.sum(0))), float(by_chance.mean())
    excess, alike = _excess(counts, null[:_SHIFTS_OF_RESAMPLES]), np.zeros(len(starts), dtype=np.int64)
    resamples = bootstrap(excess, alike, replicates=replicates)
    maximum = float(mutual_information(np.diag(counts.sum((0, 2)))))
    # resamples see the first shifts alone, whose mean is a little off that of all
    moved = plug_in - null_mean - float(resamples.observed)
    low, high = np.clip(np.stack(resamples.reflected()) + moved, -null_mean, maximum - null_mean)
    return ClassInformation(
        plug_in=plug_in,
        null_mean=null_mean,
        null_range=central_range(by_chance),
        estimate=Estimate(plug_in - null_mean, Interval(float(low), float(high))),
        p=null_p_value(plug_in, by_chance),
        maximum=maximum,
        documents=len(starts),
        assignments=int(counts.sum()),
    )


def _excess(counts: NDArray[np.int64], null: NDArray[np.int64]) -> Statistic:
    """[replicates] plug-in − null mean of resampled documents, on `counts` [documents, classes, experts] and `null`
    [shifts, documents, classes, experts].

    A shift keeps how often each class and each expert occurs in a document, so that of
    I = H(E) + H(class) − H(E, class) only the last differs between the counts as they are and their shifts.
    """
    together = np.concatenate([counts[None], null]).swapaxes(0, 1).reshape(len(counts), -1).astype(np.float64)

    def excess(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        tables = (weights.astype(np.float64) @ together).reshape(len(weights), 1 + len(null), -1)
        tables /= tables[:, :1].sum(-1, keepdims=True)
        entropy = entr(tables).sum(-1)
        difference: NDArray[np.float64] = (entropy[:, 1:].mean(1) - entropy[:, 0]) / math.log(2)
        return difference

    return excess


def _runs(document: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First token and number of tokens of each document."""
    if not len(document):
        raise AnalysisError("no tokens to measure I(E;class) on: give the tokens of at least one document")
    starts = np.append(0, np.flatnonzero(np.diff(document)) + 1).astype(np.int64)
    if len(np.unique(document[starts])) < len(starts):
        raise AnalysisError("the tokens of a document must be consecutive: sort the trace by document and place")
    return starts, np.diff(np.append(starts, len(document)))


def _shifted_counts(
    classes: NDArray[np.integer],
    experts: NDArray[np.integer],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    shape: tuple[int, int, int],
    shifts: int,
    seed: int,
) -> NDArray[np.int64]:
    """[shifts, documents, classes, experts] counts with each document's classes turned by its own random offset."""
    offset = generator(seed).integers(0, lengths, size=(shifts, len(lengths)))
    place = np.repeat(np.arange(len(starts)), lengths)
    within = np.arange(len(place)) - starts[place]
    batch = max(1, _BATCH // experts.size)
    parts = []
    for first in range(0, shifts, batch):
        turned = starts[place] + (within + offset[first : first + batch, place]) % lengths[place]
        rows = len(turned)
        group = (np.arange(rows)[:, None] * len(starts) + place).reshape(-1)
        many = np.tile(experts, (rows, 1))
        counts = class_counts(classes[turned].reshape(-1), many, group, (rows * shape[0], *shape[1:]))
        parts.append(counts.reshape(rows, *shape))
    return np.concatenate(parts)
