"""I(E;class) and format against content: their intervals cover, their nulls reject as often as they say.

Slow runs of 2,000 simulations ask for 93–97 % and 3–7 %; the quick ones only for what four standard errors leave.
"""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from moe_emergence.analysis.class_information import class_information
from moe_emergence.analysis.format_swaps import divergence, paired_divergences
from moe_emergence.analysis.information import mutual_information
from moe_emergence.analysis.statistics import generator

EXPERTS, TOKENS = 8, 128


def settings(names: str, *cases: tuple, quick: int = 0) -> pytest.MarkDecorator:
    """Every case as a slow run of 2,000 simulations; the first also as a quick one, where asked for."""
    marks = [pytest.mark.slow, pytest.mark.timeout(3600)]
    slow = [pytest.param(*case, 2_000, marks=marks) for case in cases]
    return pytest.mark.parametrize((*names.split(), "simulations"), [(*cases[0], quick)][: quick > 0] + slow)


def within(share: float, promised: float, simulations: int) -> bool:
    chance = 4 * math.sqrt(promised * (1 - promised) / simulations)
    return abs(share - promised) <= (0.02 if simulations >= 2_000 else chance)


def runs(rng: np.random.Generator, documents: int, kinds: int, stay: float) -> NDArray[np.int64]:
    """[documents, tokens]: each repeats the one before it with probability `stay`, and else is drawn evenly."""
    drawn = rng.integers(0, kinds, (documents, TOKENS))
    fresh = rng.random((documents, TOKENS)) >= stay
    fresh[:, 0] = True
    place = np.maximum.accumulate(np.where(fresh, np.arange(TOKENS), 0), axis=1)
    return np.take_along_axis(drawn, place, axis=1)


def information(share: NDArray[np.float64], kinds: int, seed: int, stay: float, **counts: int):
    """`share` [documents] of a document's tokens go to their class's expert, the rest anywhere, both in runs."""
    rng = generator(seed)
    classes = runs(rng, len(share), kinds, stay)
    follows = rng.random(classes.shape) < share[:, None]
    experts = np.where(follows, classes % EXPERTS, runs(rng, len(share), EXPERTS, stay))
    document = np.repeat(np.arange(len(share)), TOKENS)
    return class_information(classes.ravel(), experts.reshape(-1, 1), document, EXPERTS, seed=seed, **counts)


@settings("kinds documents", (10, 36), (8, 20))
def test_shifts_reject_as_often_as_they_say_when_classes_mean_nothing(kinds, documents, simulations) -> None:
    none = np.zeros(documents)
    rejected = np.mean(
        [information(none, kinds, seed, stay=0.7, shifts=99, replicates=2).p <= 0.05 for seed in range(simulations)]
    )
    print(f"shifts, {kinds} classes, {documents} documents: {rejected:.3f}")
    assert within(float(rejected), 0.05, simulations)


@settings("share documents", (0.3, 36), (0.6, 20))
def test_interval_of_class_information_covers(share, documents, simulations) -> None:
    """Documents follow their classes by shares of their own, Beta of standard deviation about 0.1."""
    kinds, held = 8, 0
    truth = float(mutual_information(share * np.eye(8) / 8 + (1 - share) / 64))
    for seed in range(simulations):
        own = generator(seed + 10**6).beta(20 * share, 20 * (1 - share), documents)
        interval = information(own, kinds, seed, stay=0.4, shifts=19, replicates=1_000).estimate.interval
        held += interval.low <= truth <= interval.high
    print(f"I(E;class) at share {share}, {documents} documents: {held / simulations:.3f}")
    assert within(held / simulations, 0.95, simulations)


def versions(rng: np.random.Generator, documents: int, format: float, content: float):
    """Shares of 192 tokens a document as it is, and with a share of about `format` and `content` of them sent anew."""
    own = rng.dirichlet(np.ones(EXPERTS), documents)
    chosen = (rng.random((documents, 192, 1)) > own.cumsum(1)[:, None]).sum(-1)

    def shares(moved: float) -> NDArray[np.float64]:
        anew = rng.random(chosen.shape) < rng.beta(4 * moved, 4 * (1 - moved), (documents, 1)) if moved else False
        now = np.where(anew, rng.integers(0, EXPERTS, chosen.shape), chosen)
        return (now[..., None] == np.arange(EXPERTS)).mean(1)

    return shares(0), shares(format), shares(content)


def difference(before, by_format, by_content) -> float:
    return float((divergence(before, by_format) - divergence(before, by_content)).mean())


@settings("format content documents", *product((0.2,), (0.2, 0.05), (36, 20)), quick=60)
def test_interval_of_format_against_content_covers(format, content, documents, simulations) -> None:
    rng = generator(3)
    truth = float(np.mean([difference(*versions(rng, 2_000, format, content)) for _ in range(simulations // 50)]))
    found = [paired_divergences(*versions(rng, documents, format, content)) for _ in range(simulations)]
    held = float(np.mean([row["low"] <= truth <= row["high"] for row in found]))
    rejected = float(np.mean([row["p"] <= 0.05 for row in found]))
    print(f"format {format}, content {content}, {documents} documents: covers {held:.3f}, p ≤ 0.05 in {rejected:.3f}")
    assert within(held, 0.95, simulations)
    assert format != content or within(rejected, 0.05, simulations)
