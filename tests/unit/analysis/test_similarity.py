"""Rows of similarity and router geometry: by hand, at both extremes, and on what a run records."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics.pairwise import cosine_similarity
from synthetic_suite import PlantedArm, PlantedSuite, spread, write_suite

from moe_emergence.analysis.layer_experts import LayerExperts
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.router_geometry import cosine, mean_row_cosine, overall, router_geometry_rows
from moe_emergence.analysis.similarity import nearest_sibling, pair_rows, similarity_rows
from moe_emergence.analysis.traces import Trace, read_trace, snapshot_steps
from moe_emergence.config import MoEConfig, RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import AnalysisError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.loop import train

SHARES = np.stack([spread(4, {0: 0.7}), spread(4, {1: 0.6})])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    arm = PlantedArm(name="moe", moe=MoEConfig(num_experts=4), shares={1: SHARES, 3: SHARES[::-1]})
    planted = PlantedSuite(arms=(arm,), domains=("code", "prose"), steps=4, looks=(0, 2, 4))
    return read_suite(write_suite(tmp_path, planted)).runs[0]


def with_record(trace: Trace, **changes: Any) -> Trace:
    """The trace with changed records in its first layer alone."""
    first = trace.layers[0]
    assert first.record is not None
    return replace(trace, layers=(replace(first, record=replace(first.record, **changes)),))


def test_rows_are_those_of_the_matrices_by_hand(run: Run) -> None:
    alike = np.array([[1, 0.5, 0.1, 0], [0.5, 1, 0.3, 0], [0.1, 0.3, 1, 0.9], [0, 0, 0.9, 1]])
    nowhere = np.full((4, 4), np.nan)
    nowhere[:2, :2] = [[1, -0.2], [-0.2, 1]]
    trace = with_record(
        read_trace(run, 4), output_cosine=alike, output_cka=alike / 2, delta_cosine=nowhere, drift=np.arange(4.0)
    )
    rows = list(similarity_rows(run, trace))
    assert [(row.step, row.layer, row.expert, row.drift) for row in rows] == [(4, 1, e, float(e)) for e in range(4)]
    assert [row.output_cosine for row in rows] == pytest.approx([0.2, 0.8 / 3, 1.3 / 3, 0.3])
    assert [row.output_cka for row in rows] == pytest.approx([0.1, 0.4 / 3, 0.65 / 3, 0.15])
    assert [row.delta_cosine for row in rows] == [None] * 4, "with a sibling that has not moved"
    assert [row.nearest for row in rows] == [1, 0, 3, 2]
    assert [row.layer_output_cosine for row in rows] == pytest.approx([1.8 / 6] * 4)
    assert not any(row.soft_collapse for row in rows)
    pairs = list(pair_rows(run, trace))
    assert [(p.first, p.second) for p in pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [p.output_cosine for p in pairs] == pytest.approx([0.5, 0.1, 0, 0.3, 0, 0.9])
    assert [p.delta_cosine for p in pairs] == [pytest.approx(-0.2), None, None, None, None, None]


def test_pairs_are_of_the_last_step_alone(run: Run) -> None:
    assert list(pair_rows(run, read_trace(run, 2))) == []
    assert len(list(pair_rows(run, read_trace(run, 4)))) == 2 * 6


@pytest.mark.parametrize(("value", "collapsed"), [(1.0, True), (0.991, True), (0.989, False), (-1.0, False)])
def test_experts_that_compute_one_function_are_a_soft_collapse(run: Run, value: float, collapsed: bool) -> None:
    alike = np.where(np.eye(4, dtype=bool), 1.0, value)
    rows = list(similarity_rows(run, with_record(read_trace(run, 4), output_cosine=alike)))
    assert {row.soft_collapse for row in rows} == {collapsed}


def test_a_single_expert_has_no_siblings(run: Run) -> None:
    one, nan = np.ones((1, 1)), np.full((1, 1), np.nan)
    record = LayerExperts(
        gate=np.ones((1, 5)),
        routed_mean=np.ones((1, 5)),
        drift=np.ones(1),
        delta_cosine=nan,
        output_cosine=one,
        output_cka=one,
        ancestor_cosine=np.ones(1),
    )
    trace = read_trace(run, 4)
    layer = replace(trace.layers[0], record=record, first_choice=trace.layers[0].first_choice.sum(1, keepdims=True))
    trace = replace(trace, layers=(layer,))
    (row,) = similarity_rows(run, trace)
    assert (row.output_cosine, row.nearest, row.layer_output_cosine, row.soft_collapse) == (None, None, None, False)
    assert list(pair_rows(run, trace)) == []
    (geometry,) = router_geometry_rows(run, trace)
    assert (geometry.row_cosine, geometry.centred_cosine, geometry.routed_cosine) == (None, None, pytest.approx(1))


def test_nearest_takes_the_lowest_number_and_passes_over_what_is_undefined() -> None:
    matrix = np.array([[1, 0.5, 0.5], [np.nan, np.nan, 0.1], [np.nan] * 3])
    assert [nearest_sibling(matrix, expert) for expert in range(3)] == [1, 2, None]


def test_what_was_not_recorded_is_asked_for(run: Run) -> None:
    trace = read_trace(run, 4)
    bare = replace(trace, layers=tuple(replace(layer, record=None) for layer in trace.layers))
    for rows in (similarity_rows, pair_rows, router_geometry_rows):
        with pytest.raises(AnalysisError, match=r"step-000004\.safetensors holds no drift\.1"):
            list(rows(run, bare))


@pytest.mark.parametrize("edit", [lambda t: t.pop("drift.3"), lambda t: t.update({"drift.3": np.ones(3, np.float32)})])
def test_a_record_in_part_or_of_other_experts_is_refused(run: Run, edit: Callable[[Any], Any]) -> None:
    path = run.folder / "traces/step-000004.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(AnalysisError, match=r"step-000004\.safetensors: 'drift\.3' must be of 4 experts; found"):
        read_trace(run, 4)


# Geometry


def test_cosines_are_scikit_learn_s() -> None:
    random = np.random.default_rng(1)
    gate, means = random.normal(size=(5, 7)), random.normal(size=(5, 7))
    assert cosine(gate, means) == pytest.approx(np.diag(cosine_similarity(gate, means)), abs=1e-10)
    full = cosine_similarity(gate)
    assert mean_row_cosine(gate) == pytest.approx([(full[i].sum() - 1) / 4 for i in range(5)], abs=1e-10)
    means[2], gate[3] = np.nan, 0
    assert np.isnan(cosine(gate, means)).tolist() == [False, False, True, True, False]
    assert np.isnan(mean_row_cosine(gate)).all()


def test_geometry_at_its_extremes() -> None:
    same = np.tile(np.arange(1.0, 5.0), (3, 1))
    assert mean_row_cosine(same) == pytest.approx([1, 1, 1])
    apart = np.eye(4) - 0.25
    assert mean_row_cosine(apart) == pytest.approx([-1 / 3] * 4)
    means = np.array([[2.0, 0.0], [0.0, 4.0], [np.nan, np.nan]])
    assert overall(means, np.array([30, 10, 0])) == pytest.approx([1.5, 1.0])


def test_random_rows_keep_to_the_chance_level(run: Run) -> None:
    gate = np.random.default_rng(0).normal(size=(400, 64)) / 8
    towards = np.random.default_rng(1).normal(size=(400, 64))
    trace = with_record(read_trace(run, 4), gate=gate[:4], routed_mean=towards[:4])
    assert next(router_geometry_rows(run, trace)).chance_spread == 1 / 8
    assert abs(cosine(gate, towards).mean()) < 3 / 8 / 20
    assert cosine(gate, towards).std() == pytest.approx(1 / 8, rel=0.15)


def test_rows_that_point_to_their_own_tokens(run: Run) -> None:
    """All hidden states share a large part: the plain cosine hides in it what the centred one shows."""
    directions, common = np.eye(4, 16), np.full(16, 5.0)
    trace = read_trace(run, 4)
    even = np.full((len(trace.domain), 4), 20)
    changed = with_record(trace, gate=directions, routed_mean=common + directions)
    changed = replace(changed, layers=(replace(changed.layers[0], first_choice=even),))
    for row in router_geometry_rows(run, changed):
        assert row.centred_cosine == pytest.approx(1)
        assert row.routed_cosine is not None
        assert row.routed_cosine < 0.35
        assert (row.norm, row.row_cosine, row.tokens) == (1, 0, 20 * len(trace.domain))


# A run's own record


def test_a_run_records_what_the_rows_need(
    toy_config: Callable[..., RunConfig], toy_data: PreparedData, tmp_path: Path
) -> None:
    """With every expert at step 0 where it is known to be; the wide trace is of the same run and reads on."""
    config = toy_config(name="moe", seed=42)
    folder = write_suite(tmp_path, PlantedSuite(arms=(PlantedArm(name="moe", moe=config.moe),), steps=6, looks=(0,)))
    run_folder = folder / "moe/seed-42"
    for path in sorted(run_folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    train(config, run_folder, data=toy_data, console=RunConsole(quiet=True))
    run = read_suite(folder).runs[0]
    first, last = (list(similarity_rows(run, read_trace(run, step))) for step in (0, 6))
    assert all(row.drift < 1.02e-3 and row.soft_collapse and row.ancestor_output_cosine > 0.999 for row in first)
    assert all(row.drift > 2e-3 for row in last)
    assert len(list(router_geometry_rows(run, read_trace(run, 6)))) == 4
    assert snapshot_steps(run) == (0, 2, 6)
    common, wide = read_trace(run, 6), read_trace(run, 6, wide=True)
    assert wide.layers[0].record is None
    assert wide.position.max() >= 32 or len(wide.document) == 300
    assert common.layers[0].weights.dtype == np.float32
    assert (common.layers[0].weights == 1).all()
    with pytest.raises(AnalysisError, match=r"wide-000002\.parquet is missing: the run recorded it at its first and"):
        read_trace(run, 2, wide=True)
