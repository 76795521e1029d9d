"""Specificity rejects as often as it says when domains mean nothing, and intervals of effects hold what they promise.

Documents' changes of loss are drawn from known populations. Slow runs ask for 3–7 % and 93–97 % over 2,000 simulations;
the quick ones only for what four standard errors of chance leave.
"""

import math
from itertools import product

import numpy as np
import pytest

from moe_emergence.analysis.causal.effects import Origin, domain_means, domain_ratios, single
from moe_emergence.analysis.causal.specificity import specificity
from moe_emergence.analysis.statistics import generator

DOMAINS, EXPERTS = 3, 8


def settings(names: str, *cases: tuple) -> pytest.MarkDecorator:
    """The first case also as a quick run of 50 simulations; every case as a slow run of 2,000."""
    marks = [pytest.mark.slow, pytest.mark.timeout(1800)]
    slow = [pytest.param(*case, 2_000, marks=marks) for case in cases]
    return pytest.mark.parametrize((*names.split(), "simulations"), [(*cases[0], 50), *slow])


def within(share: float, promised: float, simulations: int) -> bool:
    chance = 4 * math.sqrt(promised * (1 - promised) / simulations)
    return abs(share - promised) <= (0.02 if simulations >= 2_000 else max(0.02, chance))


def origin(documents: int, predicted: np.ndarray) -> Origin:
    domain = np.repeat(np.arange(DOMAINS), documents)
    return Origin(arm="", seed=0, step=0, domains=("a", "b", "c"), domain=domain, predicted=predicted)


def drawn(documents: int, effect: float, tails: bool, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """[experts, documents] changes of loss, affected tokens, and [documents] predicted tokens. An affected token costs
    `effect` nats on average, which differs from document to document, with heavy tails if asked for."""
    total = DOMAINS * documents
    predicted = rng.integers(40, 256, total)
    share = rng.dirichlet(np.full(EXPERTS, 3.0), size=total).T
    affected = rng.binomial(predicted, share)
    noise = rng.standard_t(5, size=(EXPERTS, total)) if tails else rng.normal(size=(EXPERTS, total))
    change = affected * (effect + 0.1 * noise) + np.sqrt(affected) * 0.3 * rng.normal(size=(EXPERTS, total))
    return change, affected, predicted


@settings("documents tails", (36, True), (36, False), (12, True))
def test_specificity_rejects_as_often_as_it_says_when_domains_mean_nothing(documents, tails, simulations) -> None:
    """Experts differ in what they cost, the same in every domain."""
    rng, rejected = generator(21), 0
    for number in range(simulations):
        change, _, predicted = drawn(documents, 0.05, tails, rng)
        change *= np.linspace(0.2, 3, EXPERTS)[:, None]
        rejected += specificity(origin(documents, predicted), change, permutations=199, seed=number).p <= 0.05
    print(f"specificity null, {documents} documents, tails {tails}: {rejected / simulations:.3f}")
    assert within(rejected / simulations, 0.05, simulations)


@settings("documents effect tails", (36, 0.05, True), (36, 0.05, False), (36, 0.0, True), (20, 0.05, True))
def test_intervals_of_effects_cover(documents, effect, tails, simulations) -> None:
    """Total effects of one domain and of their mean, and effects per affected token; the experts of a draw share its
    resamples."""
    rng, held = generator(22), np.zeros(4)
    truth = np.array([effect / EXPERTS, effect])
    for number in range(simulations // EXPERTS + 1):
        change, affected, predicted = drawn(documents, effect, tails, rng)
        here = origin(documents, predicted)
        found = domain_means(here, change, seed=number), domain_ratios(here, change, affected, seed=number)
        for place, (kind, column) in enumerate(product((0, 1), (0, DOMAINS))):
            for expert in range(EXPERTS):
                interval = single(found[kind], (expert, column)).estimate().interval
                held[place] += interval.low <= truth[kind] <= interval.high
    shares = held / (simulations // EXPERTS + 1) / EXPERTS
    print(f"{documents} documents, effect {effect}, tails {tails}: {shares}")
    assert all(within(share, 0.95, simulations) for share in shares)


@settings("documents", (36,), (20,))
def test_intervals_of_specificity_cover(documents, simulations) -> None:
    """Expert 2 costs domain b 0.2 nats a token more: it is always chosen, and tested on the other documents."""
    rng, held = generator(23), 0
    for number in range(simulations):
        change, _, predicted = drawn(documents, 0.0, True, rng)
        here = origin(documents, predicted)
        change[2] += 0.2 * predicted * (here.domain == 1)
        found = specificity(here, change, permutations=1, seed=number)
        assert (found.expert, found.domain) == (2, 1)
        held += found.tested.interval.low <= 0.2 <= found.tested.interval.high
    print(f"specificity interval, {documents} documents: {held / simulations:.3f}")
    assert within(held / simulations, 0.95, simulations)
