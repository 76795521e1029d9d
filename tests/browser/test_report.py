"""The page in Chromium: it asks for nothing, runs its scripts alone, overflows nowhere; its numbers are the tables'."""

import csv
from pathlib import Path

import numpy as np
import pytest
from planted_measures import planted_tables
from playwright.sync_api import Page
from synthetic_suite import HOSTILE, PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.config import MoEConfig
from moe_emergence.report.evidence_tables import evidence_tables
from moe_emergence.report.page import report_of
from moe_emergence.report.plain_names import effect_words, intervention_words, label_words, measure_words
from moe_emergence.report.visible import visible

PHONE, DESKTOP = 380, 1280
CELLS = """table => {
    const columns = [...table.querySelectorAll("th")].map(head => head.dataset.column);
    return [...table.querySelectorAll("tbody tr")].map(row => [...row.cells].map((cell, place) => [
        columns[place], cell.querySelector("data").value,
        cell.querySelector("data").textContent])); }"""
RELATIVE_LUMINANCE = """element => {
    const channel = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(v => channel(v / 255));
                                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const pair = [luminance(getComputedStyle(element).color), luminance(getComputedStyle(ground).backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05); }"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = quickstart_like(steps=30, looks=(0, 5, 30), conclusive=False, note="cut to 30 steps")
    return report_of(write_suite(tmp_path_factory.mktemp("planted"), suite))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    everything = " ".join(HOSTILE)
    arm = PlantedArm(
        name="a",
        moe=MoEConfig(num_experts=4),
        shares={0: np.full((len(HOSTILE), 4), 0.25)},
        question=everything,
        changes={HOSTILE[1]: [HOSTILE[0], HOSTILE[2]]},
        baseline=HOSTILE[3],
    )
    sources = [{"domain": text, "source": text, "licence": text, "documents": 1} for text in HOSTILE]
    suite = PlantedSuite(
        arms=(arm,),
        domains=HOSTILE,
        sources=sources,
        steps=2,
        looks=(0, 2),
        name=everything,
        question=everything,
        command=everything,
        note=everything,
        conclusive=False,
    )
    folder = write_suite(tmp_path_factory.mktemp("hostile"), suite)
    manifest = folder / "a/seed-42/manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"x86_64"', '"<img src=x onerror=alert(9)>"'), "utf-8")
    return report_of(folder)


def test_opens_from_disk_without_a_request_an_error_or_a_dialog(planted: Path, open_page) -> None:
    page = open_page(planted)
    assert "specialise" in page.locator("h1").inner_text()
    assert page.locator("figure img").count() == 28
    broken = page.evaluate("[...document.images].filter(image => !image.complete || image.naturalWidth === 0).length")
    assert broken == 0


def test_the_first_lines_say_that_it_is_too_short(planted: Path, open_page) -> None:
    page = open_page(planted)
    lines = page.locator("body").inner_text().split("\n")
    assert [line for line in lines if line][2] == "Too short for conclusions (cut to 30 steps)."


def test_every_number_in_a_table_is_that_of_its_csv(planted: Path, open_page) -> None:
    page = open_page(planted)
    suite = read_suite(planted.parent)
    evidence = {table.name for table in evidence_tables(suite, planted_tables(suite))}
    tables = page.locator("table[data-table]").all()
    names = [table.get_attribute("data-table") for table in tables]
    assert [name for name in names if name not in evidence] == [
        "arms_compared", "runs", "loss_differences", "arm_losses", "arm_verdicts", "onset", "verdicts", "information",
        "information_changes", "information_differences", "shares", "first_choice_shares", "class_information",
        "token_classes", "routing", "first_choice_routing", "sources", "format_audit", "receipts", "costs",
    ]  # fmt: skip
    for name, table in zip(names, tables, strict=True):
        with (planted.parent / f"tables/{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if is_shown(name, row)]
        shown = table.evaluate(CELLS)
        if name in evidence:  # a part of the file, each row as it stands there
            exact_rows = [{column: exact for column, exact, _ in cells} for cells in shown]
            rows = [next(row for row in rows if cells.items() <= row.items()) for cells in exact_rows]
        assert len(shown) == len(rows) > 0, name
        for cells, row in zip(shown, rows, strict=True):
            for column, exact, text in cells:
                assert exact == row[column], (name, column)
                assert same(text, exact), (name, column, text, exact)


def is_shown(name: str, row: dict[str, str]) -> bool:
    """Long tables show a part on the page: the last step, the first choice."""
    if name == "information":
        return row["step"] == "30"
    return name != "token_classes" or row["counted"] == "first choice"


def same(text: str, exact: str) -> bool:
    """Whether what is shown is the exact value, rounded as its last figure says."""
    plain = text.replace(",", "").replace("−", "-")
    if exact in ("True", "False"):
        return text == ("yes" if exact == "True" else "no")
    if text in (words(exact) for words in (effect_words, intervention_words, label_words, measure_words)):
        return True
    if exact == "" or not is_number(exact):
        return (
            text in (exact, *(("–", "none", "all domains") if exact == "" else ())) or text.replace(", ", " ") == exact
        )
    if plain.startswith("<"):
        return float(exact) < float(plain.removeprefix("<\u00a0"))
    if " " in plain.strip("\u00a0%") or "\u00a0" in plain.removesuffix("\u00a0%"):
        return True  # a duration or several experts; numbers.py has its own tests
    value, scale = (plain.removesuffix("\u00a0%"), 100) if plain.endswith("%") else (plain, 1)
    figures = value.partition("e")[0].partition(".")[2]
    unit = 10.0 ** (-len(figures) + (int(value.partition("e")[2]) if "e" in value else 0))
    return abs(float(value) - scale * float(exact)) <= 0.5 * unit + 1e-9


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_the_comparison_above_can_fail() -> None:
    assert same("12.5\u00a0%", "0.125")
    assert not same("12.6\u00a0%", "0.125")
    assert not same("983,041", "983040")
    assert not same("−0.004", "0.0041")
    assert not same("4.5e−07", "4.6e-06")
    assert not same("code", "math")
    assert not same("all domains", "math")
    assert same("yes", "True")
    assert not same("no", "True")
    assert same("<\u00a00.001", "0.0004")
    assert not same("<\u00a00.001", "0.04")


def test_hostile_text_shows_verbatim_and_runs_nothing(hostile: Path, open_page) -> None:
    page = open_page(hostile)
    everything = visible(" ".join(HOSTILE))
    assert page.locator("h1").text_content() == everything
    assert page.locator(".arm p").first.text_content() == everything
    assert page.locator("pre").text_content() == everything
    assert page.title().split() == f"{everything}: {everything}".split()
    sources = [[text for _, _, text in row] for row in page.locator("[data-table=sources]").evaluate(CELLS)]
    assert sources == [[visible(text)] * 3 + ["1"] for text in HOSTILE]
    change = page.locator(".arm li")
    assert HOSTILE[1] in change.text_content()
    assert f"{HOSTILE[0]} → {HOSTILE[2]}" in change.text_content()
    assert "<img src=x onerror=alert(9)>" in page.locator("main").text_content()
    assert "{{7*7}}" in page.locator("h1").text_content()


def test_hostile_text_makes_no_element_and_no_handler(hostile: Path, open_page) -> None:
    page = open_page(hostile)
    assert page.locator("script").evaluate_all("all => all.map(script => script.id)") == [
        "emergence-data",
        "",
        "plotly-bundle",
    ]
    assert page.locator("iframe, object, embed, base, form").count() == 0
    assert page.evaluate("[...document.images].every(image => image.src.startsWith('data:image/svg+xml'))")
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on/i.test(a.name)).length"
    )
    assert page.evaluate(handlers) == 0


@pytest.mark.parametrize("name", ["heatmap-a", "loss-domains"])
def test_hostile_names_in_a_figure_file_run_nothing(hostile: Path, open_page, name: str) -> None:
    page = open_page(hostile.parent / f"figures/{name}.svg")
    assert page.evaluate("document.querySelectorAll('script').length") == 0


def open_details(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true; })")


@pytest.mark.parametrize("width", [320, PHONE, DESKTOP])
@pytest.mark.parametrize("which", ["planted", "hostile"])
def test_no_horizontal_overflow(which: str, width: int, open_page, request: pytest.FixtureRequest) -> None:
    page = open_page(request.getfixturevalue(which), width=width)
    open_details(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_and_text_are_large_enough_on_a_phone(planted: Path, open_page) -> None:
    page = open_page(planted, width=PHONE)
    widths = page.evaluate(
        "[...document.images].map(image => image.getBoundingClientRect().width / image.naturalWidth)"
    )
    assert min(widths) > 0.6  # 9-point labels stay above 7 pixels
    sizes = page.evaluate("[...document.querySelectorAll('p, td, li, figcaption')].map(e => parseFloat(getComputedStyle(e).fontSize))")  # fmt: skip # noqa: E501
    assert min(sizes) >= 13


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible_in_light_and_dark(planted: Path, open_page, dark: bool) -> None:
    page = open_page(planted, dark=dark)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 128 * 3) == dark
    for selector in (
        "h1",
        ".kicker",
        ".warning",
        ".answer dd p",
        ".answer dt",
        "td",
        "th",
        "figcaption",
        "a",
        "summary",
    ):
        assert page.locator(selector).first.evaluate(RELATIVE_LUMINANCE) >= 4.5, selector
    assert page.locator(".card img").first.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"


def test_every_figure_has_a_title_and_says_how_to_read_it(planted: Path, open_page) -> None:
    page = open_page(planted)
    for figure in page.locator("figure:has(img)").all():
        title = figure.locator("h3").inner_text()
        assert any(character.isdigit() for character in title), title
        assert figure.locator("img").get_attribute("alt") == figure.locator("h3").text_content()
        reading = figure.locator("figcaption").inner_text()
        assert "n = " in reading
        assert any(unit in reading for unit in ("%", "nats", "ln E")), reading


def test_the_key_picture_is_the_first_and_the_heatmaps_point_to_it(planted: Path, open_page) -> None:
    page = open_page(planted)
    assert page.locator("figure").first.get_attribute("id") == "information"
    page.locator("a[href='#specialisation']").click()
    assert page.evaluate("location.hash") == "#specialisation"
    assert page.locator("#specialisation").evaluate("element => element.getBoundingClientRect().top") < 200


def test_the_answer_stands_above_all_figures(planted: Path, open_page) -> None:
    page = open_page(planted)
    headings = page.locator(".answer dt").all_text_contents()
    assert headings[:4] == ["Specialisation", "Evidence", "Balance", "LM loss"]
    assert page.locator(".answer .lead li").count() == 4
    assert (
        page.locator(".answer .lead li")
        .first.inner_text()
        .startswith(("Yes: ", "Unproven: ", "Untested: ", "No evidence", "Collapsed: "))
    )
    assert not page.locator(".answer dd p").first.is_visible()
    page.locator(".answer summary").click()
    assert page.locator(".answer dd p").first.inner_text().startswith("moe: ")
    below = page.locator("figure").first.evaluate("element => element.getBoundingClientRect().top")
    assert page.locator(".answer").evaluate("element => element.getBoundingClientRect().bottom") < below


def test_a_dark_page_frames_its_figures_and_a_wide_table_shows_that_it_goes_on(planted: Path, open_page) -> None:
    dark = open_page(planted, dark=True)
    frame = dark.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert frame == "rgb(31, 33, 37)"
    for page in (dark, open_page(planted)):
        style = "getComputedStyle(document.querySelector('.scroll'))"
        assert page.evaluate(f"{style}.backgroundImage").count("linear-gradient") == 4
        assert page.evaluate(f"{style}.backgroundAttachment") == "local, local, scroll, scroll"
