"""The split of what an expert tells: by hand, against scikit-learn and scipy, planted shares, and what has no topic."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.metrics import mutual_info_score
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.information import mutual_information
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.token_information import (
    TokenSplit,
    flipped_information,
    supported,
    token_split,
    token_split_rows,
)
from moe_emergence.analysis.traces import read_trace
from moe_emergence.errors import AnalysisError

DOMAINS, DOCUMENTS, LENGTH, LABELS, EXPERTS = 3, 24, 250, 20, 8
DOMAIN = np.repeat(np.arange(DOMAINS), DOCUMENTS)
DOCUMENT = np.repeat(np.arange(DOMAINS * DOCUMENTS), LENGTH)


def split(labels, experts, document=DOCUMENT, domain=DOMAIN, n_experts=EXPERTS, **changes) -> TokenSplit:
    options = {"min_occurrences": 1, "min_documents": 1, "draws": 39, "replicates": 100} | changes
    columns = experts if experts.ndim == 2 else experts[:, None]
    found = token_split(labels, columns, document, domain, n_experts, **options)
    assert found is not None
    return found


def drawn(seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """Labels of every token, which domains use unlike."""
    rng = np.random.default_rng(seed)
    use = rng.dirichlet(np.full(LABELS, 3.0), size=DOMAINS)
    return np.concatenate([rng.choice(LABELS, LENGTH, p=use[d]) for d in DOMAIN]), rng


def test_by_hand() -> None:
    """Half of the tokens are `1` and go to expert 2 in both domains; `0` goes to expert 0 in one, to 1 in the other."""
    labels = np.tile([0, 1, 0, 1], 4)
    document, domain = np.repeat(np.arange(4), 4), np.array([0, 0, 1, 1])
    experts = np.where(labels == 1, 2, domain[document])
    found = split(labels, experts, document, domain, 3)
    assert found.token.plug_in == pytest.approx(1)
    assert found.domain_given_token.plug_in == pytest.approx(0.5)
    assert found.domain.plug_in == pytest.approx(0.5)
    assert (found.maximum, found.labels, found.tokens, found.documents) == (1, 2, 16, 2)
    assert found.token_maximum == pytest.approx(1.5)
    assert found.given_maximum == pytest.approx(1)


def test_the_domain_beyond_the_token_is_held_against_what_the_token_leaves_open() -> None:
    """Label 0 is three times as frequent in one domain as in the other: it tells some of the domain itself, and a
    router that sends each domain elsewhere tells all of the rest."""
    labels = np.array([0, 0, 0, 1] * 2 + [0, 1, 1, 1] * 2)
    document, domain = np.repeat(np.arange(4), 4), np.array([0, 0, 1, 1])
    found = split(labels, domain[document], document, domain, 2)
    left = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found.given_maximum == pytest.approx(left)
    assert found.domain_given_token.plug_in == pytest.approx(left)
    assert found.token_maximum == pytest.approx(1)


@pytest.mark.parametrize("slots", [1, 2])
def test_both_terms_are_scikit_learn_s_and_sum_to_the_whole(slots: int) -> None:
    """One domain has half the tokens of another, which weigh twice as much: scikit-learn takes whole numbers alone."""
    labels, rng = drawn(0)
    experts = (rng.integers(0, 4, (len(labels), slots)) + labels[:, None] % 3 + DOMAIN[DOCUMENT][:, None]) % EXPERTS
    kept = (DOMAIN[DOCUMENT] < 2) | (np.arange(len(labels)) % 2 == 0)
    labels, experts, document = labels[kept], experts[kept], DOCUMENT[kept]
    found = split(labels, experts, document)
    joint = np.zeros((DOMAINS, LABELS, EXPERTS), dtype=np.int64)
    for label, chosen, place in zip(labels, experts, document, strict=True):
        for expert in chosen:
            joint[DOMAIN[place], label, expert] += 1 + (DOMAIN[place] == 2)

    def bits(table: np.ndarray) -> float:
        return mutual_info_score(None, None, contingency=table) / math.log(2)

    whole = bits(joint.reshape(-1, EXPERTS))
    given = sum(joint[:, x].sum() * bits(joint[:, x]) for x in range(LABELS)) / joint.sum()
    assert found.token.plug_in == pytest.approx(bits(joint.sum(0)), abs=1e-10)
    assert found.domain_given_token.plug_in == pytest.approx(given, abs=1e-10)
    assert found.domain.plug_in == pytest.approx(bits(joint.sum(1)), abs=1e-10)
    assert found.token.plug_in + found.domain_given_token.plug_in == pytest.approx(whole, abs=1e-10)


def test_a_hash_of_the_token_has_no_topic_whatever_domains_it_separates() -> None:
    labels, _ = drawn(1)
    found = split(labels, labels % EXPERTS)
    assert found.domain_given_token.plug_in == pytest.approx(0, abs=1e-12)
    assert found.domain_given_token.interval.high == pytest.approx(0, abs=1e-12)
    assert found.domain_given_token.p == 1
    assert found.domain.p == 1 / 1000
    assert found.token.p == 1 / 40


def test_a_router_of_domains_alone_has_topic_and_no_syntax() -> None:
    """Every domain uses each label alike and has its own expert."""
    labels = np.tile(np.arange(10), len(DOCUMENT) // 10)
    found = split(labels, DOMAIN[DOCUMENT])
    assert found.domain_given_token.plug_in == pytest.approx(math.log2(3))
    assert found.domain.plug_in == pytest.approx(found.maximum)
    assert found.token.plug_in == pytest.approx(0, abs=1e-12)
    assert found.domain_given_token.p == 1 / 40


def test_routes_of_places_tell_nothing() -> None:
    labels, _ = drawn(2)
    found = split(labels, np.arange(len(labels)) % EXPERTS, draws=99)
    assert found.token.p > 0.05
    assert found.domain_given_token.p > 0.05
    assert found.token.null_range.low < found.token.plug_in < found.token.null_range.high
    assert found.token.interval.low < 0.01


@pytest.mark.parametrize(("syntax", "topic"), [(0.6, 0.2), (0.3, 0.5)])
def test_planted_shares_are_recovered(syntax: float, topic: float) -> None:
    """A share of the tokens goes by the label, another by the domain, the rest anywhere; 36,000 tokens of 20 labels."""
    rng = np.random.default_rng(3)
    domain = np.repeat(np.arange(DOMAINS), 48)
    document = np.repeat(np.arange(len(domain)), LENGTH)
    labels = rng.integers(0, LABELS, len(document))
    way = rng.random(len(document))
    experts = np.where(way < syntax, labels % EXPERTS, rng.integers(0, EXPERTS, len(document)))
    experts = np.where(way > 1 - topic, domain[document], experts)
    found = split(labels, experts, document, domain, replicates=300)
    joint = np.full((DOMAINS, LABELS, EXPERTS), (1 - syntax - topic) / EXPERTS)
    joint[:, np.arange(LABELS), np.arange(LABELS) % EXPERTS] += syntax
    for number in range(DOMAINS):
        joint[number, :, number] += topic
    token = float(mutual_information(joint.sum(0)))
    given = float(np.mean([mutual_information(joint[:, x]) for x in range(LABELS)]))
    assert found.token.value == pytest.approx(token, rel=0.05)
    assert found.domain_given_token.value == pytest.approx(given, rel=0.05)
    assert found.token.interval.low < token < found.token.interval.high
    assert found.domain_given_token.interval.low < given < found.domain_given_token.interval.high
    assert found.domain_given_token.p == found.token.p == 1 / 40


def test_support_is_counted_in_each_of_two_domains() -> None:
    labels, _ = drawn(4)
    labels = np.where(labels == 7, -1, labels * 3)
    labels = np.where(np.isin(DOCUMENT, [0, 1, DOCUMENTS, DOCUMENTS + 1]), 100, labels)  # often, in too few documents
    number = supported(labels, DOCUMENT, DOMAIN, 300, 20)
    expected = []
    for label in sorted(set(labels.tolist()) - {-1}):
        enough = 0
        for domain in range(DOMAINS):
            mine = [d for one, d in zip(labels, DOCUMENT, strict=True) if one == label and DOMAIN[d] == domain]
            enough += len(mine) >= 300 and len(set(mine)) >= 20
        if enough >= 2:
            expected.append(label)
    assert 2 < len(expected) < LABELS - 1
    assert 100 not in expected
    assert [labels[number == place][0] for place in range(number.max() + 1)] == expected
    assert (number == -1).sum() == np.isin(labels, expected, invert=True).sum()


def test_labels_without_support_are_in_no_term() -> None:
    labels, rng = drawn(5)
    experts = rng.integers(0, EXPERTS, len(labels))
    rare = labels.copy()
    rare[:40] = 1000 + np.arange(40)
    options = {"min_occurrences": 5, "min_documents": 3}
    with_rare, left_out = split(rare, experts, **options), split(np.where(rare >= 1000, -1, labels), experts, **options)
    assert with_rare == left_out
    assert with_rare.tokens == len(labels) - 40


def test_no_label_with_support_is_no_result_and_no_crash() -> None:
    labels = np.arange(len(DOCUMENT))
    assert token_split(labels, labels[:, None] % EXPERTS, DOCUMENT, DOMAIN, EXPERTS) is None
    one_sided = np.where(DOMAIN[DOCUMENT] < 2, 0, labels)
    assert token_split(one_sided, labels[:, None] % EXPERTS, DOCUMENT, DOMAIN, EXPERTS) is None


def test_the_second_order_value_is_pearson_s() -> None:
    rng = np.random.default_rng(6)
    counts = rng.multinomial(30, np.full(4, 0.25), size=(20, 3))
    domain = np.repeat([0, 1], 10)
    observed, null = flipped_information(counts, domain, 50)
    tables = np.stack([counts[domain == number].sum(0) for number in (0, 1)], axis=1)
    statistic = sum(chi2_contingency(table, correction=False).statistic for table in tables)
    assert observed == pytest.approx(statistic / (2 * math.log(2) * counts.sum()), abs=1e-12)
    assert len(set(null.tolist())) == 50
    freedom = 3 * (4 - 1) * (2 - 1)
    assert null.mean() == pytest.approx(freedom / (2 * math.log(2) * counts.sum()), rel=0.25)


def test_a_document_s_own_taste_is_no_topic() -> None:
    """Each document sends all its tokens to an expert of its own: any tokens as the unit would call that a domain's."""
    labels, rng = drawn(7)
    own = rng.integers(0, EXPERTS, len(DOMAIN))
    found = split(labels, own[DOCUMENT], draws=199)
    assert found.domain_given_token.p > 0.05
    assert found.token.p > 0.05


def test_wrong_input() -> None:
    labels, experts = np.zeros(4, dtype=np.int64), np.zeros((4, 1), dtype=np.int64)
    with pytest.raises(AnalysisError, match="at least 2 documents in each domain; domain 0 has 1"):
        token_split(labels, experts, labels, np.array([0]), EXPERTS)
    with pytest.raises(AnalysisError, match="domain 1 has none"):
        token_split(labels, experts, np.array([0, 0, 1, 1]), np.array([0, 0, 2, 2]), EXPERTS)
    with pytest.raises(AnalysisError, match="got 4, 3 and 4"):
        token_split(labels, experts[:3], np.array([0, 0, 1, 1]), np.array([0, 0]), EXPERTS)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    arms = tuple(arm for arm in quickstart_like().arms if arm.name in ("moe", "top2"))
    arms = (replace(arms[0], baseline=None, changes={}), arms[1])
    return read_suite(write_suite(tmp_path_factory.mktemp("s"), PlantedSuite(arms=arms, steps=4, looks=(0, 4))))


def test_rows_are_of_the_trace(suite: Suite) -> None:
    (run,) = suite.runs_of("top2")
    trace = read_trace(run, 4)
    rows = list(token_split_rows(run, trace))
    assert [(row.layer, row.counted) for row in rows] == [
        (layer, counted) for layer in (2, 3) for counted in ("slots", "first choice")
    ]
    found = token_split(trace.token_id, trace.layers[1].experts, trace.document, trace.domain, EXPERTS)
    assert found is not None
    row = rows[2]
    assert (row.x, row.ids, row.tokens, row.maximum) == ("token id", found.labels, found.tokens, math.log2(3))
    assert row.share_of_tokens == pytest.approx(found.tokens / len(trace.document))
    assert (row.token_information, row.token_low) == (found.token.value, found.token.interval.low)
    assert row.domain_given_token_p == found.domain_given_token.p
    assert (row.token_maximum, row.given_maximum) == (found.token_maximum, found.given_maximum)
    assert row.domain_given_token_share == pytest.approx(row.domain_given_token / row.given_maximum)
    assert row.token_high_share == pytest.approx(row.token_high / row.token_maximum)
    assert 0 < row.given_maximum < row.maximum
    assert (row.domain_plug_in, row.domain_high) == (found.domain.plug_in, found.domain.interval.high)


def test_rows_of_classes_and_of_too_rare_ids(suite: Suite, tmp_path: Path) -> None:
    (run,) = suite.runs_of("moe")
    trace = read_trace(run, 4)
    rows = list(token_split_rows(run, trace, trace.token_id % 3, "thirds"))
    assert {(row.x, row.ids) for row in rows} == {("thirds", 3)}
    assert list(token_split_rows(run, trace, min_occurrences=10_000)) == []
    one = replace(trace, domain=np.zeros_like(trace.domain))
    assert list(token_split_rows(run, one)) == []
