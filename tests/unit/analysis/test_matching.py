"""Experts of two routers: renamed they agree fully, unrelated ones as the null does, matched as brute force does."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import DOCUMENTS, quickstart_like, write_suite

from moe_emergence.analysis.match_rows import match_rows, seed_match_rows, step_match_rows
from moe_emergence.analysis.matching import (
    cross_matched,
    matched_profiles,
    matched_tokens,
    pair_counts,
)
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.statistics import document_halves, generator
from moe_emergence.analysis.traces import Trace, read_trace
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], 8)
DOCUMENT = np.repeat(np.arange(24), 40)
NAMES = np.array([3, 0, 4, 1, 2])


def routed(seed: int, slots: int = 1, experts: int = 5) -> np.ndarray:
    rng = generator(seed)
    return np.argsort(rng.random((len(DOCUMENT), experts)) - np.linspace(0, 0.5, experts), axis=1)[:, :slots]


def document_counts(experts: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(experts[number == DOCUMENT].reshape(-1), minlength=5) for number in range(24)])


def tasteful(seed: int) -> np.ndarray:
    """[documents, experts] counts with a taste of each domain's own."""
    rng = generator(seed)
    routes = rng.dirichlet(np.full(5, 1.5), size=3)
    return rng.multinomial(40, routes[DOMAIN])


def test_pairs_are_counted_over_all_slots() -> None:
    experts, others = np.array([[0, 1], [2, 0], [1, 2]]), np.array([[1, 0], [1, 2], [2, 0]])
    looped = np.zeros((2, 3, 3), dtype=int)
    for token, group in enumerate((0, 0, 1)):
        for one in experts[token]:
            for other in others[token]:
                looped[group, one, other] += 1
    found = pair_counts(experts, others, np.array([0, 0, 1]), 2, 3)
    assert (found.reshape(2, 3, 3) == looped).all()


def test_matching_is_the_best_of_all_on_the_other_half() -> None:
    similarity = generator(3).random((2, 4, 4))
    best = [
        max(permutations(range(4)), key=lambda p, s=half: sum(s[i, j] for i, j in enumerate(p))) for half in similarity
    ]
    expected = np.mean([similarity[1 - h][np.arange(4), list(best[h])].sum() for h in (0, 1)])
    assert cross_matched(similarity) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("slots", [1, 2])
def test_experts_that_differ_in_names_alone_agree_fully(slots) -> None:
    experts = routed(1, slots)
    found = matched_tokens(experts, NAMES[experts], DOCUMENT, DOMAIN, 5)
    assert found.agreement.value == pytest.approx(1)
    assert found.matches == tuple(NAMES)
    assert found.p == 1 / 200
    assert found.null_mean < 0.7


def test_agreement_by_brute_force() -> None:
    """Tokens that agree under the best naming of one half, on the other, domains weighted equally."""
    experts, others = routed(1), np.where(generator(9).random((960, 1)) < 0.4, NAMES[routed(1)], routed(2))
    half = document_halves(DOMAIN)
    agreeing = []
    for side in (0, 1):
        chooses, tests = (half[DOCUMENT] == number for number in (side, 1 - side))

        def agreed(names: tuple[int, ...], tokens: np.ndarray) -> float:
            same = np.array(names)[experts[:, 0]] == others[:, 0]
            return float(np.mean([same[tokens & (DOMAIN[DOCUMENT] == number)].mean() for number in range(3)]))

        best = max(permutations(range(5)), key=lambda names, mine=chooses: agreed(names, mine))
        agreeing.append(agreed(best, tests))
    found = matched_tokens(experts, others, DOCUMENT, DOMAIN, 5)
    assert found.agreement.value == pytest.approx(np.mean(agreeing), abs=1e-10)
    assert found.agreement.interval.low < found.agreement.value < found.agreement.interval.high
    assert found.p == 1 / 200


def test_unrelated_tokens_agree_as_the_null_does() -> None:
    found = matched_tokens(routed(1), routed(2), DOCUMENT, DOMAIN, 5)
    assert found.p > 0.05
    assert found.agreement.value == pytest.approx(found.null_mean, abs=0.05)


def test_what_whole_documents_share_is_in_the_null_of_tokens() -> None:
    """Both give a document's tokens to one expert each, which one depends on the document: nothing within documents."""
    of_document = generator(4).integers(0, 5, 24)
    experts = of_document[DOCUMENT][:, None]
    found = matched_tokens(experts, NAMES[experts], DOCUMENT, DOMAIN, 5)
    assert found.agreement.value == pytest.approx(found.null_mean)
    assert found.p == 1


def test_profiles_that_differ_in_names_alone_agree_fully() -> None:
    """Up to what differs between the documents of one half, which is the same for both."""
    counts = tasteful(1)
    found = matched_profiles(counts, counts[:, np.argsort(NAMES)], DOMAIN)
    assert found.agreement.value == pytest.approx(1)
    assert found.matches == tuple(NAMES)
    assert found.p == 1 / 200
    assert abs(found.null_mean) < 0.3


def test_profiles_by_hand() -> None:
    """Shares (0.8, 0.2) and (0.4, 0.6) of two domains, and the same in other places: −1 as named, 1 once matched.

    A router that serves both domains alike has no profile: 0.
    """
    domain = np.repeat([0, 1], 4)
    first = np.where(domain[:, None] == 0, [[8, 2]], [[4, 6]])
    for other in (first, first[:, ::-1]):
        assert matched_profiles(first, other, domain).agreement.value == pytest.approx(1)
    flat = matched_profiles(first, np.full((8, 2), 5), domain)
    assert (flat.agreement.value, flat.p) == (0, 1)


def test_unrelated_profiles_agree_as_the_null_does() -> None:
    counts = generator(6).multinomial(40, np.full(5, 0.2), size=24)
    found = matched_profiles(tasteful(1), counts, DOMAIN)
    assert found.p > 0.05
    assert abs(found.agreement.value) < 0.5


def test_a_half_that_chose_would_find_agreement_in_noise() -> None:
    """The best of 120 namings fits the half that chose it; on the other half nothing is left."""
    fitted, tested = [], []
    for seed in range(60):
        similarity = generator(seed).normal(size=(2, 5, 5))
        tested.append(cross_matched(similarity))
        fitted.append(cross_matched(np.stack([similarity[0], similarity[0]])))
    assert np.mean(fitted) > 3
    assert abs(np.mean(tested)) < 1


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(seeds=(42, 44, 45), steps=4, looks=(0, 4))
    kept = tuple(arm for arm in planted.arms if arm.name in ("dense", "moe", "top2"))
    return read_suite(write_suite(tmp_path_factory.mktemp("seeds"), replace(planted, arms=kept)))


def last_traces(suite: Suite) -> dict[tuple[str, int], Trace]:
    return {(run.arm, run.seed): read_trace(run, run.last_step) for run in suite.runs}


def test_rows_are_of_every_two_seeds(suite: Suite) -> None:
    moe = replace(suite, arms=tuple(arm for arm in suite.arms if arm.name in ("dense", "moe")))
    rows = seed_match_rows(moe, last_traces(suite))
    assert [(row.arm, row.seed, row.other_seed, row.counted, row.by, row.layer) for row in rows] == [
        ("moe", *pair, "first choice", by, layer)
        for pair in ((42, 44), (42, 45), (44, 45))
        for by in ("tokens", "domains")
        for layer in (2, 3)
    ]
    profiles = [row for row in rows if row.by == "domains"]
    for row in profiles:
        assert (row.p, row.p_holm, row.documents) == (1 / 200, 2 / 200, DOCUMENTS), "planted alike in all seeds"
        assert row.null_high < row.low < row.agreement <= row.high <= 1
        assert row.agreement > 0.9
    favourites = {2: (0, 1, 4, 6), 3: (2, 5, 7)}
    assert all({row.matches[i] for i in favourites[row.layer]} == set(favourites[row.layer]) for row in profiles)
    tokens = [row.p for row in rows if row.by == "tokens"]
    assert np.mean(np.array(tokens) <= 0.05) < 0.5, "tokens were drawn from their domain's shares alone"


def test_one_seed_has_no_rows(tmp_path: Path) -> None:
    one = read_suite(write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4))))
    assert seed_match_rows(one, last_traces(one)) == ()


def test_a_step_matches_itself(suite: Suite) -> None:
    run = suite.runs_of("top2")[0]
    trace = read_trace(run, 4)
    rows = list(step_match_rows(run, trace, trace))
    assert [(row.counted, row.by, row.layer) for row in rows] == [
        (way, by, layer) for way in ("slots", "first choice") for by in ("tokens", "domains") for layer in (2, 3)
    ]
    for row in rows:
        assert row.agreement == pytest.approx(1)
        assert row.matches == tuple(range(8)) or row.by == "domains"
        assert (row.step, row.other_step, row.seed, row.other_seed) == (4, 4, 42, 42)


def test_rows_are_what_is_measured_on_their_slots(suite: Suite) -> None:
    runs = suite.runs_of("top2")[:2]
    trace, other = (read_trace(run, 4) for run in runs)
    rows = {(row.counted, row.by): row for row in match_rows(runs[0], trace, runs[1], other) if row.layer == 3}
    ours, theirs = trace.layers[1], other.layers[1]
    for counted, slots in (("slots", 2), ("first choice", 1)):
        expected = matched_tokens(ours.experts[:, :slots], theirs.experts[:, :slots], trace.document, trace.domain, 8)
        row = rows[counted, "tokens"]
        assert (row.agreement, row.low, row.high) == (
            expected.agreement.value, expected.agreement.interval.low, expected.agreement.interval.high,
        )  # fmt: skip
        assert (row.null_mean, row.null_high, row.p) == (expected.null_mean, expected.null_high, expected.p)
    profiles = [(ours.slots, theirs.slots), (ours.first_choice, theirs.first_choice)]
    for counted, both in zip(("slots", "first choice"), profiles, strict=True):
        assert rows[counted, "domains"].agreement == matched_profiles(*both, trace.domain).agreement.value


def test_steps_are_named(suite: Suite) -> None:
    run = suite.runs_of("moe")[0]
    rows = step_match_rows(run, read_trace(run, 0), read_trace(run, 4))
    assert {(row.step, row.other_step) for row in rows} == {(0, 4)}


def test_other_tokens_and_other_layers_are_refused(suite: Suite) -> None:
    run, other = suite.runs_of("moe")[:2]
    trace, others = read_trace(run, 4), read_trace(other, 4)
    with pytest.raises(
        AnalysisError, match=r"seed-42 at step 4 and .*seed-44 at step 4 were traced on other probe tokens"
    ):
        list(match_rows(run, trace, other, replace(others, token_id=others.token_id[::-1])))
    with pytest.raises(AnalysisError, match=r"other layers or experts.*only routers of the same shape"):
        list(match_rows(run, trace, other, replace(others, layers=others.layers[:1])))


def test_few_documents_give_no_rows(suite: Suite) -> None:
    run, other = suite.runs_of("moe")[:2]
    few = np.r_[np.zeros(33, dtype=np.int64), np.ones(3, dtype=np.int64)]
    trace, others = (replace(read_trace(each, 4), domain=few) for each in (run, other))
    assert list(match_rows(run, trace, other, others)) == []
