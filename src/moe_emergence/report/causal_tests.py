"""Which causal tests the tables hold, in words, and the command that adds the others."""

from collections.abc import Iterator

from moe_emergence.analysis.scope import ALL, Scope
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import listed
from moe_emergence.report.plain_names import intervention_words

EVERYTHING = "moe-emergence analyze RUNS --all"


def causal_tests(tables: Tables) -> Iterator[str]:
    """What was made, and what is to be had besides; nothing where no causal test was."""
    for scope in tables.scope if tables.knockouts else ():
        if scope == ALL:
            yield "Causal tests: all of them, knock-outs also at the earlier steps whose weights are kept."
        else:
            ways = listed([intervention_words(name) for name in scope.interventions])
            yield f"Causal tests: every expert {ways}, at the last step."
            yield f"{EVERYTHING} adds {listed(list(_added(scope)))}."


def _added(scope: Scope) -> Iterator[str]:
    further = [name for name in ALL.interventions if name not in scope.interventions]
    if further:
        yield f"knock-outs by {listed(further)}"
    if not scope.earlier_steps:
        yield "knock-outs at earlier steps"
    yield from (part for part in ALL.parts if part not in scope.parts)
