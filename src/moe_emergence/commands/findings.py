"""What came out, on stdout: when a suite ends, after `analyze`, and as `report --text`; all from one summary."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from moe_emergence.commands.printing import print_sentence, print_table, shows

if TYPE_CHECKING:  # heavy: imported when there is something to show
    from moe_emergence.analysis.records import Suite
    from moe_emergence.analysis.tables import Tables
    from moe_emergence.report.shown import TextTable
    from moe_emergence.report.statements import Statement


def print_closing(suite: "Suite", tables: "Tables") -> None:
    """The page in a few lines: tables, what came out, and a warning where it must not be taken for an answer."""
    from moe_emergence.report.summary import suite_summary

    summary = suite_summary(suite, tables)
    _tables(summary.tables)
    _listed((*summary.lead, *summary.alerts))
    _warning(summary.warning)


def print_measures(suite: "Suite", tables: "Tables") -> None:
    """The same layer by layer, with what every expert is worth to every domain."""
    from moe_emergence.report.summary import suite_summary

    summary = suite_summary(suite, tables)
    _tables((*summary.tables, *summary.matrices))
    _statements(summary.statements)
    _listed(summary.sentences)
    for sentence in summary.tested:
        print_sentence(sentence)
    _warning(summary.warning)


def print_report(suite: "Suite", tables: "Tables") -> None:
    """The page's findings from top to bottom, with a sparkline for what moved over training."""
    from moe_emergence.report.sparklines import BARS, PLAIN_BARS, curve_table
    from moe_emergence.report.summary import suite_summary

    summary = suite_summary(suite, tables)
    print_sentence(f"{suite.name}: {suite.question}" if suite.question else suite.name)
    _warning(summary.warning)
    _listed((*summary.lead, *summary.alerts))
    _tables(summary.tables)
    bars = BARS if shows(BARS) else PLAIN_BARS
    if summary.curves:
        _tables([curve_table(summary.curves, bars)])
    if summary.going:
        _tables([curve_table(summary.going, bars, when="Still going, so far")])
    _statements(summary.statements)
    _tables([summary.scores])


def _tables(tables: "Iterable[TextTable]") -> None:
    for table in tables:
        if table.rows:
            print_table(table.title, table.columns, table.numeric, table.rows)


def _statements(statements: "Iterable[Statement]") -> None:
    for statement in statements:
        print_sentence(f"{statement.arm}, seed {statement.seed}, layer {statement.layer}")
        for sentence in statement.sentences:
            print_sentence(sentence, "  ")


def _listed(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print_sentence(sentence, "- ")


def _warning(warning: str | None) -> None:
    if warning is not None:
        print_sentence(f"Note: {warning}")
