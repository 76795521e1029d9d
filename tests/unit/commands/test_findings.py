"""Findings in the terminal: what was planted is printed, in the width and the characters that the output has."""

import io
import sys
from dataclasses import fields, replace

import pytest
from planted_measures import planted_tables
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.commands.findings import print_report
from moe_emergence.commands.printing import print_sentence, print_table
from moe_emergence.report.sparklines import PLAIN_BARS, sparkline, suite_curves

Found = tuple[Suite, Tables]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    planted = quickstart_like(steps=8, looks=(0, 2, 8), conclusive=False, note="cut")
    suite = read_suite(write_suite(tmp_path_factory.mktemp("findings"), planted))
    return suite, planted_tables(suite, {("moe", 42, 3): 0.084})


def printed(found: Found, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8", **variables: str) -> str:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, write_through=True))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    print_report(*found)
    return raw.getvalue().decode(encoding)


def test_the_report_as_text_says_the_planted_findings(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(printed(found, monkeypatch).split())
    assert text.startswith("planted: Do experts copied from one MLP")
    for part in (
        "Note: Too short for conclusions (cut).",
        "- Yes: in layer 3 of moe, a token's expert tells 8.4 % [7.8, 9.0] of its domain",
        "- Without balancing (no_lb), up to 5 of a layer's 8 experts die",
        "The arms on test at the last step; LM loss in nats a token",
        "Over training, step 0 to 8: domain information of probe documents at each trace; largest load of the training "
        "steps' own tokens; LM loss of dev text at each evaluation.",
        "moe, seed 42, layer 3 8.4 % [7.8, 9.0] of H(domain) at step 8",
    ):
        assert part in text
    assert text.index("- Yes: in layer 3") < text.index("The arms on test") < text.index("Over training")


def test_runs_still_going_have_sparklines_of_what_is_recorded(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, tables = found
    going = replace(suite, runs=(), going=tuple(run for run in suite.runs if run.arm == "moe"))
    text = printed((going, replace(tables, **{table.name: () for table in fields(tables)})), monkeypatch, COLUMNS="200")
    table = text[text.index("Still going, so far, step 0 to 8: largest load") :].splitlines()
    assert "domain" not in next(line for line in table if line.strip().startswith("arm"))
    first = next(line.split() for line in table if line.strip().startswith("moe"))
    assert first[:2] == ["moe", "2"]
    assert sum(any(bar in part for bar in "▁▂▃▄▅▆▇█") for part in first) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_number_and_its_unit_stay_on_one_line(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, write_through=True))
    monkeypatch.setenv("COLUMNS", "18")
    print_sentence("one two three 12\u00a0% of all", "- ")
    monkeypatch.setenv("COLUMNS", "14")
    print_table("t", ["first a\u00a0heading"], [False], [["words it 12\u00a0% of"]])
    lines = raw.getvalue().decode(encoding).replace("\u00a0", " ").splitlines()
    assert lines[:2] == ["- one two three", "  12 % of all"]
    assert "\ue000" not in "".join(lines)
    assert not any(line.strip().startswith("%") for line in lines)
    assert any("a heading" in line for line in lines)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_line_is_wider_than_80_columns_in_any_encoding(
    found: Found, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    text = printed(found, monkeypatch, encoding, COLUMNS="80", NO_COLOR="1")
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    bars = any(bar in text for bar in "▁▂▃▄▅▆▇█")
    assert bars == (encoding == "utf-8")
    assert "\\u" not in text  # nothing that the encoding lacks is spelled out


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (((0, 0.0), (7, 7.0)), "▁▂▃▄▅▆▇█"),
        (((0, 7.0), (7, 0.0)), "█▇▆▅▄▃▂▁"),
        (((0, 0.0), (1, 7.0), (7, 7.0)), "▁███████"),
        (((5, 3.5),), "▅▅▅▅▅▅▅▅"),
    ],
)
def test_a_sparkline_is_high_where_the_series_is(series: tuple, expected: str) -> None:
    assert sparkline(series, 0.0, 7.0, points=8) == expected


def test_a_flat_column_stays_low_and_plain_bars_are_ascii() -> None:
    assert sparkline(((0, 2.0), (4, 2.0)), 2.0, 2.0, points=4) == "▁▁▁▁"
    assert sparkline(((0, 0.0), (7, 7.0)), 0.0, 7.0, PLAIN_BARS, 8) == PLAIN_BARS
    assert PLAIN_BARS.isascii()


def test_curves_are_those_of_the_tables(found: Found) -> None:
    _, tables = found
    curves = {(row.arm, row.layer): row for row in suite_curves(tables)}
    assert list(curves)[:3] == [("dense", None), ("moe", 2), ("moe", 3)]
    moe = curves["moe", 3]
    assert [step for step, _ in moe.information] == [0, 2, 8]
    assert moe.information[-1][1] == pytest.approx(0.084)
    assert moe.lm_loss[-1] == (8, pytest.approx(3.605))
    loads = [p.load for p in tables.load_over_steps if (p.arm, p.layer, p.step) == ("moe", 3, 8)]
    assert moe.load[-1] == (8, max(loads))
    assert curves["dense", None].load == curves["dense", None].information == ()


def test_nothing_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\x07\u202eb [red]c[/red]"
    print_table(hostile, [hostile], [False], [[hostile]])
    print_sentence(hostile, "- ")
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\u202e")
    assert shown.count("a␛[2J␇⟨U+202E⟩b [red]c[/red]") == 4
