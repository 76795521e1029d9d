"""The page of small suites of every kind; what a browser makes of it is in tests/browser."""

import base64
import hashlib
import html
import json
import re
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import pytest
from planted_measures import planted_tables, undrawn
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

import moe_emergence.report
from moe_emergence.analysis.reading import read_given, read_suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.errors import AnalysisError
from moe_emergence.report.page import report_of, write_report

SMALL = {"steps": 4, "looks": (0, 4)}
SHARES = {("moe", 42, 3): 0.084}
CAUTION = "A heatmap alone proves nothing"


def small(*arms: int, **changes: object) -> PlantedSuite:
    planted = quickstart_like(**SMALL)
    return quickstart_like(arms=tuple(planted.arms[n] for n in arms), **SMALL | changes)


def page_of(folder: Path, planted: PlantedSuite, *, drawn: bool = False) -> str:
    """The page with planted measures; its figures, which take seconds, only where they are asked for."""
    suite = read_suite(write_suite(folder, planted))
    with nullcontext() if drawn else undrawn():
        path = write_report(suite, planted_tables(suite, SHARES))
    assert path == folder / "report.html"
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    page_of(folder, small(0, 2, conclusive=False, note="cut to 4 steps by --fast"), drawn=True)
    return folder


def test_everything_is_beside_the_page(pair: Path) -> None:
    figures = {path.name for path in (pair / "figures").iterdir()}
    names = [
        "specialisation", "information", "heatmap-no_lb", "token-classes-no_lb", "load-map-no_lb", "experts-effective",
        "experts-dead", "experts-hot", "entropy-per-token", "entropy-of-load", "loss-differences", "loss",
        "loss-domains",
    ]  # fmt: skip
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    tables = {field.name for field in fields(Tables)} | {"arms_compared"}
    assert {path.stem for path in (pair / "tables").iterdir()} == tables


def test_the_page_says_first_that_it_is_too_short(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    assert "Too short for conclusions (cut to 4 steps by --fast)." in page
    assert page.index("Too short for conclusions") < page.index("What came out")


def test_the_key_picture_stands_first_and_a_caution_stands_by_the_heatmaps(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    figures = re.findall(r'<figure id="([^"]+)"', page)
    assert figures[:2] == ["information", "specialisation"]
    assert page.index(CAUTION) < page.index('id="heatmap-no_lb"')
    assert 'href="#specialisation"' in page


def test_sections_stand_in_order_and_every_link_of_the_page_leads_somewhere(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    sections = re.findall(r'<h2 id="([^"]+)"', page)
    assert sections == ["answer", "arms", "emergence", "specialists", "collapse", "evidence", "method"]
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert set(sections) <= anchors
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


def test_every_figure_links_to_its_data(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert len(captions) == 14  # one is of the curves under the scrubber
    for caption in captions:
        names = re.findall(r'<a href="(tables/[^"]+)\.csv">', caption)
        assert names
        assert all((pair / f"{name}.csv").exists() for name in names)


def test_every_expert_has_a_card_and_a_dead_one_says_so(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    cards = re.findall(r'<article class="expert" data-arm="no_lb" data-layer="(\d)" data-expert="(\d)">', page)
    assert cards == [(str(layer), str(expert)) for layer in (2, 3) for expert in range(8)]
    dead = page.split('data-layer="2" data-expert="3">')[1].split("</article>")[0]
    assert '<span class="state dead">dead</span>' in dead
    assert "<dd>not tested</dd>" in dead


def test_the_text_stands_in_the_page_with_the_colours_of_the_experts(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    shown = json.loads(re.search(r'id="emergence-data">(.*?)</script>', page, re.DOTALL)[1])
    assert shown["arms"] == ["no_lb"]
    assert "keyword" in shown["documents"][0]["classes"]
    assert ".x7 { background:" in page
    assert page.index('id="arms"') < page.index('id="emergence"') < page.index('id="shares"')


def test_the_page_runs_its_own_scripts_alone(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    scripts = dict(re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL))
    assert list(scripts) == [
        ' type="application/json" id="emergence-data"',
        "",
        ' type="text/plain" id="plotly-bundle"',
    ]
    data, *run = scripts.values()
    assert "<" not in data
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    assert "script-src {};".format(" ".join(f"'sha256-{digest}'" for digest in digests)) in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page.replace(run[1], ""))) == {"data:"}
    assert len(re.findall(r'<img src="data:image/svg', page)) == 13


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


def test_every_table_is_linked_and_a_reader_is_told_where_files_lie(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    linked = set(re.findall(r'href="tables/([^"]+)\.csv"', page))
    assert linked == {path.stem for path in (pair / "tables").iterdir()}
    assert page.index("take them along when it is copied") < page.index('href="figures/')


def test_terms_of_the_page_are_told_in_a_line_each(pair: Path) -> None:
    page = (pair / "report.html").read_text("utf-8")
    terms = page.split('id="measures"')[1].split("</dl>")[0]
    for term in ("Max violation", "Lift", "NMI", "Coarse class", "Co-activation", "Saturation", "Locality",
                 "Jensen–Shannon divergence", "Interventions", "Delta cosine",
                 "CKA"):  # fmt: skip
        assert re.search(rf"<dt>{term}\b.*</dt>\n<dd>.+</dd>", terms), term
    for term in ("Regret", "Retention", "Transplant"):  # not measured here
        assert f"<dt>{term}</dt>" not in terms
    for way in ("zero", "next", "swap", "mean", "ancestor"):
        assert f"<em>{way}</em>" in terms
    answer = page.split('id="answer"')[1].split("</section>")[0]
    assert answer.index("max violation") < answer.index("Max violation: E times the largest load")


def test_what_is_empty_in_the_record_says_none(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(1))
    manifest = folder / "moe/seed-42/manifest.json"
    record = json.loads(manifest.read_text("utf-8"))
    record["data"]["record"]["cleaning"] = {"dropped": {}}
    manifest.write_text(json.dumps(record), "utf-8")
    suite = read_suite(folder)
    with undrawn():
        page = write_report(suite, planted_tables(suite)).read_text("utf-8")
    assert "<dt>dropped</dt><dd>none</dd>" in page


def test_a_report_written_again_is_the_same(pair: Path) -> None:
    before = (pair / "report.html").read_bytes()
    suite = read_suite(pair)
    assert write_report(suite, planted_tables(suite, SHARES)).read_bytes() == before


def test_dense_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, small(0))
    assert "dense 3.620" in page
    assert "Which domain goes to which expert" not in page
    assert "Upcycling receipts" not in page
    assert CAUTION not in page
    assert "Did experts specialise?" not in page
    assert "emergence-data" not in page
    assert "<script" not in page
    assert "script-src &#39;none&#39;" in page


def test_one_arm_with_experts_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, small(1))
    assert "Which domain goes to which expert" in page
    assert "learned specialisation in layer 3" in page.split("<main>")[0]
    assert "against dense" not in page.split("<main>")[0]
    assert "minus dense" not in page


def test_a_run_forked_without_a_receipt(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(1))
    manifest = folder / "moe/seed-42/manifest.json"
    manifest.write_text(re.sub(r'"receipt": \{[^}]*\}', '"receipt": null', manifest.read_text("utf-8")), "utf-8")
    tables = planted_tables(read_suite(folder))
    assert tables.receipts == ()
    assert (tables.runs[0].parameters_total, tables.runs[0].parameters_active) == (3_145_728, None)


def test_nothing_finished(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(0, 1))
    for arm in ("dense", "moe"):
        path = folder / arm / "seed-42/metrics.jsonl"
        path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    with undrawn():
        page = report_of(folder).read_text("utf-8")
    for arm in ("dense", "moe"):
        assert f"{arm}, seed 42: training has recorded 1 of 4 steps and no end; the last trace is of step 0." in page
    assert 'id="loss"' not in page


def test_the_measures_of_the_records_themselves_make_a_page(tmp_path: Path) -> None:
    with undrawn():
        page = report_of(write_suite(tmp_path, small(0, 1))).read_text("utf-8")
    assert "moe: learned domain information, experts not tested in layers 2 and 3." in page, (
        "no checkpoint, no causal test"
    )
    assert "LM loss against dense" in page


def test_progress_hears_of_every_figure(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    suite = read_suite(write_suite(tmp_path, small(0, 1)))
    with undrawn():
        write_report(suite, planted_tables(suite), lambda *told: heard.append(told))
    figures = heard[0][2]
    assert figures > 3
    assert heard == [("drawing figures", done, figures) for done in range(figures + 1)]


def test_several_runs_say_how_the_page_is_written_again(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(0, 1))
    given, out = [folder / arm / "seed-42" for arm in ("dense", "moe")], tmp_path / "both runs"
    suite = read_given(given, out)
    with undrawn():
        page = html.unescape(write_report(suite, planted_tables(suite)).read_text("utf-8"))
    assert f"<code>moe-emergence report {given[0]} {given[1]} --out '{out}'</code>" in page
    assert "do not hold the command" in page


def test_of_several_seeds_long_tables_and_passages_show_the_first_and_say_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, small(1, seeds=(42, 43)))
    for name in ("shares", "token_classes"):
        assert f'seed 42; every seed in <a href="tables/{name}.csv">' in page
    assert "Both panels and the curves are of one seed: choose another" in page
    assert '<select id="emergence-seed">' in page
    rows = re.search(r'<table data-table="shares">.*?</table>', page, re.DOTALL)
    assert rows is not None
    assert rows[0].count("<tr>") == 1 + 2 * 3 * 8


def test_a_long_table_of_verdicts_is_folded_and_a_short_one_is_not(tmp_path: Path) -> None:
    folded = re.compile(r"<details><summary>Verdicts")
    assert not folded.search(page_of(tmp_path / "short", small(1, 2)))
    assert folded.search(page_of(tmp_path / "long", small(1, 2, 3, 4, seeds=(42, 43))))


def test_of_domain_information_the_page_shows_the_last_step(tmp_path: Path) -> None:
    page = page_of(tmp_path, small(1))
    rows = re.search(r'<table data-table="information">.*?</table>', page, re.DOTALL)
    assert rows is not None
    assert rows[0].count("<tr>") == 1 + 2
    assert "the last step; every trace in" in page


def test_without_measures_the_page_says_so_and_stands(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path, small(1)))
    empty = ("arm_verdicts", "verdicts", "information", "information_differences", "shares", "first_choice_shares",
             "token_classes", "class_information", "arm_losses", "loss_differences")  # fmt: skip
    with undrawn():
        page = write_report(suite, replace(planted_tables(suite), **dict.fromkeys(empty, ()))).read_text("utf-8")
    assert "Not measured" in page
    assert "Balance and confidence" in page
    assert "Domain information and drift" in page


def test_no_suite_there(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"neither a suite nor a run"):
        report_of(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, small(0))
    (folder / "tables").write_text("in the way")
    with pytest.raises(AnalysisError, match=r"cannot write .*tables/arm_verdicts\.csv"):
        report_of(folder)


def test_no_template_switches_escaping_off() -> None:
    package = Path(moe_emergence.report.__file__).parent
    for path in (*(package / "templates").iterdir(), *(package / "static").iterdir()):
        text = path.read_text("utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|Markup|innerHTML|insertAdjacentHTML|document\.write", text), path


def test_environments_name_runs_by_arm_and_seed_and_the_curves_title_is_of_what_is_drawn(tmp_path: Path) -> None:
    planted = replace(small(0, 1, 2), seeds=(42, 43))
    suite = read_suite(write_suite(tmp_path, planted))
    odd = suite.folder / "no_lb/seed-43/manifest.json"
    odd.write_text(odd.read_text("utf-8").replace('"x86_64"', '"riscv"'), "utf-8")
    suite = read_suite(suite.folder)
    tables = planted_tables(suite, {("moe", 43, 3): 0.9, ("moe", 42, 3): 0.2})
    with undrawn():
        page = html.unescape(write_report(suite, tables).read_text("utf-8"))
    assert "Environment of dense, seeds 42 and 43; moe, seeds 42 and 43; no_lb, seed 42" in page
    assert "Environment of no_lb, seed 43" in page
    shown = json.loads(re.search(r'id="emergence-data">(.*?)</script>', page, re.DOTALL)[1])
    third = {finding["seed"]: finding["text"] for finding in shown["findings"] if finding["layer"] == 3}
    assert third[42].startswith("Layer 3, seed 42: most domain information at the end: moe: 20")
    assert third[43].startswith("Layer 3, seed 43: most domain information at the end: moe: 90")
