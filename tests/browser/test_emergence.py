"""The Emergence section in Chromium: every control moves it, and its numbers are the tables' and the traces'."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_measures import planted_tables, undrawn
from playwright.sync_api import Browser, Page, expect
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import MissingRun, Run, Suite
from moe_emergence.analysis.shares import share_rows
from moe_emergence.analysis.specialisation import information_rows
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.traces import read_trace
from moe_emergence.report.page import write_report

STEPS = (0, 5, 30)
MEASURE = """() => {
    const range = document.getElementById("emergence-step"), taken = [];
    for (let turn = 0; turn < 9; turn++) {
        const before = performance.now();
        range.value = String(turn % 3);
        range.dispatchEvent(new Event("input"));
        document.body.offsetHeight;
        taken.push(performance.now() - before);
    }
    return taken.sort((one, other) => one - other)[4]; }"""
CONTRAST = """element => {
    const channel = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(v => channel(v / 255));
                                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const style = getComputedStyle(element);
    const pair = [luminance(style.color), luminance(style.backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05); }"""
CELLS = """panel => [...panel.querySelectorAll("tbody tr")].map(row =>
    [...row.querySelectorAll("data")].map(data => [data.value, data.textContent]))"""
GROUNDS = "spans => spans.map(span => getComputedStyle(span).backgroundColor).join()"


class Report:
    """A planted report, with what it was made of."""

    def __init__(self, folder: Path, seeds: tuple[int, ...] = (42,), without: tuple[str, int] | None = None) -> None:
        planted = quickstart_like(steps=30, looks=STEPS, seeds=seeds)
        self.suite: Suite = read_suite(write_suite(folder, replace(planted, arms=planted.arms[:4])))
        last = {(run.arm, run.seed): read_trace(run, run.last_step) for run in self.suite.runs}
        self.tables: Tables = replace(
            planted_tables(self.suite),
            shares=share_rows(self.suite, last),
            information=information_rows(self.suite),
        )
        kept = tuple(run for run in self.suite.runs if (run.arm, run.seed) != without)
        self.path = written(replace(self.suite, runs=kept), self.tables)

    def run(self, arm: str) -> Run:
        return next(run for run in self.suite.runs if run.arm == arm)


def written(suite: Suite, tables: Tables) -> Path:
    with undrawn():
        return write_report(suite, tables)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(tmp_path_factory.mktemp("emergence"))


def scrub(page: Page, place: int) -> None:
    page.locator("#emergence-step").evaluate(
        "(range, place) => { range.value = place; range.dispatchEvent(new Event('input')); }", str(place)
    )


def measure(page: Page, panel: str, name: str) -> Any:
    return page.locator(f"#emergence-{panel} data[data-measure={name}]")


def shown_arms(page: Page) -> list[str]:
    chosen = "selects => selects.map(select => select.selectedOptions[0].textContent)"
    return page.locator("#emergence-arm, #emergence-versus").evaluate_all(chosen)


def test_scrubbing_moves_text_table_measures_and_the_line_and_each_number_is_the_tables(
    report: Report, open_page
) -> None:
    page = open_page(report.path)
    assert page.locator("#emergence-at").text_content() == "step 30"
    assert shown_arms(page) == ["moe", "no_lb"]
    page.locator("#emergence-curves").scroll_into_view_if_needed()
    page.wait_for_selector(".curves-rule")
    seen = set()
    for place, step in ((0, 0), (2, 30)):
        scrub(page, place)
        for panel, arm in (("first", "moe"), ("second", "no_lb")):
            row = next(
                row
                for row in report.tables.information
                if (row.arm, row.step, row.layer, row.counted) == (arm, step, 3, "first choice")
            )
            found = measure(page, panel, "information")
            assert float(found.get_attribute("value")) == row.corrected / row.maximum
            assert found.text_content().startswith(f"{100 * row.corrected / row.maximum:.1f}")
            seen.add(
                (
                    page.locator(f"#emergence-{panel} .tokens span").evaluate_all(GROUNDS),
                    str(page.locator(f"#emergence-{panel}").evaluate(CELLS)),
                    measure(page, panel, "drift").text_content(),
                    page.locator(".curves-rule").evaluate("rule => rule.style.left"),
                )
            )
    assert all(len({entry[part] for entry in seen}) == number for part, number in enumerate((4, 4, 2, 2)))
    for panel, arm in (("first", "moe"), ("second", "no_lb")):
        cells = page.locator(f"#emergence-{panel}").evaluate(CELLS)
        rows = [row for row in report.tables.shares if (row.arm, row.layer) == (arm, 3)]
        assert len(rows) == 24
        for row in rows:
            exact, text = cells[row.expert][report.suite.domains.index(row.domain)]
            assert float(exact) == pytest.approx(row.share, abs=1e-12)
            assert float(text) == pytest.approx(100 * row.share, abs=0.05 + 1e-9)
        loads = [float(cells[expert][3][0]) for expert in range(8)]
        assert sum(loads) == pytest.approx(1)


def test_pointing_at_a_token_says_in_both_panels_what_the_traces_hold(report: Report, open_page) -> None:
    page = open_page(report.path, width=1280)
    token = page.locator("#emergence-second .tokens span").nth(3)
    token.scroll_into_view_if_needed()
    token.hover()
    for panel, arm in (("first", "moe"), ("second", "no_lb")):
        trace = read_trace(report.run(arm), 30)
        said = page.locator(f"#emergence-{panel} .token-readout").inner_text()
        assert f"expert {trace.layers[1].experts[3, 0]}" in said
        assert f"{trace.layers[1].margin[3]:.2f} of probability" in said
        assert "weight" not in said  # always 1 where a token has one expert
        assert f"{trace.layers[1].entropy[3]:.2f} nats" in said
        assert f"{trace.loss[3]:.2f} nats" in said
        assert "keyword" in said
    page.mouse.move(0, 0)
    assert "Point at a token" in page.locator("#emergence-second .token-readout").inner_text()


def test_every_control_works_from_the_keyboard(report: Report, open_page) -> None:
    page = open_page(report.path)
    page.locator("#emergence-step").focus()
    page.keyboard.press("Home")
    assert page.locator("#emergence-at").text_content() == "step 0"
    page.keyboard.press("ArrowRight")
    assert page.locator("#emergence-at").text_content() == "step 5"
    assert page.locator("#emergence-step").get_attribute("aria-valuetext") == "step 5"
    page.locator("#emergence-play").focus()
    page.keyboard.press("Space")
    assert page.locator("#emergence-play").text_content() == "Pause"
    expect(page.locator("#emergence-at")).to_have_text("step 30")
    expect(page.locator("#emergence-play")).to_have_text("Play")
    page.locator("#emergence-first .tokens [tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.index") == "2"
    assert page.locator("#emergence-first .tokens [tabindex='0']").count() == 1
    scrub(page, 1)  # what was chosen stays chosen, and says what the other step holds
    for panel, arm in (("first", "moe"), ("second", "no_lb")):
        loss = read_trace(report.run(arm), 5).loss[2]
        assert f"{loss:.2f} nats" in page.locator(f"#emergence-{panel} .token-readout").inner_text()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.index") == "79"


def test_layer_arm_and_text_are_chosen_and_the_address_keeps_them(report: Report, open_page) -> None:
    page = open_page(report.path)
    page.locator("#emergence-layer").select_option(label="layer 2")
    page.locator("#emergence-versus").select_option(label="top2")
    page.locator("#emergence-document").select_option(label="prose: prose/1")
    scrub(page, 1)
    address = page.evaluate("location.hash")
    assert address == "#step=5&layer=2&arm=moe&versus=top2&document=prose%2F1"
    trace = read_trace(report.run("top2"), 5)
    page.locator("#emergence-second .tokens [tabindex='0']").focus()
    first = int(np.flatnonzero(trace.document == 25)[0])
    said = page.locator("#emergence-second .token-readout").inner_text()
    assert all(f"expert {expert} (weight 0.50)" in said for expert in trace.layers[0].experts[first])
    state = "[...document.querySelectorAll('#emergence-second data')].map(data => data.value).join()"
    kept = page.evaluate(state)
    page = open_page(report.path, fragment=address)
    assert page.evaluate(state) == kept
    assert shown_arms(page) == ["moe", "top2"]
    assert page.locator("#emergence").evaluate("e => Math.abs(e.getBoundingClientRect().top) < 400")
    page.evaluate("location.hash = '#step=999999&layer=-4&arm=%3Cimg%3E&versus=moe&document=none&more=1'")
    expect(page.locator("#emergence-at")).to_have_text("step 30")
    assert shown_arms(page) == ["moe", "moe"]
    assert page.locator("#emergence-layer").evaluate("e => e.selectedOptions[0].textContent") == "layer 2"
    shown = "#step=30&layer=2&arm=moe&versus=moe&document=prose%2F1"
    assert page.evaluate("location.hash") == shown
    page.evaluate("scrollTo(0, 0); location.hash = '#step=x&layer=%ZZ'")
    page.wait_for_function("shown => location.hash === shown", arg=shown)
    assert page.locator("#emergence-at").text_content() == "step 30"
    assert page.locator("#emergence").evaluate("e => Math.abs(e.getBoundingClientRect().top) < 400")
    page = open_page(report.path, fragment="#layer=none")
    assert page.evaluate("location.hash").startswith("#step=30&layer=3&arm=moe")
    assert page.locator("#emergence").evaluate("e => Math.abs(e.getBoundingClientRect().top) < 400")


@pytest.mark.parametrize("dark", [False, True])
def test_tokens_and_cells_are_legible_and_a_phone_shows_all(report: Report, open_page, dark: bool) -> None:
    page = open_page(report.path, dark=dark, width=380)
    for selector in (".tokens span", "td.share", ".emergence-shares .swatch"):
        everything = page.locator(f"#emergence-view {selector}")
        assert min(everything.evaluate_all(f"elements => elements.map({CONTRAST})")) >= 4.5, selector
    page.locator("#emergence-curves").scroll_into_view_if_needed()
    page.wait_for_selector("#emergence-curves .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    drawn = page.locator("#emergence-curves .legendtext").all_text_contents()
    assert drawn == ["permuted documents", "untrained gates", "moe", "no_lb", "top2"]
    assert page.locator("#emergence-curves .modebar a").count() == 0


def test_paler_where_the_router_is_less_sure_and_the_theme_may_change(report: Report, open_page) -> None:
    page = open_page(report.path)
    page.locator("#emergence-versus").select_option(label="top2")  # each of two experts has half the weight
    distance = """(spans, [place]) => spans.map(span => {
        const [ground, own] = [getComputedStyle(span).backgroundColor, span.className]
        const swatch = document.querySelector(`#emergence-second .swatch.${own}`);
        return ground === getComputedStyle(swatch).backgroundColor; })"""
    margins = read_trace(report.run("moe"), 30).layers[1].margin[:80]
    strength = """spans => spans.map(span => {
        const channels = text => text.match(/[\\d.]+/g).map(Number);
        const swatch = document.querySelector(`#emergence-first .swatch.${span.className}`);
        const [ground, own] = [span, swatch].map(one => channels(getComputedStyle(one).backgroundColor));
        return (255 * 3 - ground[0] - ground[1] - ground[2]) / (255 * 3 - own[0] - own[1] - own[2]); })"""
    shown = page.locator("#emergence-first .tokens span").evaluate_all(strength)
    assert np.ptp(margins) > 0.05
    np.testing.assert_allclose(shown, 0.3 + 0.7 * margins, atol=0.03)
    assert not any(page.locator("#emergence-second .tokens span").evaluate_all(distance, [0]))
    before = page.locator("#emergence-second .tokens span").evaluate_all(GROUNDS)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(50)
    assert page.locator("#emergence-second .tokens span").evaluate_all(GROUNDS) != before


HEIGHTS = """() => {
    const range = document.getElementById("emergence-step"), seen = [];
    for (const place of [0, 1, 2]) {
        range.value = String(place);
        range.dispatchEvent(new Event("input"));
        seen.push([...document.querySelectorAll(".panel-measures")].map(list => list.offsetHeight).join());
    }
    return new Set(seen).size; }"""


@pytest.mark.parametrize("width", [320, 380, 1280])
def test_nothing_jumps_as_the_scrubber_moves(report: Report, open_page, width: int) -> None:
    page = open_page(report.path, width=width)
    assert page.evaluate(HEIGHTS) == 1
    scrub(page, 1)
    assert measure(page, "first", "fresh").text_content() == "only at the first and last step"


def test_an_arm_is_not_beside_itself_unless_asked_to_be(report: Report, open_page) -> None:
    page = open_page(report.path, fragment="#step=5&layer=2&arm=no_lb")
    assert shown_arms(page) == ["no_lb", "moe"]
    page.evaluate("location.hash = '#arm=moe'")
    page.wait_for_function("location.hash.includes('arm=moe&')")
    assert shown_arms(page) == ["moe", "no_lb"]
    page.evaluate("location.hash = '#arm=top2'")
    page.wait_for_function("location.hash.includes('arm=top2&')")
    assert shown_arms(page) == ["top2", "no_lb"]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(tmp_path_factory.mktemp("seeds"), seeds=(42, 43), without=("no_lb", 43))


def test_a_seed_is_chosen_and_panels_curves_heading_and_address_are_of_it(seeds: Report, open_page) -> None:
    page = open_page(seeds.path)
    assert page.locator("#emergence-seed").is_visible()
    assert page.evaluate("location.hash") == "" or "seed=42" in page.evaluate("location.hash")
    page.locator("#emergence-seed").select_option(label="43")
    page.locator("#emergence-layer").select_option(label="layer 2")
    assert page.evaluate("location.hash").startswith("#step=30&layer=2&seed=43&arm=moe&versus=no_lb&")
    row = next(
        row
        for row in seeds.tables.information
        if (row.arm, row.seed, row.step, row.layer, row.counted) == ("moe", 43, 30, 2, "first choice")
    )
    assert float(measure(page, "first", "information").get_attribute("value")) == row.corrected / row.maximum
    assert page.locator("#emergence-first .panel-note").text_content() == ""
    assert page.locator("#emergence-second .panel-note").text_content() == "no run of seed 43; this is seed 42"
    finding = page.locator("#emergence-finding")
    assert finding.text_content().startswith("Layer 2, seed 43: most domain information at the end: ")
    page.locator("#emergence-curves").scroll_into_view_if_needed()
    page.wait_for_selector(".curves-rule")
    headings = "#emergence-curves .annotation-text"
    assert all(text.startswith("layer 2, seed 43: ") for text in page.locator(headings).all_text_contents())
    assert "no_lb" not in page.locator("#emergence-curves .legendtext").all_text_contents()
    page = open_page(seeds.path, fragment="#layer=3&seed=43")
    assert finding_of(page).startswith("Layer 3, seed 43: ")
    page.evaluate("location.hash = '#seed=7'")
    page.wait_for_function("location.hash.includes('layer=3')")
    assert finding_of(page).startswith("Layer 3, seed 43: ")


def finding_of(page: Page) -> str:
    return page.locator("#emergence-finding").text_content()


def test_of_one_seed_none_is_named_and_the_heading_follows_the_layer(report: Report, open_page) -> None:
    page = open_page(report.path)
    assert not page.locator("#emergence-seed").is_visible()
    assert finding_of(page).startswith("Layer 3: most domain information at the end: ")
    page.locator("#emergence-layer").select_option(label="layer 2")
    assert finding_of(page).startswith("Layer 2: most domain information at the end: ")
    assert "seed" not in finding_of(page) + page.evaluate("location.hash")


def test_what_the_curves_say_of_a_point_names_its_step(report: Report, open_page) -> None:
    page = open_page(report.path)
    page.locator("#emergence-curves").scroll_into_view_if_needed()
    page.wait_for_selector(".curves-rule")
    box = page.locator("#emergence-curves .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#emergence-curves .hoverlayer .legendtitletext")).to_have_text("step 5")


def test_a_step_of_the_scrubber_is_quick(report: Report, open_page) -> None:
    page = open_page(report.path)
    ready = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    page.locator("#emergence-curves").scroll_into_view_if_needed()
    page.wait_for_selector(".curves-rule")
    taken = page.evaluate(MEASURE)
    print(f"interactive after {ready:.0f} ms; a step of the scrubber takes {taken:.1f} ms")
    assert ready < 10_000  # goals: 2 s and 100 ms on an idle machine; here others may be at work
    assert taken < 1_000


@pytest.fixture
def scriptless(browser: Browser, report: Report) -> Iterator[Page]:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.path.as_uri())
    yield page
    context.close()


def test_without_scripts_the_page_says_so(scriptless: Page) -> None:
    assert "needs JavaScript" in scriptless.locator("noscript").inner_text()
    assert not scriptless.locator("#emergence-view").is_visible()


def test_one_arm_at_one_step_still_going(report: Report, tmp_path: Path, open_page) -> None:
    folder = tmp_path / "one"
    going = replace(report.run("moe"), last_step=0)
    missing = tuple(MissingRun(arm=arm.name, seed=42, reason="unfinished") for arm in report.suite.arms)
    suite = replace(report.suite, folder=folder, runs=(), missing=missing, going=(going,))
    page = open_page(written(suite, planted_tables(suite)))
    assert page.locator("#emergence-at").text_content() == "step 0"
    assert page.locator("#emergence-first .panel-note").text_content() == "still going, last trace at step 0"
    assert not page.locator("#emergence-second").is_visible()
    assert (
        page.locator("#emergence-step, #emergence-play").evaluate_all("all => all.map(e => e.disabled)") == [True] * 2
    )
    assert float(measure(page, "first", "information").get_attribute("value")) >= 0
    page.locator("#emergence-curves").scroll_into_view_if_needed()
    page.wait_for_selector(".curves-rule")
