"""The heatmaps: domains × experts and token classes × experts, an arm."""

from collections.abc import Iterator, Sequence
from functools import partial

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.specialisation import FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.findings import class_finding, share_finding
from moe_emergence.report.heatmaps import CELL_TEXT_EXPERTS, class_heatmaps, colour_limit, share_heatmaps
from moe_emergence.report.numbers import GAP, count, percent, plural
from moe_emergence.report.shown import first_runs, of_run, seed_note
from moe_emergence.report.verdicts import at_the_end


def share_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    """All slots of every arm's first seed and, where that is something else, the first choice."""
    limit = colour_limit([*tables.shares, *tables.first_choice_shares])
    ways: tuple[tuple[str, Sequence[ShareRow], Sequence[RoutingRow]], ...] = (
        ("assignments", tables.shares, tables.routing),
        ("first choices", tables.first_choice_shares, tables.first_choice_routing),
    )
    for run in first_runs(suite):
        for counted, shares, routing in ways:
            if mine := of_run(run, shares):
                yield _share_drawing(suite, run, mine, of_run(run, routing), limit, counted)


def _share_drawing(
    suite: Suite, run: Run, shares: Sequence[ShareRow], routing: Sequence[RoutingRow], limit: float, counted: str
) -> Drawing:
    numbers = "Numbers: %. " if routing[0].experts <= CELL_TEXT_EXPERTS else ""
    return Drawing(
        name=f"heatmap-{run.arm}{'-first-choice' if counted == 'first choices' else ''}",
        section="shares",
        tables=("first_choice_shares" if counted == "first choices" else "shares",),
        title=share_finding(shares, counted),
        reading=(
            f"Each row is a domain and sums to 100{GAP}%: the share of its {counted} that goes to each expert, on the "
            f"probe set (beginnings of test documents) at step {count(shares[0].step)}; n = {_smallest(shares)} "
            f"{counted} a domain at least. {numbers}White is the uniform share {percent(shares[0].uniform)}, orange "
            f"above, purple below, on one scale for all arms. The title's bracket is a 95{GAP}% interval over "
            f"documents.{seed_note(suite, run)}"
        ),
        make=partial(share_heatmaps, shares, routing, limit),
    )


def _smallest(shares: Sequence[ShareRow]) -> str:
    """Assignments of the domain, seed and layer with the fewest."""
    totals: dict[tuple[int, int, str], int] = {}
    for row in shares:
        key = (row.seed, row.layer, row.domain)
        totals[key] = totals.get(key, 0) + row.assignments
    return count(min(totals.values()))


def class_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    """Token classes × experts, an arm, of its first seed."""
    cells = [row for row in tables.token_classes if row.counted == FIRST_CHOICE]
    limit = colour_limit(cells)
    for run in first_runs(suite):
        mine = of_run(run, cells)
        if not mine:
            continue
        measured = [
            row
            for row in tables.class_information
            if (row.arm, row.seed, row.counted) == (run.arm, run.seed, FIRST_CHOICE)
        ]
        end = at_the_end(measured)
        numbers = "Numbers: %. " if len({row.expert for row in mine}) <= CELL_TEXT_EXPERTS else ""
        documents = f"n = {plural(min(row.documents for row in end), 'document')}; " if end else "n = "
        yield Drawing(
            name=f"token-classes-{run.arm}",
            section="classes",
            tables=("token_classes",),
            title=class_finding(mine, end, [row for row in measured if row.step == 0]),
            reading=(
                f"Each row is a class of token and sums to 100{GAP}%: the share of its tokens whose first "
                f"choice is that expert ({documents}tokens of a class in brackets). {numbers}White is the uniform "
                f"share {percent(mine[0].uniform)}, orange above, purple below. The title's bits are beyond "
                "what is left when each document's classes are shifted against its routes."
                f"{seed_note(suite, run)}"
            ),
            make=partial(class_heatmaps, mine, limit),
        )
