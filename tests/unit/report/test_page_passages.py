"""Passages say what the traces say: whose tokens, where they went, and in which layer."""

from pathlib import Path

import pytest
from planted_measures import planted_tables
from synthetic_suite import DOCUMENTS, TEXTS, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.traces import read_trace
from moe_emergence.report.page_passages import suite_passages


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=4, looks=(0, 4), seeds=(42, 43))
    return read_suite(write_suite(tmp_path_factory.mktemp("passages"), planted))


def test_the_last_layer_of_every_arm_and_every_layer_of_the_first(suite: Suite) -> None:
    found = suite_passages(suite, planted_tables(suite))
    assert [arm.arm for arm in found] == ["moe", "no_lb", "top2", "moe_blocks"]
    assert {arm.seed for arm in found} == {42}
    assert [[layer for layer, _ in arm.others] for arm in found] == [[2], [], [], []]
    assert {passage.layer for arm in found for passage in arm.last} == {3}
    assert {arm.experts for arm in found} == {8}


def test_each_token_has_the_experts_entropy_and_loss_of_its_own_document(suite: Suite) -> None:
    top2 = suite_passages(suite, planted_tables(suite))[2]
    run = next(run for run in suite.runs if (run.arm, run.seed) == ("top2", 42))
    trace = read_trace(run, run.last_step)
    for number, passage in enumerate(top2.last):
        mine = trace.document == number * DOCUMENTS
        experts, losses = trace.layers[1].experts[mine], trace.loss[mine]
        notes = [f"expert {first} (second: {second}), entropy" for first, second in experts.tolist()]
        shown = [token.note for token in passage.tokens if token.text.isascii()]
        if len(shown) == len(notes):  # no character of several tokens
            assert all(note.startswith(start) for note, start in zip(shown, notes, strict=True))
            assert f"loss of the next token {losses[0]:.2f} nats" in shown[0]
        assert sum(share.tokens for share in passage.shares if share.expert == 0) == (experts[:, 0] == 0).sum()
    assert any(len(passage.tokens) == 80 for passage in top2.last)


def test_the_text_is_the_beginning_of_the_document_and_code_alone_has_classes(suite: Suite) -> None:
    code, math, prose = suite_passages(suite, planted_tables(suite))[0].last
    assert TEXTS["code"].replace("{number}", "0").startswith("".join(token.text for token in code.tokens).rstrip())
    assert "class: keyword" in code.tokens[0].note
    assert not any("class:" in token.note for passage in (math, prose) for token in passage.tokens)
    assert (code.document, math.document, prose.document) == ("code/0", "math/0", "prose/0")


def test_a_suite_without_experts_has_none(tmp_path: Path) -> None:
    planted = quickstart_like(steps=4, looks=(0, 4))
    dense = read_suite(write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4), arms=planted.arms[:1])))
    assert suite_passages(dense, planted_tables(dense)) == []
