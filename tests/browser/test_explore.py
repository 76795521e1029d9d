"""The page of `explore` in Chromium, with its own server: typed text, steps, layers, continuations, experts off."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page
from synthetic_suite import HOSTILE

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "explore"))  # tiny_run

from tiny_run import LAYERS, STEPS, write_run

from moe_emergence.explore.explorer import Explorer
from moe_emergence.explore.reading import Off, Reading, read_tokens
from moe_emergence.explore.run import Loaded, Models, open_run
from moe_emergence.explore.server import configuration, listening
from moe_emergence.report.visible import visible

BLANKS = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("explored") / "moe" / "seed-1")


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    opened = listening(0)
    server = uvicorn.Server(configuration(Explorer(open_run(run))))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield f"http://127.0.0.1:{opened.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    opened.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page as a phone in the dark shows it; at the end it may have asked its own server alone, without an error."""
    wrong: list[str] = []
    with browser.new_context(viewport={"width": 380, "height": 900}, color_scheme="dark") as context:
        opened = context.new_page()
        opened.on("request", lambda request: None if request.url.startswith(address) else wrong.append(request.url))
        opened.on("console", lambda message: wrong.append(f"console: {message.text}"))
        opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        opened.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        opened.goto(address)
        settled(opened)
        yield opened
        assert opened.evaluate("document.documentElement.scrollWidth") <= 380
    refusals = [line for line in wrong if "status of 400" in line]  # Chromium says so of every refused request
    assert [line for line in wrong if line not in refusals] == []


def settled(page: Page) -> str:
    """What the page says once it has shown its answer."""
    page.locator("#result[aria-busy=false]").wait_for(state="attached")
    return page.locator("#status").inner_text()


def type_and_read(page: Page, text: str) -> str:
    page.locator("#text").fill(text)
    page.locator("#text").press("Control+Enter")
    return settled(page)


def shown_experts(page: Page) -> list[int]:
    classes = page.locator("#tokens [data-index]").evaluate_all("spans => spans.map(span => span.classList[0])")
    return [int(name.removeprefix("x")) for name in classes]


def reading(run: Path, text: str, step: int = STEPS[-1], off: Off | None = None) -> tuple[Reading, Loaded]:
    loaded = Models(open_run(run)).at(step)
    return read_tokens(loaded.model, loaded.tokenizer.encode(text).ids, off), loaded


def first_choices(found: Reading, layer: int) -> list[int]:
    return [slots[0] for one in found.layers if one.layer == layer for slots in one.experts]


def test_typed_text_is_shown_as_the_model_routes_it_at_every_step_and_layer(run: Path, page: Page) -> None:
    text = "the whale and\nthe sea"
    said = type_and_read(page, text)
    found, _ = reading(run, text)
    assert said == f"Step 5: {len(found.ids)} tokens, mean loss {found.mean_loss:.4f} nats."
    assert "".join(page.locator("#tokens [data-index]").all_text_contents()).replace("⏎\n", "\n") == text
    assert shown_experts(page) == first_choices(found, LAYERS[-1])
    page.locator(f"input[name=layer][value='{LAYERS[0]}']").check()
    assert shown_experts(page) == first_choices(found, LAYERS[0]) != first_choices(found, LAYERS[-1])
    page.locator("#step").focus()
    page.keyboard.press("ArrowLeft")
    assert settled(page).startswith("Step 2: ")
    earlier, _ = reading(run, text, step=2)
    assert page.locator("#step-shown").inner_text() == "2"
    assert shown_experts(page) == first_choices(earlier, LAYERS[0]) != first_choices(found, LAYERS[0])
    page.locator("#tokens [data-index]").nth(2).hover()
    said = page.locator(".token-readout").inner_text()
    assert f"{earlier.losses[2]:.2f} nats" in said
    assert f"expert {first_choices(earlier, LAYERS[0])[2]}" in said


def test_a_continuation_is_marked_and_listed(run: Path, page: Page) -> None:
    type_and_read(page, "the whale")
    page.locator("#new").fill("6")
    page.locator("#continue").click()
    page.get_by_text("written by the model, underlined").wait_for()
    prompt = len(reading(run, "the whale")[0].ids)
    marks = page.locator("#tokens [data-index]").evaluate_all("spans => spans.map(span => span.classList[1])")
    assert marks == ["mark-prefill"] * prompt + ["mark-decode"] * 6
    assert "prompt (prefill)" in page.locator("#tokens .token-readout").inner_text()
    page.locator("#listed summary").click()
    listed = page.locator("#list tbody tr")
    listed.last.wait_for()
    assert listed.count() == prompt + 6
    assert listed.last.inner_text().endswith("decode")


def test_an_expert_switched_off_shows_what_that_changes(run: Path, page: Page) -> None:
    text = "the whale and the sea"
    type_and_read(page, text)
    before, loaded = reading(run, text)
    layer = LAYERS[-1]
    expert = first_choices(before, layer)[-1]
    page.locator(f"#experts [data-expert='{expert}']").press("Enter")
    page.locator("#effect").wait_for()
    after, _ = reading(run, text, off={layer: {expert}})
    assert shown_experts(page) == first_choices(after, layer)
    said = page.locator("#effect-said").inner_text()
    change = f"{after.mean_loss - before.mean_loss:+.4f}".replace("-", "−")
    assert said.startswith(
        f"Without expert {expert} of layer {layer}: mean loss {before.mean_loss:.4f} → {after.mean_loss:.4f} nats "
        f"({change}, over {len(before.losses)} tokens)."
    )
    rows = page.locator("#following tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")  # fmt: skip # noqa: E501
    for column, found in ((1, before), (3, after)):
        texts = [visible(loaded.tokenizer.decode([token])).translate(BLANKS) for token, _ in found.following]
        assert [row[column] for row in rows] == texts
        assert [row[column + 1] for row in rows] == [f"{100 * share:.1f} %" for _, share in found.following]
    pressed = page.locator(f"#experts [data-expert='{expert}']")
    assert pressed.get_attribute("aria-pressed") == "true"
    assert pressed.evaluate("button => button === document.activeElement")  # where the keyboard was
    page.locator("#all-on").click()
    page.locator("#effect").wait_for(state="hidden")
    assert shown_experts(page) == first_choices(before, layer)


def test_hostile_text_is_shown_verbatim_and_runs_nothing(page: Page) -> None:
    for text in HOSTILE:
        type_and_read(page, text)
        shown = "".join(page.locator("#tokens [data-index]").all_text_contents())
        assert shown.replace("␣", " ").replace("◌", "") == visible(text)  # ◌ is a part of a character
    page.locator("#listed summary").click()
    assert page.locator("#result script, #result img").count() == 0


def test_mistakes_are_said_on_the_page(page: Page) -> None:
    assert type_and_read(page, "") == "there is no text: type some first"
    assert page.locator("#status.alert").count() == 1
    assert "is NUL: this is binary data" in type_and_read(page, "a\0b")
    page.locator("#text").evaluate("area => { area.value = 'a'.repeat(1_000_001); }")
    page.locator("#read").click()
    assert settled(page).startswith("the text is too long: 1,000,0")
    page.locator("#new").fill("500")
    page.locator("#text").fill("the whale")
    page.locator("#continue").click()
    page.get_by_text("500 new ones are more than the model's context of 96").wait_for()
    page.locator("#new").fill("")
    page.locator("#continue").click()
    page.get_by_text("the number of new tokens is empty").wait_for()
    assert type_and_read(page, "the whale").startswith("Step 5: ")
    assert page.locator("#status.alert").count() == 0


def test_after_a_refusal_the_controls_are_those_of_the_answer_shown(page: Page) -> None:
    said = type_and_read(page, "the whale")
    page.route("**/read", lambda route: route.fulfill(status=400, json={"error": "no such step"}))
    page.locator("#step").evaluate("range => { range.value = '0'; range.dispatchEvent(new Event('input')); }")
    page.locator("#status.alert").wait_for()
    assert settled(page) == "no such step"
    assert page.locator("#step-shown").inner_text() == str(STEPS[-1])
    page.locator("#experts [data-expert]").first.click()
    page.locator("#experts [aria-pressed=true]").wait_for(state="detached")
    page.locator(f"input[name=layer][value='{LAYERS[0]}']").check()
    assert settled(page) == "no such step"
    assert page.locator("#all-on").count() == 0
    page.unroute("**/read")
    assert type_and_read(page, "the whale") == said


def test_the_last_experts_of_a_layer_cannot_be_switched_off(page: Page) -> None:
    buttons = page.locator("#experts [data-expert]")
    facts = page.evaluate("JSON.parse(document.getElementById('facts').textContent)")
    for expert in range(facts["experts"] - facts["top_k"]):
        buttons.nth(expert).click()
        settled(page)
    pressed = page.locator("#experts [aria-pressed=true]").count()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    buttons.last.click()
    assert "switch another on first" in settled(page)
    assert page.locator("#experts [aria-pressed=true]").count() == pressed
    assert asked == []
    page.locator(f"input[name=layer][value='{LAYERS[0]}']").check()
    assert settled(page).startswith("Step 5: ")  # it was of the click alone
    assert page.locator("#status.alert").count() == 0


def test_typed_text_is_there_again_after_another_address(page: Page, address: str) -> None:
    said = type_and_read(page, "the whale")
    page.goto("about:blank")
    page.goto(address)
    assert settled(page) == said
    assert page.locator("#text").input_value() == "the whale"
    assert "not known: what the report calls a keyword is a word" in page.locator("#result").inner_text()
