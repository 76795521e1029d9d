"""Sixty hostile strings in every field that shows text: nothing runs, and all of it is shown as it is."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_suite
from hostile_strings import HOSTILE_60, SURROGATE
from planted_measures import planted_tables, without_a_picture
from playwright.sync_api import Page
from synthetic_suite import PlantedArm, PlantedSuite, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.config import MoEConfig
from moe_emergence.report.page import write_report
from moe_emergence.report.visible import visible

EVERYTHING = " ¦ ".join((*HOSTILE_60, SURROGATE))
TOKENS = 80
PUT_ON = {"event": "skipped", "step": 1, "cause": EVERYTHING}
LONG = 200
SHOWN = """() => {
    const body = document.body.cloneNode(true);
    body.querySelectorAll("script").forEach(script => script.remove());
    const texts = [body.textContent];
    const collect = value => {
        if (typeof value === "string") texts.push(value);
        else if (value && typeof value === "object") {
            if (Array.isArray(value) && value.every(one => typeof one === "string")) texts.push(value.join(""));
            for (const [key, item] of Object.entries(value)) { texts.push(key); collect(item); }
        }
    };
    const all = document.querySelectorAll('script[type="application/json"]');
    for (const data of all) collect(JSON.parse(data.textContent));
    return texts.join("\\n"); }"""
USED = """async () => {
    document.querySelectorAll("details").forEach(details => { details.open = true; });
    for (const select of document.querySelectorAll("select"))
        for (const option of [...select.options].slice(0, 70)) {
            select.value = option.value;
            select.dispatchEvent(new Event("change", {bubbles: true}));
        }
    for (const range of document.querySelectorAll("input[type=range]"))
        for (const value of [range.max, range.min]) {
            range.value = value;
            range.dispatchEvent(new Event("input", {bubbles: true}));
        }
    for (const element of document.querySelectorAll("main span, main button, main a, main summary"))
        for (const kind of ["pointerover", "mouseover", "mouseenter", "focus"]) element.dispatchEvent(new Event(kind));
    await new Promise(done => setTimeout(done, 100)); }"""
MADE = """() => {
    const all = (selector, take) => [...document.querySelectorAll(selector)].flatMap(take);
    return {
        canary: window.canary ?? 0,
        elements: all("iframe, object, embed, base, form, svg script, math, template, textarea", e => e.localName),
        metas: all("meta[http-equiv]", e => e.httpEquiv),
        links: all("a[href], link[href]", e => e.getAttribute("href"))
            .filter(href => !/^(#|data:,|tables\\/|figures\\/)/.test(href)),
        handlers: all("*", e => [...e.attributes].map(a => a.name)).filter(name => /^on/i.test(name)),
        styles: all("[style]", e => e.getAttribute("style")).filter(style => /url|expression/.test(style)),
        polluted: Object.keys(Object.prototype) }; }"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile") / HOSTILE_60[3].replace("/", "∕")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_suite, "DOCUMENTS", 2)
        patch.setattr("moe_emergence.report.page.keep", without_a_picture)
        write_suite(folder, _suite())
        _rewrite(folder / "a/seed-42/manifest.json")
        metrics = folder / "a/seed-42/metrics.jsonl"
        metrics.write_text(metrics.read_text("utf-8").replace('"finished"', json.dumps(EVERYTHING)), "utf-8")
        suite = read_suite(folder)
        yield write_report(suite, planted_tables(suite))


def _suite() -> PlantedSuite:
    names = [text[:LONG] for text in HOSTILE_60]
    changes = [{"name": EVERYTHING, "then": EVERYTHING, "now": [EVERYTHING]}]
    arm = PlantedArm(
        name="a",
        moe=MoEConfig(num_experts=4),
        shares={0: np.full((len(names), 4), 0.25)},
        question=EVERYTHING,
        changes={text: [text, EVERYTHING] for text in HOSTILE_60},
        baseline=EVERYTHING,
        events=(PUT_ON,),
        inexact=({"step": 1, "changes": changes},),
    )
    return PlantedSuite(
        arms=(arm,),
        domains=names,
        texts=dict(zip(names, HOSTILE_60, strict=True)),
        sources=[
            {"domain": text, "source": text, "licence": text, "documents": 1} for text in (*HOSTILE_60, SURROGATE)
        ],
        steps=2,
        looks=(0, 2),
        name=EVERYTHING,
        question=EVERYTHING,
        command=EVERYTHING,
        note=EVERYTHING,
        conclusive=False,
    )


def _rewrite(manifest: Path) -> None:
    values: dict[str, Any] = json.loads(manifest.read_text("utf-8"))
    values["package"] = values["git_commit"] = values["data"]["corpus"] = EVERYTHING
    values["environment"] |= {text: text for text in (*HOSTILE_60, SURROGATE)}
    values["base"] |= {"name": EVERYTHING}
    values["data"]["record"]["cleaning"]["applied"] = {text: text for text in HOSTILE_60}
    manifest.write_text(json.dumps(values), "utf-8")


def cells(page: Page, table: str) -> list[list[str]]:
    return page.locator(f"[data-table={table}]").first.evaluate(
        "table => [...table.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )


def test_nothing_runs_and_everything_is_shown(hostile: Path, open_page) -> None:
    page = open_page(hostile)  # at its end: no dialog, no console line, no violated policy, no request
    made = page.evaluate(MADE)
    page.evaluate(USED)
    page.keyboard.press("Tab")
    harmless = {key: [] for key in ("elements", "links", "handlers", "styles", "polluted")}
    assert page.evaluate(MADE) == made == harmless | {"canary": 0, "metas": ["Content-Security-Policy"]}
    everything = visible(EVERYTHING)
    assert page.locator("h1").text_content() == everything
    assert page.locator(".arm p").first.text_content() == everything
    assert page.locator("pre").last.text_content() == everything
    assert cells(page, "sources") == [[visible(text)] * 3 + ["1"] for text in (*HOSTILE_60, SURROGATE)]
    shown = page.evaluate(SHOWN)
    for text in HOSTILE_60:
        assert visible(text) in shown, text
        assert visible(beginning(text)) in shown, f"as tokens: {text}"
    alerts = " ".join(page.locator("dd.alert").all_text_contents())
    for event in ("no update at step 1 (", "because of ", "with other conditions ("):
        assert event + everything in alerts
    assert not any(
        unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
        for character in shown
        if character not in "\n\t\u200c\u200d"
    )


def beginning(text: str) -> str:
    """What the probe has of it: whole characters of its first bytes."""
    return text.encode("utf-8")[:TOKENS].decode("utf-8", errors="ignore")


def test_there_are_sixty_different_strings() -> None:
    assert len(set(HOSTILE_60)) == 60
    assert len({text[:LONG] for text in HOSTILE_60}) == 60


def test_a_page_that_trusted_them_would_be_found_out(tmp_path: Path, browser) -> None:
    path = tmp_path / "trusting.html"
    path.write_text(f"<!doctype html><body>{HOSTILE_60[0]}{HOSTILE_60[3]}", "utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_timeout(50)
    made = page.evaluate(MADE)
    page.close()
    assert (made["canary"], made["handlers"]) == (1, ["onerror"])
