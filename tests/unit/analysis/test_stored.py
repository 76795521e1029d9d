"""Tables read again from disk: the same values, and never stale ones."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis import stored
from moe_emergence.analysis.fingerprints import fingerprint
from moe_emergence.analysis.measures import Progress
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.scope import ALL, QUICK, Scope
from moe_emergence.analysis.tables import Tables


@pytest.fixture
def suite(tmp_path: Path, without_run_measures: None) -> Suite:
    return read_suite(write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4))))


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    planted = quickstart_like(steps=4, looks=(0, 4))
    arm = next(arm for arm in planted.arms if arm.name == "top2")
    alone = dataclasses.replace(planted, arms=[dataclasses.replace(arm, baseline=None, changes={})])
    suite = read_suite(write_suite(tmp_path, alone))
    made = stored.analysed(suite)
    assert made.coactivation
    assert made.saturation
    again = stored.read_analysis(suite)
    assert again is not None
    for field in dataclasses.fields(made):
        assert getattr(again, field.name) == getattr(made, field.name), field.name


def test_current_tables_are_not_made_again(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stored.analysed(suite)
    monkeypatch.setattr(stored, "make_tables", lambda *given: pytest.fail("made again"))
    assert stored.analysed(suite) == made


@pytest.mark.parametrize(
    "file", ["moe/seed-42/metrics.jsonl", "moe/seed-42/traces/step-000004.parquet", "moe/seed-42/manifest.json"]
)
def test_tables_of_other_records_are_not_taken(suite: Suite, file: str) -> None:
    stored.analysed(suite)
    path = suite.folder / file
    path.write_bytes(path.read_bytes() + b"\n")
    assert stored.read_analysis(suite) is None


def test_a_trace_more_or_a_run_less_makes_tables_stale(suite: Suite) -> None:
    stored.analysed(suite)
    assert stored.read_analysis(dataclasses.replace(suite, runs=suite.runs[:-1])) is None
    (suite.runs[1].folder / "traces" / "step-000009.parquet").write_bytes(b"")
    assert stored.read_analysis(suite) is None


@pytest.fixture
def weights(suite: Suite) -> list[Path]:
    """A model of 2 MB in a checkpoint and one in a snapshot, what experts came from, and a kept result."""
    run = suite.runs[1].folder
    names = ["checkpoints/step-000004/model", "snapshots/step-000000/model", "ancestor", "analysis/causal"]
    files = [run / f"{name}.safetensors" for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"gate": np.ones(8, np.float32), "big": np.ones(1 << 19, np.float32)}, file)
    return files


def test_tables_of_other_weights_or_kept_results_are_not_taken(suite: Suite, weights: list[Path]) -> None:
    stored.analysed(suite)
    for file in weights:
        content, tensors = file.read_bytes(), load_file(file)
        save_file(tensors | {"gate": 2 * tensors["gate"]}, file)
        assert file.stat().st_size == len(content)
        assert stored.read_analysis(suite) is None
        file.write_bytes(content)
        os.utime(file, (0, 0))  # as in a copied suite
        assert stored.read_analysis(suite) is not None
    later = weights[0].parent.with_name("step-000005")
    shutil.copytree(weights[0].parent, later)
    assert stored.read_analysis(suite) is None
    shutil.rmtree(later.parent)  # deleted to save room: what was made from it stays
    assert stored.read_analysis(suite) is not None


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * (1 << 21), b"\x02" + bytes(7) + b"[]" + bytes(1 << 21)])
def test_what_is_no_file_of_weights_has_a_fingerprint_too(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    before = fingerprint(file)
    file.write_bytes(b"x" + content[1:])
    assert fingerprint(file) != before


@pytest.mark.parametrize("damage", ["summary.json", "information.parquet"])
def test_torn_or_missing_tables_are_not_taken(suite: Suite, damage: str) -> None:
    stored.analysed(suite)
    path = suite.folder / "analysis" / damage
    path.write_bytes(path.read_bytes()[:20])
    assert stored.read_analysis(suite) is None
    path.unlink()
    assert stored.read_analysis(suite) is None


def test_everything_is_kept_until_records_change_and_is_made_only_when_asked_for(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    make = stored.make_tables

    def counted(suite: Suite, progress: Progress, scope: Scope, workers: int) -> Tables:
        asked.append(scope.name)
        return make(suite, progress, scope, workers)

    monkeypatch.setattr(stored, "make_tables", counted)
    assert stored.analysed(suite).scope == (QUICK,)
    assert stored.analysed(suite).scope == (QUICK,)
    assert asked == ["quick"]
    assert stored.analysed(suite, scope=ALL).scope == (ALL,)
    assert stored.analysed(suite).scope == (ALL,)  # what was made is not thrown away
    assert stored.analysed(suite, scope=ALL).scope == (ALL,)
    assert asked == ["quick", "all"]
    summary = json.loads((suite.folder / "analysis" / "summary.json").read_text("utf-8"))
    assert [row["name"] for row in summary["scope"]] == ["all"]
    record = suite.runs[0].folder / "metrics.jsonl"
    record.write_bytes(record.read_bytes() + b"\n")
    assert stored.analysed(suite).scope == (QUICK,)
