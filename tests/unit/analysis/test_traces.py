"""Traces: counts against brute force over the rows of the file, and every way in which a file can be wrong."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from synthetic_suite import DOCUMENTS, GATES, LENGTH, PlantedArm, PlantedSuite, spread, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import make_tables
from moe_emergence.analysis.traces import read_trace, read_traces, trace_steps
from moe_emergence.config import MoEConfig
from moe_emergence.errors import AnalysisError
from moe_emergence.training.trace import METADATA

SHARES = np.stack([spread(4, {0: 0.7}), spread(4, {1: 0.6})])


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    arm = PlantedArm(name="two", moe=MoEConfig(num_experts=4, top_k=2), shares={1: SHARES, 3: SHARES[::-1]})
    planted = PlantedSuite(arms=(PlantedArm(name="dense"), arm), domains=("code", "prose"), steps=4, looks=(0, 2, 4))
    return read_suite(write_suite(tmp_path, planted))


def test_counts_are_those_of_the_rows(suite: Suite) -> None:
    run = suite.runs[1]
    trace = read_trace(run, 4)
    rows = pq.read_table(run.folder / "traces/step-000004.parquet").to_pylist()
    assert trace.index.tolist() == list(dict.fromkeys(row["doc"] for row in rows))
    assert trace.domain.tolist() == [0] * DOCUMENTS + [1] * DOCUMENTS
    for layer in trace.layers:
        first = Counter((row["doc"], row[f"e{layer.layer}_0"]) for row in rows)
        second = Counter((row["doc"], row[f"e{layer.layer}_1"]) for row in rows)
        for place, document in enumerate(trace.index.tolist()):
            for expert in range(4):
                assert layer.first_choice[place, expert] == first[document, expert]
                assert layer.slots[place, expert] == first[document, expert] + second[document, expert]
    assert [layer.layer for layer in trace.layers] == [1, 3]
    assert trace.layers[0].experts.shape == (2 * DOCUMENTS * LENGTH, 2)


def test_fresh_gates_are_at_both_ends(suite: Suite) -> None:
    found = [[layer.fresh is not None for layer in trace.layers] for trace in read_traces(suite.runs[1])]
    assert found == [[True, True], [False, False], [True, True]]
    fresh = read_trace(suite.runs[1], 0).layers[1].fresh
    assert fresh is not None
    assert fresh.shape == (GATES, 2 * DOCUMENTS, 4)


def test_a_dense_run_has_traces_of_losses_alone(suite: Suite) -> None:
    assert trace_steps(suite.runs[0]) == (0, 2, 4)
    trace = read_trace(suite.runs[0], 4)
    assert trace.layers == ()
    assert len(trace.loss) == 2 * DOCUMENTS * LENGTH


def change(suite: Suite, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Rewrite the last trace with changed columns and facts."""
    path = suite.runs[1].folder / "traces/step-000004.parquet"
    table = pq.read_table(path)
    columns = {name: table[name] for name in table.column_names}
    facts = json.loads(table.schema.metadata[METADATA])
    edit(columns, facts)
    changed = type(table).from_pydict(columns).replace_schema_metadata({METADATA: json.dumps(facts)})
    pq.write_table(changed, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda columns, facts: facts.update(data_digest="other"),
            "'data_digest' is 'other', but the run's is 'dddd",
        ),
        (lambda columns, facts: facts.update(layers=[1]), r"'layers' is \[1\], but the run's is \[1, 3\]"),
        (
            lambda columns, facts: facts.update(arm="dense"),
            "'arm' is 'dense', but the run's is 'two': put the run's own",
        ),
        (lambda columns, facts: facts.update(seed=7), "'seed' is 7, but the run's is 42"),
        (lambda columns, facts: facts.update(step=2), "'step' is 2, but the run's is 4"),
        (lambda columns, facts: facts.update(tokenizer_digest="other"), "'tokenizer_digest' is 'other', but the run's"),
        (lambda columns, facts: facts.update(probe_digest="other"), "'probe_digest' is 'other', but step-000000.parq"),
        (lambda columns, facts: columns.pop("m3"), "no column 'm3'; found doc, pos"),
        (lambda columns, facts: columns.pop("w1_1"), "no column 'w1_1'; found doc, pos"),
        (lambda columns, facts: columns.pop("pos"), "no column 'pos'; found doc, token_id"),
        (lambda columns, facts: columns.pop("e3_1"), "no column 'e3_1'; found doc, pos"),
        (lambda columns, facts: facts.pop("top_k"), "no key 'top_k'"),
        (
            lambda columns, facts: columns.update(doc=np.roll(columns["doc"].to_numpy(), 7)),
            "the rows of a document do not lie together",
        ),
        (
            lambda columns, facts: columns.update(e1_0=np.full(len(columns["doc"]), 9, dtype=np.uint8)),
            r"'e1_…' must lie between 0 and 3; found \d to 9: put the run's own",
        ),
        (
            lambda columns, facts: columns.update(domain=np.full(len(columns["doc"]), 2, dtype=np.uint8)),
            "'domain' must lie between 0 and 1; found 2 to 2",
        ),
    ],
)
def test_a_changed_trace_is_refused(suite: Suite, edit: Callable[[Any, Any], None], message: str) -> None:
    change(suite, edit)
    with pytest.raises(AnalysisError, match=rf"step-000004\.parquet: {message}"):
        read_trace(suite.runs[1], 4)


def test_missing_and_torn_traces_are_refused_by_name(suite: Suite) -> None:
    folder = suite.runs[1].folder / "traces"
    (folder / "step-000002.parquet").write_bytes(b"half")
    with pytest.raises(AnalysisError, match=r"step-000002\.parquet cannot be read as a routing trace"):
        make_tables(suite)
    (folder / "step-000004.parquet").unlink()
    with pytest.raises(AnalysisError, match=r"step-000004\.parquet is missing"):
        make_tables(suite)
    (folder / "step-000000.safetensors").unlink()
    with pytest.raises(AnalysisError, match=r"step-000000\.safetensors cannot be read"):
        read_trace(suite.runs[1], 0)


def test_fresh_gates_of_other_documents_are_refused(suite: Suite) -> None:
    path = suite.runs[1].folder / "traces/step-000000.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"fresh_gates.3": tensors["fresh_gates.3"][:, 1:].copy()}, path)
    with pytest.raises(AnalysisError, match=r"'fresh_gates.3' must be \[gates, documents, experts\] = \[…, 24, 4\]"):
        read_trace(suite.runs[1], 0)


def test_a_stray_file_is_no_trace(suite: Suite) -> None:
    folder = suite.runs[1].folder / "traces"
    (folder / "step-000004 (copy).parquet").write_bytes((folder / "step-000004.parquet").read_bytes())
    assert trace_steps(suite.runs[1]) == (0, 2, 4)


def test_fresh_gates_that_are_missing_are_asked_for(suite: Suite) -> None:
    path = suite.runs[1].folder / "traces/step-000000.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != "fresh_gates.3"}, path)
    with pytest.raises(AnalysisError, match=r"step 0 holds no fresh_gates\.3 in its \.safetensors"):
        make_tables(suite)


def test_places_margins_and_weights_are_those_of_the_rows(suite: Suite) -> None:
    run = suite.runs[1]
    trace = read_trace(run, 4)
    rows = pq.read_table(run.folder / "traces/step-000004.parquet").to_pylist()
    assert trace.position.tolist() == [row["pos"] for row in rows]
    for layer in trace.layers:
        assert layer.margin.tolist() == [row[f"m{layer.layer}"] for row in rows]
        assert layer.weights.tolist() == [[row[f"w{layer.layer}_0"], row[f"w{layer.layer}_1"]] for row in rows]
        assert (layer.margin.dtype, layer.weights.dtype) == (np.float64, np.float32)


def test_a_wide_trace_is_read_beside_the_other_and_must_be_of_its_own_probe(suite: Suite) -> None:
    """Its documents have more windows than one, which lie together."""
    run = suite.runs[1]
    with pytest.raises(AnalysisError, match=r"wide-000004\.parquet is missing: the run's data\.wide_probe_tokens is 0"):
        read_trace(run, 4, wide=True)
    folder = run.folder / "traces"
    for step in (0, 4):
        (folder / f"wide-{step:06d}.parquet").write_bytes((folder / f"step-{step:06d}.parquet").read_bytes())
    assert trace_steps(run) == (0, 2, 4)
    assert trace_steps(run, wide=True) == (0, 4)
    wide = read_trace(run, 4, wide=True)
    assert all(layer.fresh is None and layer.record is None for layer in wide.layers)
    assert np.array_equal(wide.layers[0].slots, read_trace(run, 4).layers[0].slots)
    table = pq.read_table(folder / "wide-000004.parquet")
    facts = json.loads(table.schema.metadata[METADATA]) | {"probe_digest": "other"}
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(facts)}), folder / "wide-000004.parquet")
    with pytest.raises(AnalysisError, match=r"'probe_digest' is 'other', but wide-000000\.parquet has"):
        read_trace(run, 4, wide=True)


def test_traces_of_another_run_of_the_suite_are_refused_and_nothing_is_overwritten(suite: Suite) -> None:
    theirs = suite.runs[0].folder / "traces/step-000004.parquet"
    ours = suite.runs[1].folder / "traces/step-000004.parquet"
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(AnalysisError, match=r"'arm' is 'dense', but the run's is 'two'"):
        read_trace(suite.runs[1], 4)
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_neighbour_of_another_trace_is_refused(suite: Suite) -> None:
    folder = suite.runs[1].folder / "traces"
    ours, theirs = folder / "step-000004.safetensors", folder / "step-000000.safetensors"
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(AnalysisError, match=r"4\.safetensors: 'step' is 0, but step-000004\.parquet has 4: put the"):
        read_trace(suite.runs[1], 4)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_neighbour_that_says_nothing_is_read(suite: Suite) -> None:
    path = suite.runs[1].folder / "traces/step-000004.safetensors"
    save_file(load_file(path), path)
    assert read_trace(suite.runs[1], 4).layers[0].fresh is not None
