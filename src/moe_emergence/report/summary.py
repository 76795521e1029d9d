"""A suite's closing tables for the terminal: strings only, to be printed with whatever the terminal can do."""

from dataclasses import dataclass
from pathlib import Path

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import make_tables
from moe_emergence.report.answer import answers, too_short
from moe_emergence.report.page_tables import PageTable, arms_table, routing_table

_ARMS = ("arm", "lm_loss_macro", "difference_to_dense", "lm_loss", "tokens_trained", "parameters_active")
_ROUTING = ("arm", "seed", "layer", "max_load", "max_violation", "hot", "dead", "entropy_per_token_share")


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of strings.

    Attributes:
        numeric: for each column, whether it is to be right-aligned.
    """

    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a command prints when a suite ends.

    Attributes:
        warning: that the runs are too short for conclusions; None when they are not.
        sentences: the answer box of the page, one finding each.
    """

    warning: str | None
    sentences: tuple[str, ...]
    tables: tuple[TextTable, ...]


def suite_tables(suite_folder: Path) -> tuple[TextTable, ...]:
    """LM losses an arm and balance a layer, at the last step on test.

    Raises:
        AnalysisError: a record is missing or torn; names file and key.
    """
    return suite_summary(suite_folder).tables


def suite_summary(suite_folder: Path) -> Summary:
    """The page in a few lines."""
    suite = read_suite(suite_folder)
    tables = make_tables(suite)
    short = [_text(arms_table(suite, tables), _ARMS), _text(routing_table(suite, tables), _ROUTING)]
    return Summary(
        warning=too_short(suite),
        sentences=tuple(sentence for answer in answers(suite, tables) for sentence in answer.sentences),
        tables=tuple(table for table in short if table.rows),
    )


def _text(table: PageTable, fields: tuple[str, ...]) -> TextTable:
    """The columns whose field is among `fields`."""
    kept = [place for place, column in enumerate(table.columns) if column.field.partition(":")[0] in fields]
    return TextTable(
        title=table.title,
        columns=tuple(table.columns[place].title for place in kept),
        numeric=tuple(table.columns[place].numeric for place in kept),
        rows=tuple(tuple(row[place].text for place in kept) for row in table.rows),
    )
