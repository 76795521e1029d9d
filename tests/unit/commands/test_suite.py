"""`suite`, `quickstart` and `report`: what they hand on, and what they print."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_emergence import cli
from moe_emergence.experiments.suites import Suite, fast, suite_named


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of the suite runner; the page and its tables are stand-ins."""
    made: list[dict[str, Any]] = []
    table = SimpleNamespace(title="Losses", columns=("arm", "LM loss"), numeric=(False, True), rows=(("moe", "3.5"),))
    said = SimpleNamespace(arm="moe", seed=42, layer=3, sentences=("12 % [10, 14].",))
    summary = SimpleNamespace(
        warning="too short",
        lead=("It runs [really].",),
        alerts=(),
        sentences=("It runs [really].",),
        statements=(said,),
        matrices=(table,),
        tables=(table,),
        curves=(),
        going=(),
        tested=("Causal tests: some.",),
        scores=table,
    )
    monkeypatch.setattr(
        "moe_emergence.training.suite.run_suite",
        lambda suite, folder, **options: made.append({"suite": suite, "folder": folder} | options),
    )
    monkeypatch.setattr("moe_emergence.analysis.reading.read_suite", lambda folder: SimpleNamespace(folder=folder))
    monkeypatch.setattr("moe_emergence.analysis.stored.analysed", lambda suite, progress, *scope, **workers: "tables")
    monkeypatch.setattr(
        "moe_emergence.report.page.write_report", lambda suite, tables, progress: suite.folder / "report.html"
    )
    monkeypatch.setattr(
        "moe_emergence.analysis.reading.read_given",
        lambda folders, out: SimpleNamespace(folder=out or folders[0], name="small", question="Does it run?"),
    )
    monkeypatch.setattr(
        "moe_emergence.report.page.report_of",
        lambda *folders, out, progress, workers: (out or folders[0]) / "report.html",
    )
    monkeypatch.setattr("moe_emergence.report.summary.suite_summary", lambda suite, tables: summary)
    return made


def _suite(calls: list[dict[str, Any]]) -> Suite:
    (call,) = calls
    suite = call["suite"]
    assert isinstance(suite, Suite)
    return suite


def test_quickstart_trains_its_suite_and_closes_with_tables_and_page(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["quickstart"]) == 0
    assert _suite(calls) == suite_named("quickstart")
    assert (calls[0]["folder"], calls[0]["seeds"]) == (Path("runs/quickstart"), (42,))
    assert calls[0]["command"] == "moe-emergence quickstart"
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["Losses"]
    assert ["moe", "3.5"] in lines
    assert lines[-3:] == [
        ["-", "It", "runs", "[really]."],
        ["Note:", "too", "short"],
        ["page:", "runs/quickstart/report.html"],
    ]


def test_fast_is_said_to_be_too_short(calls: list[dict[str, Any]]) -> None:
    cli.main(["quickstart", "--fast"])
    assert _suite(calls) == fast(suite_named("quickstart"))
    assert not _suite(calls).conclusive


def test_quickstart_takes_base_corpus_and_device(calls: list[dict[str, Any]]) -> None:
    cli.main(["quickstart", "--base", "b", "--corpus", "c", "--device", "cpu", "--seeds", "2", "--seed", "7"])
    configs = [arm.config for arm in _suite(calls).arms]
    assert {(c.base, c.data.corpus, c.execution.device) for c in configs} == {("b", "c", "cpu")}
    assert calls[0]["seeds"] == (7, 8)


@pytest.mark.parametrize("command", [["quickstart"], ["suite", "quickstart"]])
def test_inexact_continuing_must_be_asked_for(calls: list[dict[str, Any]], command: list[str]) -> None:
    cli.main(command)
    cli.main([*command, "--allow-inexact"])
    assert [call["allow_inexact"] for call in calls] == [False, True]


def test_of_several_processes_one_measures_and_reports(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["quickstart"]) == 0
    assert len(calls) == 1
    assert capsys.readouterr().out == ""


def test_fields_apply_to_every_arm(calls: list[dict[str, Any]]) -> None:
    cli.main(["suite", "quickstart", "--training.steps", "5", "--moe.num_experts=4", "--corpus", "c", "--out", "o"])
    suite = _suite(calls)
    assert {arm.config.training.steps for arm in suite.arms} == {5}
    assert {arm.config.moe.num_experts for arm in suite.arms if arm.config.moe is not None} == {4}
    assert {arm.config.data.corpus for arm in suite.arms} == {"c"}
    assert calls[0]["folder"] == Path("o")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite", "quikstart"], "there is no suite 'quikstart'; did you mean quickstart?"),
        (
            ["suite", "quickstart", "--training.stepz", "5"],
            "there is no option --training.stepz. Did you mean --training.steps?",
        ),
        (["suite", "quickstart", "--moe.top_k", "9"], "moe.top_k must lie between 1 and moe.num_experts (8); got 9"),
        (["suite", "quickstart", "--moe.top_k", "2"], "suite quickstart: arm top2 is the same as its baseline moe"),
        (["quickstart", "--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["suite", "balancing", "--dry-run", "--seeds", "-1"], "--seeds must be at least 1; got -1"),
        (["suite", "gpt2", "--seeds", "0", "--dry-run"], "--seeds must be at least 1; got 0"),
        (["upcycle", "nope", "--out", "u"], "there is no place for nope. Did you mean --base nope?"),
        (["quickstart", "--workers", "0"], "--workers must be at least 1; got 0"),
        (["suite"], "the following arguments are required: suite"),
        (
            ["analyze", "/no/runs"],
            "there is no folder /no/runs: give a suite's folder, as in runs/quickstart, or runs' folders",
        ),
        (
            ["report", "/no/runs"],
            "there is no folder /no/runs: give a suite's folder, as in runs/quickstart, or runs' folders",
        ),
    ],
)
def test_mistakes_train_nothing(
    arguments: list[str], message: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert calls == []


def test_a_dry_run_prints_costs_and_trains_nothing(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = {"arm": "moe", "parameters": 1000, "active_parameters": 10, "state_bytes": 16000, "tokens": 5, "flops": 3e15}
    monkeypatch.setattr("moe_emergence.training.suite.dry_run", lambda suite: [cost])
    assert cli.main(["suite", "gpt2", "--dry-run"]) == 0
    assert "moe 1,000 10 15.62 KiB 5 3e+15" in " ".join(capsys.readouterr().out.split())
    assert calls == []


def test_analyze_prints_what_came_out_and_where_the_tables_are(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyze", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6:-4] == ["moe, seed 42, layer 3", "  12 % [10, 14]."]
    last = ["- It runs [really].", "Causal tests: some.", "Note: too short", f"tables: {tmp_path / 'analysis'}"]
    assert lines[-4:] == last
    assert calls == []


@pytest.mark.parametrize(("more", "name"), [([], "quick"), (["--all"], "all")])
def test_analyze_asks_for_everything_only_when_told(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], name: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "moe_emergence.analysis.stored.analysed",
        lambda suite, progress, scope, **more: asked.append(scope.name) or "tables",
    )
    assert cli.main(["analyze", str(tmp_path), *more]) == 0
    assert asked == [name]


def test_report_prints_the_page(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"


def test_report_as_text_prints_what_is_on_the_page_and_writes_none(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("moe_emergence.report.page.report_of")
    assert cli.main(["report", str(tmp_path), "--text"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["small: Does it run?", "Note: too short", "- It runs [really]."]
    assert lines.count("Losses") == 2
    assert "  12 % [10, 14]." in lines
