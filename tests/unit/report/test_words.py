"""Numbers, findings and the answer box: every sentence on planted figures."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables, make_tables
from moe_emergence.report import findings, numbers
from moe_emergence.report.answer import NO_CLAIM, answers, too_short
from moe_emergence.report.drawings import drawings
from moe_emergence.report.summary import suite_summary, suite_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("words") / "planted", quickstart_like(steps=96, looks=(0, 5, 96)))


@pytest.fixture(scope="module")
def suite(folder: Path) -> Suite:
    return read_suite(folder)


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return make_tables(suite)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.loss(3.8164), "3.816"),
        (numbers.difference(0.0041), "+0.004"),
        (numbers.difference(-0.0041), "−0.004"),
        (numbers.difference(-0.0001), "0.000"),
        (numbers.percent(0.125), "12.5\u00a0%"),
        (numbers.percent(0.7104), "71\u00a0%"),
        (numbers.percent(0.00123), "0.123\u00a0%"),
        (numbers.percent(0.9996), "100\u00a0%"),
        (numbers.percent(0), "0\u00a0%"),
        (numbers.count(983040), "983,040"),
        (numbers.tiny(4.5e-7), "4.5e−07"),
        (numbers.seconds(8.44), "8.4\u00a0s"),
        (numbers.seconds(724), "12\u00a0min 4\u00a0s"),
        (numbers.seconds(3599.9), "1\u00a0h 0\u00a0min"),
        (numbers.number_list((0, 3)), "0, 3"),
        (numbers.number_list(()), "none"),
        (numbers.listed(["a", "b", "c"]), "a, b and c"),
        (numbers.listed(["a"]), "a"),
        (numbers.plural(1, "seed"), "1\u00a0seed"),
        (numbers.plural(3, "seed"), "3\u00a0seeds"),
    ],
)
def test_numbers_read_as_a_reader_would_write_them(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("show", [numbers.loss, numbers.difference, numbers.percent, numbers.count, numbers.seconds])
def test_an_absent_number_is_a_dash(show) -> None:
    assert show(None) == "–"


def test_titles_say_the_planted_findings(suite: Suite, tables: Tables) -> None:
    titles = {drawing.name: drawing.title.replace("\u00a0", " ") for drawing in drawings(suite, tables)}
    equal = ", where an equal share is 12.5 %"
    assert titles == {
        "heatmap-moe": "moe: in layer 3, 36 % of code assignments go to expert 5, 2.88 times the uniform 12.5 %",
        "heatmap-no_lb": "no_lb: in layer 2, 93 % of math assignments go to expert 5, 7.44 times the uniform 12.5 %",
        "heatmap-top2": "top2: in layer 2, 21 % of prose assignments go to expert 0, 1.68 times the uniform 12.5 %",
        "heatmap-moe_blocks": (
            "moe_blocks: in layer 3, 15 % of code assignments go to expert 4, 1.20 times the uniform 12.5 %"
        ),
        "load-moe": "moe: the busiest expert of layer 3 takes 18.7 % of the tokens" + equal,
        "load-no_lb": "no_lb: the busiest expert of layer 2 takes 72.3 % of the tokens" + equal,
        "load-top2": "top2: the busiest expert of layer 2 takes 14.7 % of the assignments" + equal,
        "load-moe_blocks": "moe_blocks: the busiest expert of layer 3 takes 15 % of the tokens" + equal,
        "entropy-per-token": (
            "Most certain router: no_lb, layer 2, at 18 % of ln E; least certain: moe_blocks, layer 3, at 93 %"
        ),
        "entropy-of-load": (
            "Least even load: no_lb, layer 2, as if 2.49 of 8 experts shared it; most even: moe_blocks, layer 2, 8.00"
        ),
        "loss": "On test, top2 ends lowest at 3.601 nats a token, no_lb highest at 3.627: 0.026 apart",
        "loss-domains": titles["loss-domains"],  # the planted arms differ by the same in every domain
    }
    assert titles["loss-domains"].endswith(": 0.026 nats a token on test")


def test_with_several_seeds_a_title_names_the_seed(tmp_path: Path) -> None:
    planted = quickstart_like(seeds=(42, 43), steps=4, looks=(0, 4))
    tables = make_tables(read_suite(write_suite(tmp_path, planted)))
    moe = [row for row in tables.routing if row.arm == "moe"]
    assert "the busiest expert of layer 3 of seed 42 takes" in findings.load_finding(moe)


def test_the_domain_with_the_widest_spread_is_named(tables: Tables) -> None:
    wide = [replace(row, lm_loss=dict(row.lm_loss) | {"math": 3.0 + n}) for n, row in enumerate(tables.arms)]
    text = findings.domain_loss_finding(wide, ("code", "math", "prose"))
    assert text == "The arms are furthest apart on math: 4.000 nats a token on test"


def test_the_answer_gives_loss_balance_and_collapse(suite: Suite, tables: Tables) -> None:
    box = {answer.heading: " ".join(answer.sentences).replace("\u00a0", " ") for answer in answers(suite, tables)}
    assert list(box) == ["LM loss", "Balance", "Collapse", "Specialisation"]
    assert "After 96 steps" in box["LM loss"]
    assert "moe 3.605 (−0.015 against dense)" in box["LM loss"]
    assert "one seed an arm" in box["LM loss"]
    assert "no_lb 72.3 % of the tokens in layer 2 (5.79 times an equal share)" in box["Balance"]
    assert (
        "no_lb, layer 2: collapse found in training at step 96; on test at step 96, hot experts: 5; dead experts: "
        "2, 3, 4, 6, 7 (5 of 8)." in box["Collapse"]
    )
    assert "no_lb, layer 3: signs of collapse at the end, no collapse in training" in box["Collapse"]
    assert "None found in moe, top2 and moe_blocks" in box["Collapse"]
    assert box["Specialisation"] == NO_CLAIM


def test_a_collapse_that_ended_is_said_to_have_ended(tmp_path: Path) -> None:
    planted = quickstart_like(steps=6, looks=(0, 6))
    moe = planted.arms[1]
    states = [
        {"event": "collapse", "step": 2, "layer": 3, "state": "collapsed", "reason": "x"},
        {"event": "collapse", "step": 4, "layer": 3, "state": "healthy", "reason": "x"},
    ]
    arms = (planted.arms[0], replace(moe, events=states))
    suite = read_suite(write_suite(tmp_path, quickstart_like(arms=arms, steps=6, looks=(0, 6))))
    (sentence,) = next(a.sentences for a in answers(suite, make_tables(suite)) if a.heading == "Collapse")
    assert sentence.startswith("moe, layer 3: collapse found in training at step 2, ended since; on test at step 6")


def test_a_first_look_is_too_short_for_conclusions(tmp_path: Path) -> None:
    planted = quickstart_like(conclusive=False, note="cut to 4 steps", steps=4, looks=(0, 4))
    summary = suite_summary(write_suite(tmp_path, planted))
    assert summary.warning == "Too short for conclusions (cut to 4 steps)."


def test_a_conclusive_suite_carries_no_warning(suite: Suite) -> None:
    assert too_short(suite) is None


def test_a_run_that_a_collapse_ended_is_named_with_its_step(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4)))
    path = folder / "no_lb/seed-42/metrics.jsonl"
    path.write_text(path.read_text("utf-8").replace('"reason": "finished"', '"reason": "collapse"'), "utf-8")
    config = folder / "no_lb/seed-42/config.json"
    config.write_text(config.read_text("utf-8").replace('"steps": 4', '"steps": 9'), "utf-8")
    suite = read_suite(folder)
    (sentence,) = next(a.sentences for a in answers(suite, make_tables(suite)) if a.heading == "Ended early")
    assert sentence == "no_lb, seed 42: at step 4 of 9, because of collapse; its numbers are of that step."
    assert next(row.status for row in make_tables(suite).runs if row.arm == "no_lb") == "stopped: collapse"


def test_missing_runs_are_named_in_the_answer(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4)))
    (folder / "top2/seed-42/config.json").unlink()
    (folder / "top2/seed-42/metrics.jsonl").unlink()
    sentences = suite_summary(folder).sentences
    assert "top2, seed 42: not started. Nothing on this page includes it." in sentences


def test_the_terminal_gets_strings_only(folder: Path) -> None:
    losses, routing = suite_tables(folder)
    assert losses.columns[:3] == ("arm", "LM loss, mean of domains", "minus dense")
    assert losses.rows[1][:3] == ("moe", "3.605", "−0.015")
    assert losses.numeric[:2] == (False, True)
    assert routing.rows[2][:3] == ("no_lb", "2", "72.3\u00a0%")
    assert all(isinstance(cell, str) for table in (losses, routing) for row in table.rows for cell in row)
