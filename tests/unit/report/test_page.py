"""The page of small suites of every kind; what a browser makes of it is in tests/browser."""

import re
from pathlib import Path

import pytest
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

import moe_emergence.report
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import make_tables
from moe_emergence.errors import AnalysisError
from moe_emergence.report.answer import NO_CLAIM
from moe_emergence.report.page import write_report

SMALL = {"steps": 4, "looks": (0, 4)}


def small(*arms: int, **changes: object) -> PlantedSuite:
    planted = quickstart_like(**SMALL)
    return quickstart_like(arms=tuple(planted.arms[n] for n in arms), **SMALL | changes)


def page_of(folder: Path, planted: PlantedSuite) -> str:
    path = write_report(write_suite(folder, planted))
    assert path == folder / "report.html"
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    page_of(folder, small(0, 2, conclusive=False, note="cut to 4 steps by --fast"))
    return folder


def test_everything_is_beside_the_page(pair: Path) -> None:
    figures = {path.name for path in (pair / "figures").iterdir()}
    names = ["heatmap-no_lb", "load-no_lb", "entropy-per-token", "entropy-of-load", "loss", "loss-domains"]
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in (pair / "tables").iterdir()} == {
        "arms.csv", "runs.csv", "routing.csv", "shares.csv", "loss_over_steps.csv", "entropy_over_steps.csv",
        "load_over_steps.csv", "receipts.csv", "sources.csv", "format_audit.csv", "costs.csv",
    }  # fmt: skip


def test_the_page_says_first_that_it_is_too_short(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    assert "Too short for conclusions (cut to 4 steps by --fast)." in page
    assert page.index("Too short for conclusions") < page.index("What came out")


def test_the_page_claims_no_specialisation(pair: Path) -> None:
    assert NO_CLAIM in (pair / "report.html").read_text("utf-8")


def test_the_page_holds_all_it_needs_and_no_script(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "default-src &#39;none&#39;" in page
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert len(re.findall(r'<img src="data:image/svg', page)) == 6


def test_how_it_was_made_is_on_the_page(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    for fact in (
        "moe-emergence quickstart",
        "2.13.0",
        "d" * 64,
        "c" * 64,
        "b" * 64,
        "PSF-2.0",
        "moby-dick",
        "0123456789ab",
    ):
        assert fact in page, fact


def test_a_report_written_again_is_the_same(pair: Path) -> None:
    before = (pair / "report.html").read_bytes()
    assert write_report(pair).read_bytes() == before


def test_dense_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, small(0))
    assert "dense 3.620" in page
    assert "Which domain goes to which expert" not in page
    assert "Upcycling receipts" not in page
    assert NO_CLAIM not in page


def test_one_arm_with_experts_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, small(1))
    assert "Which domain goes to which expert" in page
    assert "against dense" not in page.split("<main>")[0]
    assert "minus dense" not in page


def test_a_run_forked_without_a_receipt(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(1))
    manifest = folder / "moe/seed-42/manifest.json"
    manifest.write_text(re.sub(r'"receipt": \{[^}]*\}', '"receipt": null', manifest.read_text("utf-8")), "utf-8")
    tables = make_tables(read_suite(folder))
    assert tables.receipts == ()
    assert (tables.runs[0].parameters_total, tables.runs[0].parameters_active) == (3_145_728, None)


def test_nothing_finished(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(0, 1))
    for arm in ("dense", "moe"):
        path = folder / arm / "seed-42/metrics.jsonl"
        path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    page = write_report(folder).read_text("utf-8")
    for arm in ("dense", "moe"):
        assert f"{arm}, seed 42: unfinished: recorded up to step 1 of 4." in page
    assert "LM loss over training" not in page


def test_no_suite_there(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"cannot read .*suite\.json: No such file"):
        write_report(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(0))
    (folder / "tables").write_text("in the way")
    with pytest.raises(AnalysisError, match=r"cannot write .*tables/arms\.csv"):
        write_report(folder)


def test_no_template_switches_escaping_off() -> None:
    templates = Path(moe_emergence.report.__file__).parent / "templates"
    for path in templates.iterdir():
        text = path.read_text("utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|Markup|innerHTML", text), path
