"""What five seeds of the quickstart were expected to show, fixed before they were run, and whether they do."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import difference_interval, listed
from moe_emergence.report.shown import at_last_step
from moe_emergence.report.verdicts import arm_verdicts, is_learned, layer_names

SHARE_OF_SEEDS = 0.8
"""4 of 5."""
LEAST_DEAD = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One expectation, whether it holds, and what was found."""

    expected: str
    holds: bool
    found: str


def outcomes(suite: Suite, tables: Tables) -> Iterator[Outcome]:
    """In the order of the page's questions."""
    yield _specialised(tables)
    yield _lower_loss(tables)
    yield _specialists(suite, tables)
    yield _collapse(suite, tables)


def _specialised(tables: Tables) -> Outcome:
    learned = [row.layer for row in arm_verdicts(tables, "moe") if is_learned(row)]
    return Outcome(
        expected="moe shows learned specialisation in at least one layer, adjusted for layers and arms",
        holds=bool(learned),
        found=layer_names(learned) if learned else "in no layer",
    )


def _lower_loss(tables: Tables) -> Outcome:
    rows = [r for r in tables.loss_differences if (r.arm, r.against, r.domain) == ("moe", "dense", None)]
    return Outcome(
        expected="LM loss of moe lies below dense, its interval apart from 0",
        holds=bool(rows) and rows[0].high < 0,
        found=f"{difference_interval(rows[0].difference, rows[0].low, rows[0].high)} nats per token" if rows else "–",
    )


def _specialists(suite: Suite, tables: Tables) -> Outcome:
    """Counted as single runs: a specialist need not be the same expert in another seed."""
    rows = [row for row in at_last_step(suite, tables.specialists) if row.arm == "moe"]
    seeds = len({row.seed for row in rows})
    often = {
        d: sum(row.is_specialist for row in rows if row.domain == d) for d in dict.fromkeys(r.domain for r in rows)
    }
    enough = [domain for domain, times in often.items() if times >= SHARE_OF_SEEDS * seeds]
    return Outcome(
        expected="for at least two domains a specialist in 4 of 5 seeds (rerouting it costs its domain at least 0.005 "
        "nats per token, any other a third of that at most)",
        holds=len(enough) >= 2,
        found=listed([f"{domain} {times} of {seeds}" for domain, times in often.items()]) if often else "not measured",
    )


def _collapse(suite: Suite, tables: Tables) -> Outcome:
    rows = [row for row in at_last_step(suite, tables.routing) if row.arm == "no_lb"]
    seeds = {row.seed for row in rows}
    dead = {seed: max(len(row.dead) for row in rows if row.seed == seed) for seed in seeds}
    collapsed = sum(count >= LEAST_DEAD for count in dead.values())
    return Outcome(
        expected="no_lb ends with at least 3 dead experts in some layer in 4 of 5 seeds",
        holds=bool(seeds) and collapsed >= SHARE_OF_SEEDS * len(seeds),
        found=f"{collapsed} of {len(seeds)} seeds; up to {max(dead.values(), default=0)} dead in a layer",
    )
