"""Token classes × experts from a suite's folder: which domains, which tokens, and that a trace fits its documents."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_suite import DOCUMENTS, LENGTH, PlantedArm, PlantedSuite, quickstart_like, spread, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import Tables, make_tables, prepared
from moe_emergence.analysis.token_labels import probe_classes, probe_labels
from moe_emergence.analysis.token_rows import class_coverage_rows
from moe_emergence.analysis.token_types import TokenClass
from moe_emergence.analysis.traces import read_trace
from moe_emergence.config import MoEConfig
from moe_emergence.errors import AnalysisError

pytestmark = pytest.mark.usefixtures("without_run_measures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("classes"), quickstart_like(steps=4, looks=(0, 4)))


@pytest.fixture(scope="module")
def tables(folder: Path) -> Tables:
    return make_tables(read_suite(folder))


def test_every_domain_has_classes_of_its_own_scheme(tables: Tables) -> None:
    schemes = {"code": "Python", "math": "mathematics", "prose": "prose"}
    for rows in (tables.token_classes, tables.class_information):
        assert {row.domain: row.scheme for row in rows} == schemes
    named = {(row.scheme, row.token_class) for row in tables.token_classes}
    assert named >= {("Python", "keyword"), ("mathematics", "relation"), ("prose", "function word"), ("prose", "name")}
    assert ("mathematics", "keyword") not in named


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
    mine = [row for row in tables.token_classes if (row.arm, row.layer, row.domain) == ("top2", layer.layer, "code")]
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


def test_coverage_counts_documents_that_stop_tokenising(folder: Path) -> None:
    """Two of the code documents are made to stop: one within what the trace reads, one after it."""
    suite = read_suite(folder)
    data, trace = prepared(suite), read_trace(suite.runs_of("moe")[0], 4)
    whole = class_coverage_rows(probe_classes(data, trace))
    assert [(row.domain, row.scheme, row.documents, row.tokens) for row in whole] == [
        (domain, scheme, DOCUMENTS, DOCUMENTS * LENGTH)
        for domain, scheme in (("code", "Python"), ("math", "mathematics"), ("prose", "prose"))
    ]
    assert [row.documents_not_tokenised for row in whole] == [0, 0, 0]
    assert [row.other_share for row in whole] == [0, 0, 0]
    texts = list(data.probe.texts)
    within = texts[0][:40] + "$" + texts[0][41:]
    texts[0], texts[1] = within, texts[1][:LENGTH] + "\n$ 'no Python"
    ids = trace.token_id.copy()
    ids[40] = data.tokenizer.encode("$").ids[0]
    broken = replace(data, probe=replace(data.probe, texts=tuple(texts)))
    row, *_ = class_coverage_rows(probe_classes(broken, replace(trace, token_id=ids)))
    assert row.documents_not_tokenised == 1
    assert row.other_share == (LENGTH - 40) / row.tokens


def test_labels_of_all_tokens_mean_the_same_in_every_domain(folder: Path) -> None:
    """One token a byte: in all three domains the class of a character is the same, whatever is around it."""
    suite = read_suite(folder)
    data, trace = prepared(suite), read_trace(suite.runs_of("moe")[0], 4)
    labels = probe_labels(data, trace)["coarse class"]
    assert labels.shape == trace.token_id.shape
    found: dict[str, set[int]] = {}
    for row, text in enumerate(data.probe.texts):
        own = labels[trace.document == row]
        for character, kind in zip(text.encode()[:LENGTH].decode(errors="ignore"), own, strict=False):
            if character in "(+,.5 " and text[:LENGTH].isascii():
                found.setdefault(character, set()).add(int(kind))
    assert found == {"(": {3}, "+": {2}, ",": {4}, ".": {4}, "5": {1}, " ": {5}}


def test_a_wide_trace_is_read_on_from_the_beginning_of_each_document(folder: Path) -> None:
    """Another probe set with fewer documents, each longer than a block: its labels begin as those of the narrow one."""
    suite = read_suite(folder)
    data, trace = prepared(suite), read_trace(suite.runs_of("moe")[0], 4)
    rows = [1, DOCUMENTS]
    texts = tuple(data.probe.texts[row] + data.probe.texts[row] for row in rows)
    ids = [data.tokenizer.encode(text).ids for text in texts]
    wide = replace(
        trace,
        document=np.repeat([0, 1], [len(own) for own in ids]),
        token_id=np.concatenate(ids),
        index=trace.index[rows],
        domain=trace.domain[rows],
    )
    probe = replace(data.probe, document=data.probe.document[rows], texts=texts)
    narrow, own = (
        (probe_classes(data, trace), probe_labels(data, trace)),
        (probe_classes(data, wide, probe), probe_labels(data, wide, probe)),
    )
    assert len(own[1]["coarse class"]) == sum(map(len, ids))
    for place, row in enumerate(rows):
        of_narrow = narrow[1]["coarse class"][trace.document == row]
        assert own[1]["coarse class"][wide.document == place][:LENGTH].tolist() == of_narrow.tolist()
    assert own[0]["code"].classes[: LENGTH - 1].tolist() == narrow[0]["code"].classes[LENGTH : 2 * LENGTH - 1].tolist()
    assert {domain: len(found.classes) for domain, found in own[0].items()} == {
        "code": len(ids[0]),
        "math": len(ids[1]),
    }
    with pytest.raises(AnalysisError, match="give the data the run was made with"):
        probe_classes(data, trace, probe)


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


def test_a_suite_without_python_has_classes_of_prose(tmp_path: Path) -> None:
    arm = PlantedArm(name="only", moe=MoEConfig(), shares={1: np.stack([spread(8, {}), spread(8, {1: 0.4})])})
    planted = PlantedSuite(arms=(arm,), domains=("law", "songs"), steps=4, looks=(0, 4))
    tables = make_tables(read_suite(write_suite(tmp_path, planted)))
    assert {(row.domain, row.scheme) for row in tables.token_classes} == {("law", "prose"), ("songs", "prose")}
    assert len(tables.verdicts) == 1
