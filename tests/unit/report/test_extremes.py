"""Suites at the ends of what there can be: the page still makes sense, and is the same bytes in every process."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from planted_measures import planted_tables, undrawn, without_a_picture
from synthetic_suite import DOMAINS, PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.config import MoEConfig
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.drawings import drawings
from moe_emergence.report.page import report_of, write_report
from moe_emergence.report.pictures import Picture, keep

VOID = {"meta", "link", "img", "br", "input", "hr", "source", "col", "wbr"}
UNFINISHED = re.compile(r"(?<![\w-])(?:nan|None(?! is shown)|inf)(?![\w-])|\{\{|undefined")


class Read(HTMLParser):
    """The page's ids, what its links point to, its text, and whether every element is closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [(values["href"] or "")[1:]] if (values.get("href") or "").startswith("#") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def sensible(page: str) -> str:
    """The page's text, after what every page must be has been checked."""
    read = Read()
    read.feed(page)
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert set(filter(None, read.links)) <= set(read.ids)
    text = " ".join(" ".join(read.text).split())
    assert not UNFINISHED.search(text), UNFINISHED.search(text)
    return text.replace("\u00a0", " ")


def page_of(folder: Path, planted: PlantedSuite) -> str:
    suite = read_suite(write_suite(folder, planted))
    with undrawn():
        return write_report(suite, planted_tables(suite)).read_text("utf-8")


def many(experts: int, layers: int, top_k: int, domains: int = 3) -> PlantedSuite:
    """One arm with as many of everything."""
    moe = MoEConfig(num_experts=experts, layers=tuple(range(layers)), top_k=top_k)
    even = np.full((domains, experts), 1 / experts)
    arm = PlantedArm(name="moe", moe=moe, shares=dict.fromkeys(range(layers), even))
    return PlantedSuite(arms=(arm,), domains=DOMAINS[:domains], steps=2, looks=(0, 2))


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (lambda: many(64, 12, 8), "no evidence of learned specialisation in any of layers 0, 1, 2, 3"),
        (lambda: many(1, 1, 1), "expert 0, 1.00 times the uniform 100 %"),
        (lambda: replace(many(4, 1, 1), steps=1, looks=(0, 1)), "after 1 step,"),
        (lambda: many(4, 2, 2, domains=1), "LM loss"),
    ],
    ids=["64 experts, 12 layers, k = 8", "one expert", "one step", "one domain"],
)
def test_one_arm(planted: Callable[[], PlantedSuite], expected: str, tmp_path: Path) -> None:
    assert expected in sensible(page_of(tmp_path, planted()))


def test_64_experts_can_be_drawn(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path, many(64, 1, 8)))
    for drawing in drawings(suite, planted_tables(suite)):
        assert drawing.make().get_figwidth() < 16


@pytest.mark.parametrize("empty", ["math", "prose"])
def test_a_domain_without_probe_documents(empty: str, tmp_path: Path) -> None:
    planted = quickstart_like(steps=2, looks=(0, 2), unprobed=(empty,))
    suite = replace(planted, arms=planted.arms[1:2])
    folder = write_suite(tmp_path, suite)
    with undrawn():
        text = sensible(report_of(folder).read_text("utf-8"))
    assert empty in text


def test_records_without_checkpoints_or_measures(tmp_path: Path) -> None:
    planted = quickstart_like(steps=2, looks=(0, 2))
    folder = write_suite(tmp_path, replace(planted, arms=planted.arms[:2]))
    with undrawn():
        text = sensible(report_of(folder).read_text("utf-8"))
    assert "Causal tests were not made" in text


def going_alone(folder: Path) -> Path:
    """A run of 8 steps that has recorded 5, with an evaluation and a trace at step 4."""
    planted = quickstart_like(steps=8, looks=(0, 4, 8))
    run = write_suite(folder, replace(planted, arms=planted.arms[1:2])) / "moe/seed-42"
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:8]) + '{"event": "st', "utf-8")
    for trace in (run / "traces").glob("step-000008.*"):
        trace.unlink()
    return run


def test_a_run_that_is_going_alone(tmp_path: Path) -> None:
    run = going_alone(tmp_path)
    with undrawn():
        text = sensible(report_of(run).read_text("utf-8"))
    assert "Not known: no run has ended yet." in text
    assert "moe, seed 42: training has recorded 5 of 8 steps and no end; the last trace is of step 4." in text
    assert "no collapse found so far; expert" in text
    assert "Title: dev text at step 4, the latest evaluation." in text
    assert "at the last step" not in text.split("Runs that are still going")[1].split("Method")[0]
    assert "time of all runs together" not in text
    assert "peak memory" not in text
    assert f"moe-emergence report {run}" in text
    assert "moe-emergence analyze" not in text
    assert "of layer 3 takes" in text
    assert "LM loss so far: moe" in text
    assert "Nothing on this page includes it" not in text


def test_a_run_that_has_a_trace_and_no_step_yet(tmp_path: Path) -> None:
    run = going_alone(tmp_path)
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0], "utf-8")
    with undrawn():
        text = sensible(report_of(run).read_text("utf-8"))
    assert "training has recorded 0 of 8 steps and no end; the last trace is of step 0." in text


DRAWN = ("specialisation", "heatmap-moe")


def write_to(place: Path) -> None:
    """A report with two of its figures, from records that are written there too."""

    def kept(drawing: Drawing, folder: Path) -> Picture:
        return (keep if drawing.name in DRAWN else without_a_picture)(drawing, folder)

    planted = quickstart_like(steps=2, looks=(0, 2))
    folder = write_suite(place / "same", replace(planted, arms=planted.arms[1:2]))
    suite = read_suite(folder)
    with patch("moe_emergence.report.page.keep", kept):
        write_report(suite, planted_tables(suite))


def test_the_same_runs_give_the_same_bytes_in_every_process_and_place(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "import test_extremes; test_extremes.write_to(Path(sys.argv[2]))"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(elsewhere)],
        env=os.environ | {"PYTHONHASHSEED": seed},
    ) as other:
        write_to(here)
        assert other.wait(timeout=250) == 0
    names = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(elsewhere) for path in elsewhere.rglob("*") if path.is_file())
    results = [name for name in names if name.suffix in (".html", ".csv", ".svg", ".png")]
    assert {name.name for name in results} >= {"report.html", "verdicts.csv", "heatmap-moe.svg", "specialisation.png"}
    for name in results:
        assert (here / name).read_bytes() == (elsewhere / name).read_bytes(), name
