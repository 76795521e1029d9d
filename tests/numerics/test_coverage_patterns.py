"""Intervals and nulls of the measures of routes, on documents that differ: 2,000 simulations each, run when asked.

A document has tastes of its own: for an expert whatever the token (`shared`), or for each label anew. Tokens as the
unit would miss nearly always.
"""

import numpy as np
import pytest

from moe_emergence.analysis.coactivation import coactivation
from moe_emergence.analysis.locality import adjacent_pairs, locality
from moe_emergence.analysis.paths import path_information, paths
from moe_emergence.analysis.saturation import overlap
from moe_emergence.analysis.statistics import generator, jackknife, null_p_value
from moe_emergence.analysis.token_information import (
    cell_counts,
    domain_joint,
    flipped_information,
    in_batches,
    split_terms,
    turned_information,
)
from moe_emergence.analysis.vocabulary import vocabulary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DOMAINS, EXPERTS, LABELS, TOKENS, SIMULATIONS = 3, 8, 12, 256, 2_000
BATCH = 50


def places(document: np.ndarray) -> np.ndarray:
    """Each token's place in its document, of documents numbered from 0."""
    return np.concatenate([np.arange(length) for length in np.bincount(document)])


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


@pytest.mark.parametrize(
    ("topic", "syntax", "shared", "documents"),
    [
        (0.5, 0.5, True, 36),
        (0.5, 0.5, False, 36),
        (0.5, 0.5, True, 133),
        (0.25, 1.0, True, 36),
        (0.25, 1.0, False, 36),
        (0.25, 1.0, True, 133),
    ],
)
def test_intervals_of_the_split_cover(topic, syntax, shared, documents) -> None:
    logits, labels = routes(topic, syntax)
    truth, domain, rng, held = split_truth(logits, labels, shared), domains_of(documents), generator(1), np.zeros(2)
    for _ in range(SIMULATIONS // BATCH):
        batch = [split_counts(logits, labels, documents, shared, rng) for _ in range(BATCH)]
        statistics = [in_batches(split_terms, counts, domain) for counts in batch]

        for statistic in statistics:
            found = [estimate.interval for estimate in jackknife(statistic, domain)[1]]
            held += [interval.low <= value <= interval.high for interval, value in zip(found, truth, strict=True)]
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


def document_of(documents: int, length: int) -> np.ndarray:
    return np.repeat(np.arange(DOMAINS * documents), length)


def runs(rng: np.random.Generator, shares: np.ndarray, stay: float = 0.5) -> np.ndarray:
    """[documents · tokens] numbers drawn by shares [documents, tokens, kinds], each kept from the one before with
    probability `stay`."""
    drawn = (rng.random((*shares.shape[:2], 1)) > shares.cumsum(-1)[..., :-1]).sum(-1)
    fresh = rng.random(drawn.shape) >= stay
    fresh[:, 0] = True
    place = np.maximum.accumulate(np.where(fresh, np.arange(drawn.shape[1]), 0), axis=1)
    return np.take_along_axis(drawn, place, axis=1).reshape(-1)


def own_shares(rng: np.random.Generator, documents: int, kinds: int, length: int, around: float = 10) -> np.ndarray:
    """[documents, tokens, kinds]: what each document prefers, the same at all of its tokens."""
    shares = rng.dirichlet(np.full(kinds, around / kinds), size=documents)
    return np.broadcast_to(shares[:, None], (documents, length, kinds))


@pytest.mark.parametrize("measure", ["token", "vocabulary", "path", "locality"])
def test_nulls_of_sequences_reject_as_often_as_they_say(measure) -> None:
    """36 documents of 64 tokens: ids and routes with runs, and a document's own tastes in both, but nothing between
    them; for locality, routes without runs."""
    documents, length, domain, rng, p_values = 12, 64, domains_of(12), generator(3), []
    document = document_of(documents, length)
    adjacent = adjacent_pairs(document, places(document), length)
    options = {"draws": 99, "replicates": 2}
    for number in range(SIMULATIONS):
        ids = runs(rng, own_shares(rng, len(domain), 10, length))
        stay = 0.0 if measure == "locality" else 0.5
        experts = runs(rng, own_shares(rng, len(domain), EXPERTS, length), stay)
        if measure == "token":
            by_turn = turned_information(ids, experts[:, None], document, domain, EXPERTS, 99, number)
            counts = cell_counts(document, ids, experts[:, None], (len(domain), 10, EXPERTS))
            joint = domain_joint(counts, domain, np.ones((1, len(domain)), dtype=np.int64))
            p_values.append(null_p_value(float(split_terms(joint)[0, 0]), by_turn))
        elif measure == "vocabulary":
            found = vocabulary(ids, experts[:, None], document, domain, EXPERTS, seed=number, **options)
            p_values.append(null_p_value(float(found.specialisation[0]), found.null[:, 0]))
        elif measure == "path":
            shape = (10, EXPERTS)
            p_values.append(path_information(ids, experts, document, domain, shape, seed=number, **options).term.p)
        else:
            p_values.append(locality(experts, document, domain, adjacent, seed=number, **options)[-1].p)
    rejected = float(np.mean(np.array(p_values) <= 0.05))
    print(f"null of {measure}: {rejected:.3f}")
    assert abs(rejected - 0.05) <= 0.02


@pytest.mark.parametrize("documents", [36, 20])
def test_intervals_of_shares_of_tokens_cover(documents) -> None:
    """Saturation, locality and its excess, where each document has its own share of tokens that stay."""
    length, domain, rng, held = 64, domains_of(documents), generator(4), np.zeros(3)
    document = document_of(documents, length)
    adjacent = adjacent_pairs(document, places(document), length)
    for number in range(SIMULATIONS):
        stays = rng.beta(6, 4, size=len(domain))[document]
        first, other = rng.integers(0, EXPERTS, (2, len(document)))
        kept = np.where(rng.random(len(document)) < stays, first, other)
        found = overlap(first[:, None], kept[:, None], document, domain, EXPERTS, replicates=400, seed=number)
        truth = 0.6 + 0.4 / EXPERTS
        held[0] += found.interval.low <= truth <= found.interval.high
        fresh = (rng.random(len(document)) >= stays) | (places(document) == 0)
        routes = first[np.maximum.accumulate(np.where(fresh, np.arange(len(document)), 0))]
        near = locality(routes, document, domain, adjacent, draws=2, replicates=400, seed=number)[-1]
        held[1] += near.interval.low <= truth <= near.interval.high
        held[2] += near.excess_interval.low <= EXCESS_TRUTH <= near.excess_interval.high
    coverage = held / SIMULATIONS
    print(f"{documents}: saturation {coverage[0]:.3f}, locality {coverage[1]:.3f}, its excess {coverage[2]:.3f}")
    assert np.all(np.abs(coverage - 0.95) <= 0.02)


def _excess_truth() -> float:
    """Share of pairs less what shuffling a document of 64 tokens leaves, its runs being of Beta(6, 4) stays: two tokens
    d apart agree by staying all along, or by chance."""
    stays, apart = generator(5).beta(6, 4, size=200_000), np.arange(1, 64)
    pairs = (64 - apart) / (64 * 63 / 2)
    alike = sum(weight * np.mean(stays**d) for weight, d in zip(pairs, apart, strict=True))
    return float((np.mean(stays) - alike) * (1 - 1 / EXPERTS))


EXCESS_TRUTH = _excess_truth()


@pytest.mark.parametrize("documents", [36, 20])
@pytest.mark.parametrize("spread", [0.3, 0.8])
def test_intervals_of_pairs_cover(documents, spread) -> None:
    """Sets of two by each document's own odds; all pairs together, and single ones. Where documents differ, their sets
    taken together are not independent choices, so that lift is off its chance level: the truth is that of many."""
    length, slots, domain, rng = 100, 2, domains_of(documents), generator(6)
    document, odds = document_of(documents, length), generator(7).normal(size=EXPERTS) * 0.5
    apart = ~np.eye(EXPERTS, dtype=bool)

    def sets(number: int) -> np.ndarray:
        tastes = odds + spread * rng.normal(size=(number, EXPERTS))
        keys = np.repeat(tastes, length, axis=0) + rng.gumbel(size=(number * length, EXPERTS))
        return np.argsort(-keys, axis=1)[:, :slots]

    both = sum(np.einsum("ti,tj->ij", *[np.eye(EXPERTS)[sets(1_000)].sum(1)] * 2) for _ in range(40)) / (
        40_000 * length
    )
    used = np.diagonal(both)
    truth = np.stack([both / used[:, None], both / used[:, None] / used])[:, apart]
    held = np.zeros_like(truth)
    for number in range(SIMULATIONS):
        found = coactivation(sets(len(domain)), document, domain, EXPERTS, replicates=400, seed=number)
        low = np.stack([found.share_low, found.lift_low])[:, apart]
        high = np.stack([found.share_high, found.lift_high])[:, apart]
        held += (low <= truth) & (truth <= high)
    coverage = held / SIMULATIONS
    share, lift = coverage.mean(1)
    print(f"{documents}, {spread}: share {share:.3f} {coverage[0].min():.3f}, lift {lift:.3f} {coverage[1].min():.3f}")
    assert np.all(np.abs(coverage.mean(1) - 0.95) <= 0.02)


@pytest.mark.parametrize("documents", [36, 20])
@pytest.mark.parametrize("tie", [0.4, 1.0])
def test_intervals_of_paths_cover(documents, tie) -> None:
    """Documents' own odds for paths around shared ones; information, and single paths together."""
    length, domain, rng, held = 128, domains_of(documents), generator(8), 0.0
    logits = tie * generator(9).normal(size=(EXPERTS, EXPERTS))

    def shares(number: int) -> np.ndarray:
        tastes = logits + 0.4 * rng.normal(size=(number, EXPERTS, EXPERTS))
        return softmax(tastes.reshape(number, -1))

    many = sum(shares(20_000).mean(0) for _ in range(10)).reshape(EXPERTS, EXPERTS) / 10
    truth, inside = float(split_terms(many[None, None])[0, 0]), 0.0
    for number in range(SIMULATIONS):
        cells = np.concatenate(
            [np.repeat(np.arange(EXPERTS**2), counts) for counts in rng.multinomial(length, shares(len(domain)))]
        )
        earlier, later = np.divmod(cells, EXPERTS)
        arguments = earlier, later, document_of(documents, length), domain, (EXPERTS, EXPERTS)
        found = path_information(*arguments, draws=2, replicates=400, seed=number).term
        held += found.interval.low <= truth <= found.interval.high
        if number % 10 == 0:
            one = paths(*arguments, replicates=400, seed=number)
            inside += float(((one.low <= many) & (many <= one.high)).mean())
    coverage, single = held / SIMULATIONS, inside / len(range(0, SIMULATIONS, 10))
    print(f"paths {truth:.3f} bits, {documents}: information {coverage:.3f}, shares {single:.3f}")
    assert abs(coverage - 0.95) <= 0.02
    assert abs(single - 0.95) <= 0.02


@pytest.mark.parametrize("documents", [36, 20])
def test_intervals_of_vocabulary_cover(documents) -> None:
    """What probes as large show on average, with tastes of documents; and each share of an id's tokens."""
    length, domain, rng = 128, domains_of(documents), generator(10)
    document, logits = document_of(documents, length), 1.0 * generator(11).normal(size=(30, EXPERTS))

    def probe(number: int) -> tuple[np.ndarray, np.ndarray]:
        ids = rng.integers(0, 30, len(document))
        tastes = 0.5 * rng.normal(size=(len(domain), EXPERTS))
        keys = logits[ids] + tastes[document] + rng.gumbel(size=(len(document), EXPERTS))
        return ids, keys.argmax(1)[:, None]

    found, shares = [], sum(softmax(logits + 0.5 * rng.normal(size=(500, 1, EXPERTS))).mean(0) for _ in range(40)) / 40
    inside = []
    for number in range(SIMULATIONS):
        one = vocabulary(*probe(number), document, domain, EXPERTS, draws=9, replicates=200, seed=number)
        found.append((one.specialisation[0] - one.null[:, 0].mean(), one.spread[0]))
        inside.append(float(((one.low <= shares) & (shares <= one.high)).mean()))
    estimate, spread = np.array(found).T
    coverage = float((np.abs(estimate - estimate.mean()) <= spread).mean())
    print(f"vocabulary, {documents}: {coverage:.3f}, shares of ids {np.mean(inside):.3f}")
    assert abs(coverage - 0.95) <= 0.02
    assert abs(float(np.mean(inside)) - 0.95) <= 0.02
