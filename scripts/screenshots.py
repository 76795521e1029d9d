"""Pictures of a report's sections for the README, with Chromium: python scripts/screenshots.py runs/quickstart

Writes docs/images/emergence.png, specialists.png and collapse.png, each smaller than 300 KB.
"""

import argparse
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SECTIONS = {"emergence": "emergence", "specialists": "cards", "collapse": "collapse"}
"""Name of a picture to the id of the heading that it begins with."""
WIDTH, MOST, BYTES = 1280, 1000, 300_000
"""CSS pixels of the window, CSS pixels of a picture's height at most, and the size that it must stay below."""
COLOURS = (256, 128, 64, 32, 16)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
BOX = """([name, most]) => {
    const heading = document.getElementById(name);
    if (!heading) return null;
    for (const details of document.querySelectorAll("details:has(article)")) details.open = true;
    const top = heading.getBoundingClientRect().top + scrollY;
    const below = [...document.querySelectorAll("h2")].map(next => next.getBoundingClientRect().top + scrollY);
    const end = below.find(place => place > top) ?? document.documentElement.scrollHeight;
    const main = document.querySelector("main").getBoundingClientRect();
    return {x: main.left, y: top, width: main.width, height: Math.max(1, Math.min(end - top, most))}; }"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures and say where they are."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("suite", type=Path, help="a suite's folder with its report.html, or that file")
    given.add_argument("--out", type=Path, default=Path("docs/images"))
    options = given.parse_args(arguments)
    report = options.suite / "report.html" if options.suite.is_dir() else options.suite
    if not report.is_file():
        raise SystemExit(f"there is no {report}: moe-emergence report {options.suite}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(report).items():
        path = options.out / f"{name}.png"
        path.write_bytes(picture)
        print(f"{path}: {len(picture):,} bytes")


def pictures(report: Path) -> dict[str, bytes]:
    """PNG of each of `SECTIONS`, light, with the network off."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium here; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        context = browser.new_context(
            offline=True, viewport={"width": WIDTH, "height": 900}, color_scheme="light", reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(report.resolve().as_uri())
        taken = {name: _picture(page, heading) for name, heading in SECTIONS.items()}
        browser.close()
    return taken


def _picture(page: Page, name: str) -> bytes:
    """From the heading to the next section, or to `MOST` pixels."""
    box = page.evaluate(BOX, [name, MOST])
    if box is None:
        raise SystemExit(f"the report has no section {name!r}: moe-emergence report writes it anew")
    return reduced(page.screenshot(clip=box, full_page=True, animations="disabled"))


def reduced(picture: bytes) -> bytes:
    """The picture with as many colours as leave it below `BYTES`."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        file = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() < BYTES:
            return file.getvalue()
    raise SystemExit(f"a picture of {image.size} cannot be made smaller than {BYTES:,} bytes")


if __name__ == "__main__":
    main()
