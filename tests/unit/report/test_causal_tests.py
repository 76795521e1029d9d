"""Which causal tests there are is said as it is, and pages stand without the others."""

import dataclasses
from pathlib import Path

import pytest
from planted_measures import planted_tables, row_of, undrawn
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.scope import ALL, QUICK, Scope
from moe_emergence.report.causal_tests import causal_tests
from moe_emergence.report.page import write_report

FURTHER = "knock-outs by zero, swap and mean, knock-outs at earlier steps, dose, regret, retention and transplant"


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (
            QUICK,
            [
                "Causal tests: every expert rerouted to the next best and put back to its ancestor, at the last step.",
                f"moe-emergence analyze RUNS --all adds {FURTHER}.",
            ],
        ),
        (ALL, ["Causal tests: all of them, knock-outs also at the earlier steps whose weights are kept."]),
    ],
)
def test_the_page_says_which_causal_tests_were_made(tmp_path: Path, scope: Scope, words: list[str]) -> None:
    suite = read_suite(write_suite(tmp_path, quickstart_like(steps=4, looks=(0, 4))))
    knocked = tuple(
        row_of(KnockoutRow, arm="moe", seed=42, step=4, layer=3, expert=e, domain=d, intervention="next", p=1.0)
        for e in range(8)
        for d in (*suite.domains, None)
    )
    tables = dataclasses.replace(planted_tables(suite), scope=(scope,), knockouts=knocked)
    assert list(causal_tests(tables)) == words
    with undrawn():
        page = write_report(suite, tables).read_text("utf-8")
    assert " ".join(words) in page.split('id="method"')[1]
    assert "<summary>Routing regret" not in page  # tables that are not there have no heading
    assert "<dt>Regret</dt>" not in page
    assert not list(causal_tests(dataclasses.replace(tables, knockouts=())))
