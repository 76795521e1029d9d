"""A suite's closing tables for the terminal: strings only, to be printed with whatever the terminal can do."""

from dataclasses import dataclass, replace

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.scores import PER_AFFECTED, TOTAL
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.answer import answers, too_short
from moe_emergence.report.arms_compared import ARMS_TITLE, arms_table
from moe_emergence.report.causal_tests import causal_tests
from moe_emergence.report.evidence_tables import rerouting_scores
from moe_emergence.report.lead import lead
from moe_emergence.report.matrices import knockout_matrices
from moe_emergence.report.measure_tables import arm_verdicts_table, verdicts_table
from moe_emergence.report.numbers import ABSENT, count, p_value, signed
from moe_emergence.report.plain_names import measure_words
from moe_emergence.report.routing_tables import routing_table
from moe_emergence.report.shown import PageTable, TextTable
from moe_emergence.report.sparklines import Curves, going_curves, suite_curves
from moe_emergence.report.statements import Statement, statements

TOP = 5
"""How many of the scoreboard's measures are printed."""
_ARMS = ("arm", "lm_loss_macro", "difference_to_dense", "lm_loss", "tokens_trained", "parameters_active")
_ROUTING = ("arm", "seed", "layer", "max_load", "max_violation", "hot", "dead", "entropy_per_token_share")
_ARM_VERDICTS = (
    "arm",
    "layer",
    "verdict",
    "corrected_share",
    "p_permutation_arms",
    "p_fresh_end_arms",
    "p_fresh_start_arms",
    "p_specific_arms",
)
_VERDICTS = ("arm", "seed", "layer", "verdict", "p_permutation", "p_fresh_end", "p_fresh_start", "p_specific")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a command prints when a suite ends.

    Attributes:
        warning: that the runs are too short for conclusions; None when they are not.
        lead: the page's first sentences; alerts: what must not be missed.
        sentences: the answer box of the page, one finding each, alerts included.
        curves: what moved over training; going: the same of runs still going, so far.
        tested: which causal tests were made, and how the others are.
        scores: the measures that foretell best what rerouting an expert costs.
        statements: what may be said of each layer of each run; matrices: what its experts are worth to each domain.
    """

    warning: str | None
    lead: tuple[str, ...]
    alerts: tuple[str, ...]
    sentences: tuple[str, ...]
    statements: tuple[Statement, ...]
    matrices: tuple[TextTable, ...]
    tables: tuple[TextTable, ...]
    curves: tuple[Curves, ...]
    going: tuple[Curves, ...]
    tested: tuple[str, ...]
    scores: TextTable


def suite_summary(suite: Suite, tables: Tables) -> Summary:
    """The page in a few lines: LM losses an arm, balance and verdict a layer at the last step, and the answer."""
    short = [
        replace(_text(arms_table(suite, tables), _ARMS), title=ARMS_TITLE),
        _text(routing_table(suite, tables), _ROUTING),
        _text(arm_verdicts_table(tables), _ARM_VERDICTS),
        _text(verdicts_table(suite, tables), _VERDICTS),
    ]
    box = answers(suite, tables)
    return Summary(
        warning=too_short(suite),
        lead=lead(suite, tables),
        alerts=tuple(f"{answer.heading}: {said}" for answer in box if answer.alert for said in answer.sentences),
        sentences=tuple(sentence for answer in box for sentence in answer.sentences),
        statements=tuple(statements(suite, tables)),
        matrices=tuple(knockout_matrices(suite, tables)),
        tables=tuple(table for table in short if table.rows),
        curves=suite_curves(tables),
        going=going_curves(suite),
        tested=tuple(causal_tests(tables)),
        scores=_top_scores(tables),
    )


def _top_scores(tables: Tables) -> TextTable:
    """The strongest rank correlations, whichever their sign, with what a token that used the expert loses; beside them
    the same measure's with the loss of all tokens, which contains the load."""
    totals = {(row.measure, row.level): row.rho for row in rerouting_scores(tables, TOTAL)}
    rows = sorted(rerouting_scores(tables, PER_AFFECTED), key=lambda row: -abs(row.rho or 0.0))[:TOP]
    return TextTable(
        title=f"Measures that order experts most by what rerouting costs a token that used them (top {TOP})",
        columns=("measure", "rho", "95 % interval", "p, adjusted", "cost to all tokens (contains load): rho", "cells"),
        numeric=(False, True, True, True, True, True),
        rows=tuple(
            (
                measure_words(row.measure),
                signed(row.rho),
                ABSENT if row.low is None else f"[{signed(row.low)}, {signed(row.high)}]",
                p_value(row.p_adjusted),
                signed(totals.get((row.measure, row.level))),
                count(row.cells),
            )
            for row in rows
        ),
    )


def _text(table: PageTable, fields: tuple[str, ...]) -> TextTable:
    """The columns whose field is among `fields`, without intervals."""
    kept = [place for place, column in enumerate(table.columns) if column.field.partition(":")[0] in fields]
    return TextTable(
        title=table.title,
        columns=tuple(table.columns[place].title for place in kept),
        numeric=tuple(table.columns[place].numeric for place in kept),
        rows=tuple(tuple(row[place].text for place in kept) for row in table.rows),
    )
