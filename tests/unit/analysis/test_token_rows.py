"""Token classes × experts from a suite's folder: which domains, which tokens, and that a trace fits its documents."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import DOCUMENTS, LENGTH, PlantedArm, PlantedSuite, quickstart_like, spread, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import Tables, make_tables, prepared
from moe_emergence.analysis.token_labels import probe_classes
from moe_emergence.analysis.token_types import TokenClass
from moe_emergence.analysis.traces import read_trace
from moe_emergence.config import MoEConfig
from moe_emergence.errors import AnalysisError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("classes"), quickstart_like(steps=4, looks=(0, 4)))


@pytest.fixture(scope="module")
def tables(folder: Path) -> Tables:
    return make_tables(read_suite(folder))


def test_only_domains_of_python_have_classes(tables: Tables) -> None:
    assert {row.domain for row in tables.token_classes} == {row.domain for row in tables.class_information} == {"code"}


def test_classes_are_those_of_the_text(folder: Path) -> None:
    """One token a byte, so the characters that look like digits can be counted by hand."""
    suite = read_suite(folder)
    trace = read_trace(suite.runs_of("moe")[0], 4)
    kinds = probe_classes(prepared(suite), trace)["code"].classes
    texts = [text[:LENGTH] for text in prepared(suite).probe.texts[:DOCUMENTS]]
    assert len(kinds) == DOCUMENTS * LENGTH
    comment = sum(text.count("# in bytes") for text in texts) * len("# in bytes")
    found = Counter(kinds.tolist())
    assert found[TokenClass.COMMENT] == comment > 0
    keywords = sum(len(word) for word in ("import", "def", "return")) * DOCUMENTS
    assert keywords - DOCUMENTS * len("return") < found[TokenClass.KEYWORD] <= keywords


def test_cells_are_counts_of_the_trace(folder: Path, tables: Tables) -> None:
    suite = read_suite(folder)
    trace = read_trace(suite.runs_of("top2")[0], 4)
    kinds = probe_classes(prepared(suite), trace)["code"].classes
    layer = trace.layers[1]
    mine = [row for row in tables.token_classes if (row.arm, row.layer) == ("top2", layer.layer)]
    for counted, slots in (("slots", 2), ("first choice", 1)):
        cells = {(row.token_class, row.expert): row for row in mine if row.counted == counted}
        for kind in set(kinds.tolist()):
            chosen = layer.experts[: len(kinds)][kinds == kind][:, :slots]
            for expert in range(8):
                row = cells[TokenClass(kind).name.lower(), expert]
                assert row.assignments == int((chosen == expert).sum())
                assert row.share == pytest.approx(float((chosen == expert).mean()))
                assert row.uniform == 1 / 8
        assert sum(row.assignments for row in cells.values()) == slots * len(kinds)


def test_information_of_classes_has_its_null(tables: Tables) -> None:
    """Routes were drawn by domain alone: within code, classes tell nothing."""
    rows = [row for row in tables.class_information if row.counted == "first choice"]
    assert {(row.arm, row.layer) for row in rows} == {
        (a, n) for a in ("moe", "no_lb", "top2", "moe_blocks") for n in (2, 3)
    }
    assert np.mean([row.p < 0.05 for row in rows]) < 0.3
    for row in rows:
        assert row.estimate == pytest.approx(row.plug_in - row.null_mean)
        assert (row.documents, row.tokens) == (DOCUMENTS, DOCUMENTS * LENGTH)


def test_documents_that_are_not_those_of_the_trace_are_refused(folder: Path) -> None:
    suite = read_suite(folder)
    data = prepared(suite)
    trace = read_trace(suite.runs_of("moe")[0], 4)
    with pytest.raises(
        AnalysisError, match=r"the trace is of documents \[1 2 3\]…, the prepared data probes \[0 1 2\]…"
    ):
        probe_classes(data, replace(trace, index=trace.index + 1))
    texts = ("something else entirely " * 9, *data.probe.texts[1:])
    with pytest.raises(AnalysisError, match="document 'code/0' are not the beginning of its text"):
        probe_classes(replace(data, probe=replace(data.probe, texts=texts)), trace)


def test_a_suite_without_python_has_no_classes(tmp_path: Path) -> None:
    arm = PlantedArm(name="only", moe=MoEConfig(), shares={1: np.stack([spread(8, {}), spread(8, {1: 0.4})])})
    planted = PlantedSuite(arms=(arm,), domains=("law", "songs"), steps=4, looks=(0, 4))
    tables = make_tables(read_suite(write_suite(tmp_path, planted)))
    assert tables.token_classes == tables.class_information == ()
    assert len(tables.verdicts) == 1
