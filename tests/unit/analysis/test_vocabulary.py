"""Vocabulary specialisation: by hand, by loops, both extremes, ids that occur once, planted shares, and intervals."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from synthetic_suite import LENGTH, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.traces import read_trace
from moe_emergence.analysis.vocabulary import (
    Vocabulary,
    characteristic_token_rows,
    share_intervals,
    vocabulary,
    vocabulary_rows,
)
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], 8)
DOCUMENT = np.repeat(np.arange(24), 250)
IDS = 20


def measured(token_id, experts, document=DOCUMENT, domain=DOMAIN, n_experts=8, **changes) -> Vocabulary:
    columns = experts if experts.ndim == 2 else experts[:, None]
    options = {"min_occurrences": 20, "min_documents": 5, "draws": 39, "replicates": 100} | changes
    found = vocabulary(token_id, columns, document, domain, n_experts, **options)
    assert found is not None
    return found


def test_by_hand() -> None:
    """Id 5 goes to expert 1 in 3 of 4 tokens, id 9 to expert 2 in 2 of 3; id 4 lies in one document alone."""
    token_id = np.array([5, 5, 9, 4, 5, 9, 5, 9])
    experts = np.array([1, 1, 2, 0, 1, 2, 0, 0])
    found = measured(
        token_id,
        experts,
        np.array([0, 0, 0, 0, 1, 1, 2, 3]),
        np.array([0, 0, 1, 1]),
        3,
        min_occurrences=1,
        min_documents=2,
    )
    assert (found.ids.tolist(), found.occurrences.tolist(), found.documents.tolist()) == ([5, 9], [4, 3], [3, 3])
    assert found.shares == pytest.approx(np.array([[1 / 4, 3 / 4, 0], [1 / 3, 0, 2 / 3]]))
    assert found.own.tolist() == [2, 0, 1, 1]
    assert found.specialisation == pytest.approx(np.array([(3 / 4 + 2 / 3) / 2, np.nan, 3 / 4, 2 / 3]), nan_ok=True)
    assert found.load == pytest.approx([3 / 8, 3 / 8, 2 / 8])


@pytest.mark.parametrize("slots", [1, 2])
def test_loops_over_tokens_give_the_same(slots: int) -> None:
    rng = np.random.default_rng(0)
    token_id = rng.choice(300, p=rng.dirichlet(np.full(300, 0.5)), size=len(DOCUMENT))
    first = np.where(rng.random(len(DOCUMENT)) < 0.5, token_id % 8, rng.integers(0, 8, len(DOCUMENT)))
    experts = np.stack([first, (first + rng.integers(1, 8, len(DOCUMENT))) % 8], axis=1)[:, :slots]
    found = measured(token_id, experts)
    expected, support = {}, Counter(token_id.tolist())
    for one, number in support.items():
        if number >= 20 and len(set(DOCUMENT[token_id == one])) >= 5:
            chosen = Counter(experts[token_id == one].reshape(-1).tolist())
            expected[one] = np.array([chosen[e] for e in range(8)]) / number
    assert 10 < len(expected) < len(support)
    assert found.ids.tolist() == sorted(expected)
    assert found.shares == pytest.approx(np.array([expected[one] for one in sorted(expected)]), abs=1e-12)
    largest = {one: (shares.argmax(), shares.max()) for one, shares in expected.items()}
    assert found.specialisation[0] == pytest.approx(np.mean([share for _, share in largest.values()]), abs=1e-12)
    for expert in range(8):
        own = [share for whose, share in largest.values() if whose == expert]
        assert found.own[expert + 1] == len(own)
        assert found.specialisation[expert + 1] == pytest.approx(np.mean(own), abs=1e-12)


def test_ids_that_occur_once_do_not_count() -> None:
    """Each would be wholly some expert's, under any router: 4,000 of them among 2,000 tokens of ten ids."""
    rng = np.random.default_rng(1)
    experts, common = rng.integers(0, 8, len(DOCUMENT)), rng.integers(0, 10, len(DOCUMENT))
    alone = np.where(np.arange(len(DOCUMENT)) % 3 == 0, common, 1000 + np.arange(len(DOCUMENT)))
    found = measured(alone, experts)
    assert found.ids.tolist() == list(range(10))
    assert found.specialisation[0] < 0.2
    naive = measured(alone, experts, min_occurrences=1, min_documents=2)
    assert naive.ids.tolist() == list(range(10)), "an id of one document has no interval over documents"
    one_document = np.where(DOCUMENT == 3, 77, common)
    assert 77 not in measured(one_document, experts).ids


def test_both_extremes() -> None:
    rng = np.random.default_rng(2)
    token_id = rng.integers(0, IDS, len(DOCUMENT))
    one = measured(token_id, token_id % 8)
    assert one.specialisation[0] == 1
    assert one.spread[0] == 0
    assert np.nanmax(one.null) < 0.4
    even = measured(np.arange(len(DOCUMENT)) // 8 % IDS, np.arange(len(DOCUMENT)) % 8)
    assert even.specialisation[0] == pytest.approx(1 / 8, abs=0.01)
    pairs = measured(token_id, np.stack([token_id % 8, (token_id + 1) % 8], axis=1))
    assert pairs.specialisation[0] == 1
    assert pairs.load.sum() == pytest.approx(2)


@pytest.mark.parametrize("planted", [0.3, 0.6])
def test_a_planted_share_is_recovered(planted: float) -> None:
    """That share of the tokens goes by the id, the rest anywhere; 300 tokens of each id."""
    rng = np.random.default_rng(3)
    token_id = rng.integers(0, IDS, len(DOCUMENT))
    experts = np.where(rng.random(len(DOCUMENT)) < planted, token_id % 8, rng.integers(0, 8, len(DOCUMENT)))
    found = measured(token_id, experts)
    assert found.specialisation[0] == pytest.approx(planted + (1 - planted) / 8, rel=0.05)
    assert (found.specialisation[0] > found.null[:, 0]).all()
    own = token_id % 8
    truth = (np.arange(IDS)[:, None] % 8 == np.arange(8)) * planted + (1 - planted) / 8
    assert found.shares[np.arange(IDS), np.arange(IDS) % 8] == pytest.approx(planted + (1 - planted) / 8, abs=0.1)
    assert ((found.low <= truth) & (truth <= found.high)).mean() > 0.9
    assert len(set(own.tolist())) == 8


def test_what_whole_documents_share_is_in_the_null() -> None:
    """Every document has ids and an expert of its own: ids tell the expert, but no more than their document does."""
    rng = np.random.default_rng(4)
    token_id = rng.integers(0, 4, len(DOCUMENT)) + 4 * (DOCUMENT % 4)
    found = measured(token_id, DOCUMENT % 4)
    assert found.specialisation[0] == found.null.min(0)[0] == 1


def test_intervals_of_alike_documents_are_wilson_s_and_of_certain_ids_of_documents() -> None:
    """20 documents of 10 tokens, 3 or 7 of which go to the expert: they vary as single tokens would, were they 119."""
    takes = np.array([3, 7] * 10)
    counts = np.stack([takes, 10 - takes], axis=1)[:, None, :]
    low, high = share_intervals(counts)
    effective = 0.25 / (20 * 4 / 200**2 * 20 / 19)
    from_scipy = binomtest(round(effective), round(effective) * 2).proportion_ci(method="wilson")
    assert (low[0, 0], high[0, 0]) == pytest.approx((1 - high[0, 0], high[0, 0]))
    assert low[0, 0] < from_scipy.low < 0.5
    assert high[0, 0] - low[0, 0] == pytest.approx(2 * 2.093 * 0.5 / (effective + 2.093**2) ** 0.5, rel=1e-3)
    certain = np.stack([np.full(20, 10), np.zeros(20, dtype=int)], axis=1)[:, None, :]
    low, high = share_intervals(certain)
    assert (low[0, 0], high[0, 0], low[0, 1]) == pytest.approx((1 - 2.093**2 / (20 + 2.093**2), 1, 0), abs=1e-3)


def test_wrong_input_and_no_id_with_support() -> None:
    token_id, experts = np.arange(len(DOCUMENT)), np.zeros((len(DOCUMENT), 1), dtype=np.int64)
    assert vocabulary(token_id, experts, DOCUMENT, DOMAIN, 8) is None
    with pytest.raises(AnalysisError, match="min_documents must be at least 2"):
        measured(token_id, experts, min_documents=1)
    with pytest.raises(AnalysisError, match="at least 2 in each domain"):
        measured(token_id % 3, experts, domain=np.append(DOMAIN[:-1], 3))
    with pytest.raises(AnalysisError, match="domain 1 has none"):
        measured(token_id % 3, experts, domain=np.where(DOMAIN == 1, 2, DOMAIN))


def test_rows(tmp_path: Path) -> None:
    arm = next(arm for arm in quickstart_like().arms if arm.name == "top2")
    arm = replace(arm, baseline=None, changes={})
    (run,) = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), steps=4, looks=(0, 4)))).runs
    trace = read_trace(run, 4)
    rows = list(vocabulary_rows(run, trace))
    whole = [row for row in rows if row.expert is None]
    assert [(row.layer, row.counted) for row in whole] == [
        (2, "slots"), (2, "first choice"), (3, "slots"), (3, "first choice")
    ]  # fmt: skip
    assert [row.uniform for row in whole] == pytest.approx([0.25, 0.125, 0.25, 0.125])
    for row in whole:
        assert row.null_mean is not None
        assert row.estimate is not None
        own = [
            each for each in rows if (each.layer, each.counted) == (row.layer, row.counted) and each.expert is not None
        ]
        assert sum(each.ids for each in own) == row.ids
        assert sum(each.ids * each.plug_in for each in own) / row.ids == pytest.approx(row.plug_in)
        assert row.estimate == pytest.approx(row.plug_in - row.null_mean)
        assert row.low < row.estimate < row.high
        assert row.estimate == pytest.approx(0, abs=0.03), "routes were drawn without regard to ids"
    tokens = list(characteristic_token_rows(run, trace, top=3))
    mine = [row for row in tokens if (row.layer, row.counted, row.expert) == (3, "first choice", 4)]
    assert [row.rank for row in mine] == [1, 2, 3]
    assert mine[0].share >= mine[1].share >= mine[2].share > 0
    first = mine[0]
    bearing = trace.token_id == first.token_id
    chosen = trace.layers[1].experts[:, 0]
    assert (first.occurrences, first.documents) == (bearing.sum(), len(set(trace.document[bearing])))
    assert first.share == pytest.approx((chosen[bearing] == 4).mean())
    assert first.lift == pytest.approx(first.share / (chosen == 4).mean())
    assert first.low < first.share < first.high
    ids = np.where(np.arange(len(trace.token_id)) % LENGTH < 3, 5, 6)
    layer = replace(trace.layers[0], experts=np.where(ids == 5, 2, 1)[:, None])
    rare = {row.expert: row for row in vocabulary_rows(run, replace(trace, token_id=ids, layers=(layer,)))}
    assert set(rare) == {None, 1, 2}
    assert rare[None].estimate is not None
    assert (rare[2].null_mean, rare[2].estimate, rare[2].high) == (None, None, None), "turned, no id is its own"
    assert list(vocabulary_rows(run, replace(trace, token_id=np.arange(len(trace.token_id))))) == []
    assert list(vocabulary_rows(run, replace(trace, domain=np.arange(len(trace.domain)).clip(0, 1)))) == []
