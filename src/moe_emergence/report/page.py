"""The suite's page: one file that opens from disk, asks the network for nothing and runs its own scripts alone."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from moe_emergence.analysis.files import replace_file
from moe_emergence.analysis.losses import plain, readable_changes
from moe_emergence.analysis.measures import Progress, silent
from moe_emergence.analysis.reading import read_given
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.stored import analysed
from moe_emergence.analysis.tables import Tables, csv_text, write_csv
from moe_emergence.config import to_dict
from moe_emergence.report import numbers
from moe_emergence.report.answer import answers, too_short
from moe_emergence.report.arms_compared import arms_compared
from moe_emergence.report.causal_tests import causal_tests
from moe_emergence.report.collapse import collapse_sentences
from moe_emergence.report.drawings import drawings
from moe_emergence.report.emergence import emergence
from moe_emergence.report.evidence_tables import evidence_tables
from moe_emergence.report.excerpts import WINDOW
from moe_emergence.report.findings import audit_finding
from moe_emergence.report.going import going_csvs
from moe_emergence.report.lead import lead
from moe_emergence.report.page_tables import page_tables
from moe_emergence.report.passages import style_rules
from moe_emergence.report.pictures import Picture, keep
from moe_emergence.report.scripts import Script, own_script, plotly_script
from moe_emergence.report.specialists import OWN_TOKENS, specialists
from moe_emergence.report.statements import statements
from moe_emergence.report.visible import visible
from moe_emergence.training.neighbour import FRESH_GATES

REPORT, FIGURES, TABLES = "report.html", "figures", "tables"
DRAWING = "drawing figures"
"""The stage that progress hears of."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def report_of(*folders: Path, out: Path | None = None, progress: Progress = silent, workers: int = 1) -> Path:
    """`write_report` of a suite or of runs, from their records (`analysis.reading.read_given`); `progress` is told of
    what has to be measured first, by `workers` processes, then of the figures.

    Raises:
        AnalysisError: a record is missing or torn (names file and key), or the folder cannot be written.
    """
    suite = read_given(folders, out)
    return write_report(suite, analysed(suite, progress, workers=workers), progress)


def write_report(suite: Suite, tables: Tables, progress: Progress = silent) -> Path:
    """`report.html` in the suite's folder, beside it `figures/*.png|svg` and `tables/*.csv`; earlier ones are replaced.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    write_csv(tables, suite.folder / TABLES)
    for name, text in _beside(suite, tables).items():
        replace_file(suite.folder / TABLES / f"{name}.csv", text)
    page = _environment().get_template("report.html.j2").render(_context(suite, tables, progress))
    replace_file(suite.folder / REPORT, page)
    return suite.folder / REPORT


def _beside(suite: Suite, tables: Tables) -> dict[str, str]:
    """Name to text of the CSV files that are no tables of the analysis."""
    return {"arms_compared": csv_text(arms_compared(suite, tables)), **going_csvs(suite)}


def policy(scripts: Sequence[Script]) -> str:
    """A content security policy under which these scripts run and no other."""
    return CONTENT_SECURITY_POLICY.format(scripts=" ".join(script.hash for script in scripts) or "'none'")


def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("moe_emergence.report", folder) for folder in ("templates", "static")]),
        autoescape=select_autoescape(enabled_extensions=("j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["readable"] = _readable
    environment.tests["group"] = lambda value: isinstance(value, Mapping)
    return environment


def _shown(value: Any) -> Any:
    """Text with what cannot be seen made visible (`visible`), and all else as it is: markup is the templates' own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _readable(value: Any) -> str:
    return numbers.count(value) if isinstance(value, int) and not isinstance(value, bool) else plain(value)


def _context(suite: Suite, tables: Tables, progress: Progress) -> dict[str, Any]:
    emerging = emergence(suite, tables)
    scripts = (own_script(), plotly_script()) if emerging else ()
    return {
        "policy": policy(scripts),
        "suite": suite,
        "too_short": too_short(suite),
        "nav": _sections(tables, bool(emerging)),
        "lead": lead(suite, tables),
        "answers": answers(suite, tables),
        "fresh_gates": FRESH_GATES,
        "emergence": emerging,
        "scripts": scripts,
        "expert_rules": style_rules(max((run["experts"] for run in emerging["runs"]), default=0)) if emerging else "",
        "changes": {arm.name: readable_changes(arm) for arm in suite.arms},
        "tables": page_tables(suite, tables),
        "csvs": sorted([*(field.name for field in fields(tables)), *_beside(suite, tables)]),
        "statements": list(statements(suite, tables)),
        "evidence": evidence_tables(suite, tables),
        "specialists": specialists(suite, tables),
        "causal_tests": list(causal_tests(tables)),
        "measured": {field.name for field in fields(tables) if getattr(tables, field.name)},
        "window": WINDOW,
        "own_tokens": OWN_TOKENS,
        "collapse": list(collapse_sentences(suite, tables)),
        "configs": [(arm.name, to_dict(runs[0].config)) for arm in suite.arms if (runs := suite.runs_of(arm.name))],
        "pictures": list(_pictures(suite, tables, progress)),
        "data": _data_facts(suite),
        "record": _data_record(suite),
        "audit": audit_finding(tables.format_audit) if tables.format_audit else "",
        "made": _made(suite),
        "facts": _facts(suite, tables),
        "environments": _environments(suite.runs),
    }


def _pictures(suite: Suite, tables: Tables, progress: Progress) -> Iterator[Picture]:
    """Every figure, drawn; `progress` hears of each."""
    found = drawings(suite, tables)
    for place, drawing in enumerate(found):
        progress(DRAWING, place, len(found))
        yield keep(drawing, suite.folder / FIGURES)
    progress(DRAWING, len(found), len(found))


def _sections(tables: Tables, emerging: bool) -> list[tuple[str, str]]:
    """(anchor, name) of the page's sections, in order; those of experts where there are any."""
    experts = [("specialists", "Specialists"), ("collapse", "Collapse"), ("evidence", "Evidence")]
    return [
        ("answer", "Answer"),
        ("arms", "Arms"),
        *([("emergence", "Emergence")] if emerging else ()),
        *(experts if tables.routing else ()),
        ("method", "Method"),
    ]


def _data_facts(suite: Suite) -> dict[str, Any]:
    if not suite.runs:
        return {}
    data = suite.runs[0].manifest.data
    return {
        "corpus": data.corpus,
        "domains": plain(data.domains),
        "corpus digest (sha256)": data.corpus_digest,
        "digest of the prepared data (sha256)": data.digest,
    }


def _data_record(suite: Suite) -> dict[str, Any]:
    """What the pipeline did to the text: cleaning, duplicates, tokens (the format audit has a table of its own)."""
    if not suite.runs:
        return {}
    data = suite.runs[0].manifest.data
    counts = {"tokens": data.tokens, "blocks a domain": data.blocks_per_domain}
    return counts | {key: value for key, value in data.record.items() if key != "format_audit"}


def _facts(suite: Suite, tables: Tables) -> dict[str, Any]:
    peaks = [row.peak_memory_mib for row in tables.costs if row.peak_memory_mib is not None]
    base = suite.runs[0].manifest.base if suite.runs else {}
    facts = {"folder": suite.folder.name, "seeds": plain(suite.seeds)}
    if tables.costs:
        time = sum(row.training + row.recording for row in tables.costs)
        facts["time of all runs together"] = numbers.seconds(time)
    if peaks:
        facts["peak memory of one process"] = f"{numbers.count(max(peaks))}{numbers.GAP}MiB"
    return facts | {f"base: {key}": value for key, value in base.items()}


def _made(suite: Suite) -> tuple[str, str]:
    """The command to show, and what to say of it: a suite keeps the one that trained it, runs alone keep none."""
    reading = "moe-emergence analyze "
    if not suite.command.startswith(reading):
        return "", suite.command
    folders, out = suite.command.removeprefix(reading), shlex.quote(str(suite.folder))
    said = "The records of a run do not hold the command that trained it. This page is written from them by:"
    return said, f"moe-emergence report {folders}{'' if folders == out else f' --out {out}'}"


def _environments(runs: tuple[Run, ...]) -> list[tuple[str, dict[str, str]]]:
    """(which runs, what they ran on) for every different environment."""
    found: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        items = {"moe-emergence": "", **run.manifest.software, **run.manifest.environment}
        items["moe-emergence"] = items.pop("package", "not recorded")
        found.setdefault(tuple((key, plain(value)) for key, value in items.items()), []).append(run)
    return [(_named(of), dict(items)) for items, of in found.items()]


def _named(runs: Sequence[Run]) -> str:
    """`dense, seeds 42 and 43; moe, seed 42`."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run.arm, []).append(run.seed)
    return "; ".join(
        f"{arm}, {'seed' if len(own) == 1 else 'seeds'} {numbers.listed(list(map(str, own)))}"
        for arm, own in seeds.items()
    )
