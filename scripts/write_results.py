"""A suite's result as a page of the documentation: every number and picture of it comes from the runs' records.

    python scripts/write_results.py runs/quickstart docs/results/quickstart.md --readme README.md

writes the page, copies its figures beside it, and renews what stands between the two markers of the README.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from quickstart_criteria import outcomes

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.stored import analysed
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.answer import answers, too_short
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.drawings import drawings
from moe_emergence.report.evidence_tables import evidence_tables
from moe_emergence.report.lead import lead
from moe_emergence.report.numbers import count, plural, seconds
from moe_emergence.report.page import FIGURES
from moe_emergence.report.pictures import keep
from moe_emergence.report.scale_tables import scale_tables
from moe_emergence.report.shown import TextTable, text_table
from moe_emergence.report.summary import Summary, suite_summary

BEGIN, END = "<!-- results: made by scripts/write_results.py -->", "<!-- end of results -->"
EVIDENCE = (
    "oracle_gains",
    "onset",
    "specialists",
    "specificity",
    "token_split",
    "regret",
    "equivalence",
    "matches",
    "scores",
)
OMITTED = ("classes",)
"""Sections of figures that are left to the report: half a megabyte each."""
README_FIGURES = ("information", "load-map-no_lb")


def main() -> None:
    """Write the page and, where asked, the README's part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--readme", type=Path)
    given = parser.parse_args()
    suite = read_suite(given.runs)
    if not suite.runs:
        raise SystemExit(f"{given.runs}: no run has a result yet")
    tables = analysed(suite)
    drawn = [drawing for drawing in drawings(suite, tables) if drawing.section not in OMITTED]
    folder = given.page.parent / given.page.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for drawing in drawn:
        keep(drawing, given.runs / FIGURES)
        shutil.copy(given.runs / FIGURES / f"{drawing.name}.png", folder)
    given.page.write_text("\n".join(page(suite, tables, drawn, folder.name)), "utf-8")
    if given.readme is not None:
        part = readme_part(suite, tables, drawn, folder.relative_to(given.readme.parent))
        given.readme.write_text(renewed(given.readme.read_text("utf-8"), "\n".join(part)), "utf-8")


def page(suite: Suite, tables: Tables, drawn: list[Drawing], folder: str) -> Iterator[str]:
    """The whole page."""
    yield f"# {suite.question}"
    yield f"\n{provenance(suite, tables)} Written by `scripts/write_results.py`; nothing here is typed by hand.\n"
    if (warning := too_short(suite)) is not None:
        yield f"**{warning}**\n"
    yield from (f"{number}. {plain(sentence)}" for number, sentence in enumerate(lead(suite, tables), 1))
    yield ""
    yield from criteria(suite, tables)
    for answer in answers(suite, tables):
        yield f"**{answer.heading}.** {' '.join(map(plain, answer.sentences))}\n"
    if suite.note and suite.conclusive:
        yield f"**Recipe.** {plain(suite.note)}\n"
    summary = suite_summary(suite, tables)
    for table in summary.tables:
        yield from markdown(table)
    yield from evidence(suite, tables, summary)
    yield "## Figures\n"
    for drawing in drawn:
        title = plain(drawing.title)
        yield f"### {title}\n\n![{title}]({folder}/{drawing.name}.png)\n\n{plain(drawing.reading)}\n"
    yield "## How it was made\n"
    yield f"```sh\n{suite.command}\n```\n"
    yield "| | |\n|---|---|"
    yield from (f"| {plain(name)} | {plain(value)} |" for name, value in facts(suite))


def criteria(suite: Suite, tables: Tables) -> Iterator[str]:
    """What was expected beforehand, beside what came out."""
    if suite.name == "quickstart" and suite.conclusive:
        yield "| fixed before the runs | holds | found |\n|---|---|---|"
        for outcome in outcomes(suite, tables):
            yield f"| {plain(outcome.expected)} | {'yes' if outcome.holds else 'no'} | {plain(outcome.found)} |"
        yield ""


def evidence(suite: Suite, tables: Tables, summary: Summary) -> Iterator[str]:
    """Layer by layer in words, then the tables behind it, then every knock-out matrix."""
    yield "## Layer by layer\n"
    for said in summary.statements:
        yield f"- **{plain(said.arm)}, seed {said.seed}, layer {said.layer}.** {' '.join(map(plain, said.sentences))}"
    yield ""
    for made in (*scale_tables(suite, tables), *evidence_tables(suite, tables)):
        if made.name in EVIDENCE and made.rows:
            yield from markdown(text_table(made))
    yield "## Knock-out matrices\n"
    for table in summary.matrices:
        yield from markdown(table)


def readme_part(suite: Suite, tables: Tables, drawn: list[Drawing], folder: Path) -> Iterator[str]:
    """What came out in a few lines, with two pictures."""
    yield BEGIN
    if (warning := too_short(suite)) is not None:
        yield f"**{warning}**\n"
    box = answers(suite, tables)
    yield from (f"- {plain(sentence)}" for sentence in lead(suite, tables))
    yield from (f"- **{answer.heading}.** {plain(' '.join(answer.sentences))}" for answer in box if answer.alert)
    yield ""
    for drawing in drawn:
        if drawing.name in README_FIGURES:
            yield f"![{plain(drawing.title)}]({folder.as_posix()}/{drawing.name}.png)"
    yield f"\n{provenance(suite, tables)} Made by `{suite.command}`; all of it: `docs/results/quickstart.md`."
    yield END


def renewed(text: str, part: str) -> str:
    """`text` with what stands between the markers replaced."""
    before, marker, rest = text.partition(BEGIN)
    _, closing, after = rest.partition(END)
    if not marker or not closing:
        raise SystemExit(f"the README needs the lines {BEGIN!r} and {END!r}, between which the results go")
    return before + part + after


def provenance(suite: Suite, tables: Tables) -> str:
    """Which runs, on what."""
    taken = sum(row.training + row.recording for row in tables.costs)
    environment = suite.runs[0].manifest.environment
    device, threads = (
        environment.get("device", "an unknown device"),
        plural(int(environment.get("threads", 1)), "thread"),
    )
    runs, seeds = plural(len(suite.runs), "run"), plural(len(suite.seeds), "seed")
    steps = f"{count(suite.runs[0].last_step)} steps ({seeds} an arm)"
    return f"{runs} of {steps}, {seconds(taken)} of run time in all, on {device}, {threads} a run."


def facts(suite: Suite) -> Iterator[tuple[str, str]]:
    """Versions, machine and digests."""
    manifest = suite.runs[0].manifest
    yield "seeds", ", ".join(map(str, suite.seeds))
    yield "data digest", manifest.data.digest
    yield "corpus digest", manifest.data.corpus_digest
    yield "base digest", str(manifest.base.get("digest"))
    yield from ((name, str(value)) for name, value in (*manifest.software.items(), *manifest.environment.items()))


def markdown(table: TextTable) -> Iterator[str]:
    """A table of strings as Markdown."""
    yield f"### {plain(table.title)}\n"
    yield f"| {' | '.join(map(plain, table.columns))} |"
    yield f"|{'|'.join('---:' if numeric else '---' for numeric in table.numeric)}|"
    yield from (f"| {' | '.join(map(plain, row))} |" for row in table.rows)
    yield ""


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    main()
