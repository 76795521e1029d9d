"""Knock-out matrices as text: what each expert of a layer is worth to each domain."""

from collections.abc import Iterator

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.evidence_tables import REROUTED
from moe_emergence.report.numbers import difference, difference_interval, percent
from moe_emergence.report.shown import TextTable


def knockout_matrices(suite: Suite, tables: Tables) -> Iterator[TextTable]:
    """One table a run and layer at the last step: experts × domains, loss change in nats a token of the domain when the
    expert's tokens are rerouted, and the share of the domain's tokens that it has."""
    for run in suite.runs:
        rows = [
            row
            for row in tables.knockouts
            if (row.arm, row.seed, row.step, row.intervention) == (run.arm, run.seed, run.last_step, REROUTED)
        ]
        for layer in sorted({row.layer for row in rows}):
            cells = {(row.expert, row.domain): row for row in rows if row.layer == layer}
            experts = sorted({expert for expert, _ in cells})
            yield TextTable(
                title=f"{run.arm}, seed {run.seed}, layer {layer}: loss change when an expert's tokens are rerouted, "
                "nats a token of the domain (its share of the domain's tokens)",
                columns=("expert", *suite.domains, "mean of domains"),
                numeric=(True, *(True for _ in suite.domains), True),
                rows=tuple(
                    (
                        str(expert),
                        *(_cell(cells[expert, domain]) for domain in suite.domains),
                        _mean(cells[expert, None]),
                    )
                    for expert in experts
                ),
            )


def _cell(row: KnockoutRow) -> str:
    return f"{difference(row.effect)} ({percent(row.affected_share)})"


def _mean(row: KnockoutRow) -> str:
    return difference_interval(row.effect, row.low, row.high)
