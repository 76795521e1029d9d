"""Paths between layers: by hand, against scikit-learn, all pairs of layers by their numbers, first choices alone."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.information import mutual_information
from moe_emergence.analysis.paths import path_information, path_information_rows, path_rows, paths
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.traces import LayerTrace, Trace, document_counts, read_trace
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], 12)
DOCUMENT = np.repeat(np.arange(36), 100)


def test_by_hand() -> None:
    """Domain 0 goes 0→1 or 1→0, domain 1 goes 0→0: shares ¼, ¼ and ½."""
    earlier, later = np.array([0, 1, 0, 1, 0, 0]), np.array([1, 0, 1, 0, 0, 0])
    document, domain = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 0, 1, 1])
    assert paths(earlier, later, document, domain, (2, 3)).joint.tolist() == [[0.5, 0.25, 0], [0.25, 0, 0]]
    found = path_information(earlier, later, document, domain, (2, 3))
    entropy = 0.75 * math.log2(4 / 3) + 0.25 * 2
    assert found.maximum == pytest.approx(entropy)
    assert found.term.plug_in == pytest.approx(2 * entropy - 1.5)


def test_information_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    earlier, fresh = rng.integers(0, 8, len(DOCUMENT)), rng.integers(0, 6, len(DOCUMENT))
    later = np.where(rng.random(len(DOCUMENT)) < 0.4, earlier % 6, fresh)
    found = path_information(earlier, later, DOCUMENT, DOMAIN, (8, 6), draws=19, replicates=50)
    assert found.term.plug_in == pytest.approx(mutual_info_score(earlier, later) / math.log(2), abs=1e-10)
    assert found.maximum == pytest.approx(mutual_info_score(later, later) / math.log(2), abs=1e-10)


def test_both_extremes() -> None:
    earlier = np.random.default_rng(1).integers(0, 8, len(DOCUMENT))
    same = path_information(earlier, (earlier + 3) % 8, DOCUMENT, DOMAIN, (8, 8))
    assert same.term.plug_in == same.term.interval.high == pytest.approx(same.maximum)
    assert same.maximum == pytest.approx(3, abs=0.01)
    assert same.term.p == 1 / 200
    one = path_information(earlier, np.zeros_like(earlier), DOCUMENT, DOMAIN, (8, 8))
    assert one.term.plug_in == one.term.value == one.maximum == 0
    assert one.term.p == 1
    none = path_information(earlier, np.random.default_rng(9).integers(0, 8, len(earlier)), DOCUMENT, DOMAIN, (8, 8))
    assert none.term.p > 0.05
    assert none.term.value < 0.005


@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_a_planted_share_is_recovered(kept: float) -> None:
    """That share of the tokens goes to the expert of the same number, the rest anywhere: 3,600 tokens."""
    rng = np.random.default_rng(2)
    earlier = rng.integers(0, 8, len(DOCUMENT))
    later = np.where(rng.random(len(DOCUMENT)) < kept, earlier, rng.integers(0, 8, len(DOCUMENT)))
    truth = float(mutual_information(kept * np.eye(8) / 8 + (1 - kept) / 64))
    found = path_information(earlier, later, DOCUMENT, DOMAIN, (8, 8)).term
    assert found.value == pytest.approx(truth, rel=0.05)
    assert found.interval.low < truth < found.interval.high
    shares = paths(earlier, later, DOCUMENT, DOMAIN, (8, 8))
    expected = kept * np.eye(8) / 8 + (1 - kept) / 64
    assert ((shares.low <= expected) & (expected <= shares.high)).mean() > 0.85


def test_what_whole_documents_share_is_in_the_null() -> None:
    """Each document keeps to one expert in both layers: nothing is known of its tokens."""
    own = np.random.default_rng(3).integers(0, 8, 36)[DOCUMENT]
    found = path_information(own, (own + 1) % 8, DOCUMENT, DOMAIN, (8, 8)).term
    assert found.p == 1
    assert found.null_mean == pytest.approx(found.plug_in)


def test_wrong_input() -> None:
    zeros = np.zeros(4, dtype=np.int64)
    with pytest.raises(AnalysisError, match="at least 2 in each domain"):
        paths(zeros, zeros, zeros, np.array([0]), (2, 2))
    with pytest.raises(AnalysisError, match="domain 1 has none"):
        paths(zeros, zeros, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), (2, 2))
    with pytest.raises(AnalysisError, match="consecutive"):
        path_information(zeros, zeros, np.array([0, 1, 0, 1]), np.array([0, 0]), (2, 2))


def layer_of(number: int, experts: np.ndarray, trace: Trace) -> LayerTrace:
    documents = len(trace.domain)
    return LayerTrace(
        layer=number,
        experts=experts,
        weights=np.ones(experts.shape, dtype=np.float32),
        slots=document_counts(experts, trace.document, documents, 8),
        first_choice=document_counts(experts[:, :1], trace.document, documents, 8),
        entropy=np.zeros(len(experts)),
        margin=np.zeros(len(experts)),
        fresh=None,
    )


@pytest.fixture(scope="module")
def run_and_trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Trace]:
    arm = next(arm for arm in quickstart_like().arms if arm.name == "top2")
    planted = PlantedSuite(arms=(replace(arm, baseline=None, changes={}),), steps=4, looks=(0, 4))
    (run,) = read_suite(write_suite(Path(tmp_path_factory.mktemp("paths")), planted)).runs
    return run, read_trace(run, 4)


def test_layers_are_paired_by_their_place_in_the_model(run_and_trace: tuple[Run, Trace]) -> None:
    """Layers 5, 1 and 3 in the list: pairs (1,3), (1,5) and (3,5), with 5 a copy of 1, and 3 of neither."""
    run, trace = run_and_trace
    first, other = (np.random.default_rng(seed).integers(0, 8, (len(trace.document), 1)) for seed in (0, 1))
    three = replace(trace, layers=tuple(layer_of(n, e, trace) for n, e in ((5, first), (1, first), (3, other))))
    rows = {(row.layer, row.to_layer): row for row in path_information_rows(run, three)}
    assert list(rows) == [(1, 3), (1, 5), (3, 5)]
    assert rows[1, 5].plug_in == pytest.approx(rows[1, 5].maximum)
    assert max(rows[1, 3].plug_in, rows[3, 5].plug_in) < 0.05
    assert {(row.layer, row.to_layer) for row in path_rows(run, three)} == set(rows)


def test_slots_are_not_paired_by_their_rank(run_and_trace: tuple[Run, Trace]) -> None:
    """The later layer's second slot is the earlier one's, and tells nothing of first choices."""
    run, trace = run_and_trace
    rng = np.random.default_rng(4)
    one, second = rng.integers(0, 4, len(trace.document)), rng.integers(4, 8, len(trace.document))
    pairs = [np.stack([first, second], axis=1) for first in (one, rng.permutation(one))]
    two = replace(trace, layers=tuple(layer_of(n, e, trace) for n, e in zip((2, 3), pairs, strict=True)))
    (row,) = path_information_rows(run, two)
    assert row.plug_in == pytest.approx(mutual_info_score(pairs[0][:, 0], pairs[1][:, 0]) / math.log(2), abs=1e-10)
    assert row.plug_in < 0.01
    assert all(path.expert < 4 and path.to_expert < 4 for path in path_rows(run, two))


def test_rows_of_paths_are_ranked_by_what_they_add(run_and_trace: tuple[Run, Trace]) -> None:
    run, trace = run_and_trace
    rng = np.random.default_rng(5)
    earlier = rng.integers(0, 8, len(trace.document))
    later = np.where((earlier == 6) & (rng.random(len(earlier)) < 0.9), 2, rng.integers(0, 8, len(earlier)))
    layers = tuple(layer_of(n, e[:, None], trace) for n, e in ((2, earlier), (3, later)))
    rows = list(path_rows(run, replace(trace, layers=layers), top=5))
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[0].expert, rows[0].to_expert) == (6, 2)
    share = np.mean((earlier == 6) & (later == 2))
    assert rows[0].share == pytest.approx(share)
    assert rows[0].low < share < rows[0].high
    assert rows[0].chance == pytest.approx(np.mean(earlier == 6) * np.mean(later == 2))
    assert rows[0].lift == pytest.approx(rows[0].share / rows[0].chance)
    adds = [row.share * math.log2(row.lift) for row in rows]
    assert adds == sorted(adds, reverse=True)
    constant = tuple(layer_of(n, np.full((len(earlier), 1), 3), trace) for n in (2, 3))
    (only,) = path_rows(run, replace(trace, layers=constant))
    assert (only.expert, only.to_expert, only.share, only.lift) == (3, 3, 1, 1)
    assert list(path_rows(run, replace(trace, domain=np.arange(len(trace.domain)).clip(0, 1)))) == []
