"""I(E;class): against scikit-learn, at both extremes, with a null that runs do not fool."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from moe_emergence.analysis.class_information import class_counts, class_information
from moe_emergence.analysis.information import mutual_information
from moe_emergence.analysis.statistics import generator
from moe_emergence.errors import AnalysisError

DOCUMENTS, TOKENS, EXPERTS, CLASSES = 36, 256, 8, 8
DOCUMENT = np.repeat(np.arange(DOCUMENTS), TOKENS)


def runs(rng: np.random.Generator, tokens: int, kinds: int, stay: float = 0.6) -> NDArray[np.int64]:
    """A sequence that repeats its last value with probability `stay`, and else draws one evenly."""
    drawn = rng.integers(0, kinds, tokens)
    fresh = rng.random(tokens) >= stay
    fresh[0] = True
    return drawn[np.maximum.accumulate(np.where(fresh, np.arange(tokens), 0))]


def test_counts_by_hand() -> None:
    classes = np.array([0, 0, 5, 5], dtype=np.uint8)
    experts = np.array([[1, 0], [1, 2], [2, 1], [0, 2]])
    counts = class_counts(classes, experts, np.array([0, 0, 0, 1]), (2, CLASSES, 3))
    assert counts.shape == (2, CLASSES, 3)
    assert counts[0, 0].tolist() == [1, 2, 1]
    assert counts[0, 5].tolist() == [0, 1, 1]
    assert counts[1, 5].tolist() == [1, 0, 1]
    assert counts.sum() == experts.size
    assert class_counts(classes, experts[:, :1], np.array([0, 0, 0, 1]), (2, CLASSES, 3))[0, 0].tolist() == [0, 2, 0]


@pytest.mark.parametrize("seed", range(5))
def test_information_is_scikit_learn_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES - seed % 3, 3000).astype(np.uint8)
    experts = np.where(rng.random(3000) < 0.2 * seed, classes % 5, rng.integers(0, EXPERTS, 3000))
    document = np.repeat(np.arange(10), 300)
    found = class_information(classes, experts[:, None], document, EXPERTS, shifts=19)
    assert found.plug_in == pytest.approx(mutual_info_score(classes, experts) / np.log(2), abs=1e-10)
    assert found.maximum == pytest.approx(mutual_info_score(classes, classes) / np.log(2), abs=1e-10)


def test_every_slot_counts() -> None:
    rng = np.random.default_rng(0)
    classes, experts = rng.integers(0, 4, 400).astype(np.uint8), rng.integers(0, EXPERTS, (400, 2))
    found = class_information(classes, experts, np.repeat(np.arange(4), 100), EXPERTS, shifts=19)
    both = mutual_info_score(np.repeat(classes, 2), experts.reshape(-1)) / np.log(2)
    assert found.plug_in == pytest.approx(both, abs=1e-10)
    assert found.assignments == 800


def test_both_extremes_of_the_plug_in() -> None:
    rng = np.random.default_rng(1)
    classes = rng.integers(0, CLASSES, len(DOCUMENT)).astype(np.uint8)
    same = class_information(classes, classes[:, None], DOCUMENT, EXPERTS)
    assert same.plug_in == pytest.approx(same.maximum)
    assert same.maximum == pytest.approx(3, abs=0.01)
    assert same.p == 1 / 200
    one = class_information(classes, np.zeros((len(classes), 1), dtype=np.int64), DOCUMENT, EXPERTS)
    assert one.plug_in == one.null_mean == one.estimate.value == 0
    assert one.p == 1


def test_a_planted_association_is_found() -> None:
    """A token goes to its class's expert with probability q, else anywhere: the truth is that table's information."""
    rng, q = np.random.default_rng(2), 0.3
    classes = runs(rng, len(DOCUMENT), CLASSES)
    experts = np.where(rng.random(len(classes)) < q, classes, runs(rng, len(classes), EXPERTS))
    found = class_information(classes.astype(np.uint8), experts[:, None], DOCUMENT, EXPERTS)
    truth = float(mutual_information(q * np.eye(8) / 8 + (1 - q) / 64))
    assert found.estimate.interval.low < truth < found.estimate.interval.high
    assert found.estimate.value == pytest.approx(truth, rel=0.1)
    assert found.null_range.low < found.null_mean < found.null_range.high < found.estimate.value
    assert found.p == 1 / 200
    assert (found.documents, found.assignments) == (DOCUMENTS, len(DOCUMENT))


def test_what_documents_share_is_no_association_of_their_tokens() -> None:
    """Half of the documents are all comments and go to expert 0, half are all names and go to expert 1."""
    kind = np.repeat([5, 1], len(DOCUMENT) // 2).astype(np.uint8)
    expert = (kind == 1).astype(np.int64)
    found = class_information(kind, expert[:, None], DOCUMENT, EXPERTS)
    assert found.plug_in == pytest.approx(1)
    assert found.estimate.value == pytest.approx(0)
    assert found.p == 1


def test_a_turned_sequence_stays_in_its_document() -> None:
    """Documents of unlike lengths and classes of their own: no turn can move a class to another document."""
    document = np.repeat([7, 3, 9], [1, 5, 40])
    kind = np.repeat([0, 1, 2], [1, 5, 40]).astype(np.uint8)
    found = class_information(kind, np.repeat([[4], [2], [0]], [1, 5, 40], axis=0), document, EXPERTS)
    assert found.null_range.low == found.null_range.high == pytest.approx(found.maximum)


def test_the_same_seed_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(3)
    classes, experts = runs(rng, len(DOCUMENT), 8).astype(np.uint8), runs(rng, len(DOCUMENT), 8)[:, None]
    first, again, other = (class_information(classes, experts, DOCUMENT, 8, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.null_mean != other.null_mean


def test_tokens_out_of_order_and_too_few_documents_are_refused() -> None:
    classes, experts = np.zeros(3, dtype=np.uint8), np.zeros((3, 1), dtype=np.int64)
    with pytest.raises(AnalysisError, match="consecutive"):
        class_information(classes, experts, np.array([0, 1, 0]), EXPERTS)
    with pytest.raises(AnalysisError, match="at least 2"):
        class_information(classes, experts, np.array([0, 0, 0]), EXPERTS)
    with pytest.raises(AnalysisError, match="no tokens"):
        class_information(classes[:0], experts[:0], np.array([], dtype=np.int64), EXPERTS)


def brute_force_shifts(classes, experts, lengths, seed: int, shifts: int) -> NDArray[np.float64]:
    """The plug-in of each shift, document by document, with the offsets that `seed` draws."""
    offsets = generator(seed).integers(0, lengths, size=(shifts, len(lengths)))
    found = []
    for row in offsets:
        ends = np.cumsum(lengths)
        turned = [
            np.roll(classes[end - length : end], -offset)
            for end, length, offset in zip(ends, lengths, row, strict=True)
        ]
        found.append(mutual_info_score(np.concatenate(turned), experts) / np.log(2))
    return np.array(found)


@pytest.mark.parametrize("kinds", [3, 12])
def test_null_is_that_of_turning_each_document_by_hand(kinds: int) -> None:
    """Any number of classes, documents of unlike lengths: every shift, and what is made of them."""
    rng, lengths = np.random.default_rng(8), np.array([5, 40, 17, 64])
    document, tokens = np.repeat(np.arange(4), lengths), lengths.sum()
    classes, experts = runs(rng, tokens, kinds), runs(rng, tokens, 4)
    experts[:40] = classes[:40] % 4
    found = class_information(classes, experts[:, None], document, 4, shifts=49, seed=3)
    null = brute_force_shifts(classes, experts, lengths, seed=3, shifts=49)
    assert found.null_mean == pytest.approx(null.mean(), abs=1e-10)
    assert found.null_range.low == pytest.approx(np.quantile(null, 0.025), abs=1e-10)
    assert found.estimate.value == pytest.approx(found.plug_in - null.mean(), abs=1e-10)
    assert found.p == (1 + np.count_nonzero(null >= found.plug_in - 1e-12)) / 50
    assert found.maximum == pytest.approx(mutual_info_score(classes, classes) / np.log(2), abs=1e-10)


def test_turning_one_document_gives_each_of_its_turns_alike_often() -> None:
    """Of 3 tokens with one class and one expert of their own, a third of the shifts leaves all as it is."""
    document = np.repeat([0, 1], [3, 1])
    classes, experts = np.array([0, 1, 1, 0]), np.array([[0], [1], [1], [0]])
    found = class_information(classes, experts, document, 2, shifts=3000)
    assert found.p == pytest.approx(1 / 3, abs=0.03)


def test_interval_lies_around_the_estimate_and_within_its_limits() -> None:
    """Resamples see 19 of the shifts; what they are centred on is moved to the estimate of all of them."""
    rng = np.random.default_rng(5)
    classes = runs(rng, len(DOCUMENT), CLASSES)
    experts = np.where(rng.random(len(classes)) < 0.2, classes, runs(rng, len(classes), EXPERTS))
    found = class_information(classes, experts[:, None], DOCUMENT, EXPERTS)
    few = class_information(classes, experts[:, None], DOCUMENT, EXPERTS, shifts=19)
    width = [found.estimate.interval.high - found.estimate.interval.low for found in (found, few)]
    assert width[0] == pytest.approx(width[1], abs=1e-9)
    assert few.null_mean != found.null_mean
    gap = found.estimate.value - few.estimate.value
    assert found.estimate.interval.low - few.estimate.interval.low == pytest.approx(gap, abs=1e-9)
    same = class_information(classes, classes[:, None], DOCUMENT, EXPERTS)
    assert same.estimate.interval.high <= same.maximum - same.null_mean + 1e-12
    none = class_information(classes, np.zeros((len(classes), 1), dtype=np.int64), DOCUMENT, EXPERTS)
    assert (none.estimate.interval.low, none.estimate.interval.high) == pytest.approx((0, 0), abs=1e-12)
    few_documents = class_information(classes[:512], runs(rng, 512, EXPERTS)[:, None], DOCUMENT[:512], EXPERTS)
    assert few_documents.estimate.interval.low >= -few_documents.null_mean - 1e-12


@pytest.mark.slow
def test_independent_runs_are_called_an_association_in_one_of_twenty() -> None:
    """1,000 draws of sequences with runs on both sides; permuting single tokens would reject far more often."""
    rng, document = np.random.default_rng(4), np.repeat(np.arange(12), 64)
    rejected = 0
    for seed in range(1000):
        classes = np.concatenate([runs(rng, 64, 6, 0.8) for _ in range(12)]).astype(np.uint8)
        experts = np.concatenate([runs(rng, 64, 4, 0.8) for _ in range(12)])[:, None]
        rejected += class_information(classes, experts, document, 4, seed=seed).p <= 0.05
    assert 30 <= rejected <= 70
