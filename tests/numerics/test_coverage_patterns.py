"""Intervals and nulls of the measures of routes, on documents that differ: 2,000 simulations each, run when asked.

A document has tastes of its own: for an expert whatever the token (`shared`), or for each label anew. Tokens as the unit
would miss nearly always.
"""

import math
from functools import partial

import numpy as np
import pytest

from moe_emergence.analysis.statistics import bootstrap, generator, null_p_value
from moe_emergence.analysis.token_information import flipped_information, in_batches, split_terms

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DOMAINS, EXPERTS, LABELS, TOKENS, SIMULATIONS = 3, 8, 12, 256, 2_000


def domains_of(documents: int) -> np.ndarray:
    return np.repeat(np.arange(DOMAINS), documents)


def routes(topic: float, syntax: float, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """p(e|d,x) in logits [domains, labels, experts], and p(x|d): labels that domains use unlike."""
    rng = generator(seed)
    logits = rng.normal(size=EXPERTS) * 0.3 + syntax * rng.normal(size=(1, LABELS, EXPERTS))
    logits = logits + topic * rng.normal(size=(DOMAINS, LABELS, EXPERTS))
    return logits, rng.dirichlet(np.full(LABELS, 2.0), size=DOMAINS)


def tastes(shape: tuple[int, ...], shared: bool, rng: np.random.Generator, spread: float = 0.5) -> np.ndarray:
    """[..., documents, labels, experts] what a document adds to logits."""
    return spread * rng.normal(size=(*shape[:-2], 1 if shared else shape[-2], shape[-1]))


def softmax(logits: np.ndarray) -> np.ndarray:
    scaled = np.exp(logits - logits.max(-1, keepdims=True))
    return scaled / scaled.sum(-1, keepdims=True)


def split_counts(logits, labels, documents, shared, rng) -> np.ndarray:
    """[documents, labels, experts]."""
    domain = domains_of(documents)
    chances = softmax(logits[domain] + tastes((len(domain), LABELS, EXPERTS), shared, rng))
    return rng.multinomial(rng.multinomial(TOKENS, labels[domain]), chances)


def split_truth(logits, labels, shared) -> np.ndarray:
    """I(E;X) and I(E;D|X) of documents without end."""
    rng = generator(99)
    chances = sum(softmax(logits[:, None] + tastes((500, LABELS, EXPERTS), shared, rng)).mean(1) for _ in range(100))
    return split_terms((labels[..., None] * chances / 100)[None] / DOMAINS)[0]


@pytest.mark.parametrize("documents", [36, 133])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("topic", "syntax"), [(0.5, 0.5), (0.25, 1.0)])
def test_intervals_of_the_split_cover(topic, syntax, shared, documents) -> None:
    logits, labels = routes(topic, syntax)
    truth, domain, rng, held = split_truth(logits, labels, shared), domains_of(documents), generator(1), np.zeros(2)
    for number in range(SIMULATIONS):
        counts = split_counts(logits, labels, documents, shared, rng)
        found = bootstrap(in_batches(split_terms, counts, domain), domain, replicates=500, seed=number)
        low, high = found.reflected()
        held += (low <= truth) & (truth <= high)
    coverage = held / SIMULATIONS
    print(f"split {truth.round(3)}, shared {shared}, {documents}: I(E;X) {coverage[0]:.3f}, I(E;D|X) {coverage[1]:.3f}")
    assert np.all(np.abs(coverage - 0.95) <= 0.02)


@pytest.mark.parametrize("documents", [36, 133])
@pytest.mark.parametrize("shared", [True, False])
def test_turned_signs_reject_as_often_as_they_say_when_the_domain_adds_nothing(shared, documents) -> None:
    logits, labels = routes(0, 1.0)
    domain, rng, p_values = domains_of(documents), generator(2), []
    for number in range(SIMULATIONS):
        counts = split_counts(logits, labels, documents, shared, rng)
        p_values.append(null_p_value(*flipped_information(counts, domain, 199, number)))
    rejected = float(np.mean(np.array(p_values) <= 0.05))
    print(f"turned signs, shared {shared}, {documents} documents: {rejected:.3f}")
    assert abs(rejected - 0.05) <= 0.02
