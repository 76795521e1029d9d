"""The main job on a toy base and corpus: command line to page, with nothing planted in between."""

import csv
import json
from pathlib import Path

import pytest

from moe_emergence import cli

SMALL = {
    "data.block_size": 32,
    "data.dev_blocks": 2,
    "data.test_blocks": 3,
    "data.probe_tokens": 300,
    "data.wide_probe_tokens": 600,
    "training.steps": 3,
    "training.batch_size": 4,
    "training.evaluations": 2,
    "moe.num_experts": 4,
    "execution.threads": 1,
}


def call(toy_base: Path, toy_folder: Path, out: Path, *more: str) -> int:
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    where = ["--base", str(toy_base), "--corpus", str(toy_folder), "--out", str(out), "--quiet"]
    return cli.main(["suite", "quickstart", *where, *options, *more])


@pytest.fixture(scope="module")
def finished(toy_base: Path, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "quickstart"
    assert call(toy_base, toy_folder, out) == 0
    return out


def test_the_page_quotes_what_the_runs_recorded(finished: Path) -> None:
    with (finished / "tables" / "arms.csv").open(encoding="utf-8") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["dense", "moe", "no_lb", "top2", "oracle"]
    page = (finished / "report.html").read_text("utf-8")
    for arm, row in rows.items():
        lines = (finished / arm / "seed-42" / "metrics.jsonl").read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert [r["step"] for r in records if r["event"] == "step"] == [1, 2, 3]
        test = [r for r in records if r["event"] == "evaluation" and r["split"] == "test"]
        assert [r["step"] for r in test] == [0, 3]
        assert str(test[-1]["lm_loss_macro"]) in row.values()
        assert f"{test[-1]['lm_loss_macro']:.3f}" in page


def test_arms_share_every_batch_and_start(finished: Path) -> None:
    """The first step's batch and, up to the perturbation, the model are the same: so is its LM loss."""
    first = {}
    for arm in ("dense", "moe", "no_lb", "top2", "oracle"):
        lines = (finished / arm / "seed-42" / "metrics.jsonl").read_text("utf-8").splitlines()
        first[arm] = next(r for r in map(json.loads, lines) if r["event"] == "step")["lm_loss"]
    assert first["no_lb"] == first["moe"]
    assert first["moe"] == pytest.approx(first["dense"], abs=1e-3)
    assert first["oracle"] == pytest.approx(first["dense"], abs=1e-3)


def test_every_layer_is_said_something_of(finished: Path) -> None:
    """Domain, cause and collapse of each layer with experts, from tables that are there; nothing of the dense arm."""
    summary = json.loads((finished / "analysis" / "summary.json").read_text("utf-8"))
    rows = {name: table["rows"] for name, table in summary["tables"].items()}
    made = (
        "knockouts",
        "similarity",
        "router_geometry",
        "expert_measures",
        "saturation",
        "locality",
        "scores",
    )
    assert all(rows[name] > 0 for name in made), rows
    with (finished / "tables" / "knockouts.csv").open(encoding="utf-8") as file:
        knocked = {row["arm"] for row in csv.DictReader(file)}
    assert knocked == {"moe", "no_lb", "top2"}, "an oracle's experts were dealt out"
    page = (finished / "report.html").read_text("utf-8")
    assert page.count("Collapse: ") == 4 * len(set(_layers(finished)))
    assert "Causal tests were not made" not in page
    assert page.count("No causal tests: its experts were dealt out") == len(set(_layers(finished)))
    assert not any(rows[name] for name in ("doses", "regret", "retention", "transplants"))
    assert "moe-emergence analyze RUNS --all adds" in page


def test_a_run_alone_is_analysed_and_reported(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished / "top2" / "seed-42"
    assert cli.main(["analyze", str(run)]) == 0
    assert "top2, seed 42, layer" in capsys.readouterr().out
    assert cli.main(["analyze", str(run), "--all"]) == 0
    assert "Causal tests: all of them" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["report", str(run)]) == 0
    page = (run / "report.html").read_text("utf-8")
    assert "Causal tests: all of them" in page
    assert "<dt>Retention</dt>" in page


def _layers(finished: Path) -> list[int]:
    manifest = json.loads((finished / "moe" / "seed-42" / "manifest.json").read_text("utf-8"))
    return list(manifest["moe_layers"])


def test_the_same_command_again_changes_nothing_but_adds_a_seed(
    finished: Path, toy_base: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "moe" / "seed-42" / "metrics.jsonl").read_bytes()
    assert call(toy_base, toy_folder, finished, "--seed", "43") == 0
    assert json.loads((finished / "suite.json").read_text("utf-8"))["seeds"] == [42, 43]
    assert (finished / "moe" / "seed-42" / "metrics.jsonl").read_bytes() == before
    assert call(toy_base, toy_folder, finished, "--training.batch_size", "5") == 2
    assert "training.batch_size = 4, not 5" in capsys.readouterr().err


def test_a_damaged_suite_record_is_one_line(
    toy_base: Path, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suite.json").write_text("{", "utf-8")
    assert call(toy_base, toy_folder, tmp_path) == 2
    assert "suite.json is damaged" in capsys.readouterr().err
