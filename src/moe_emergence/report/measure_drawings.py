"""The figures of measures with nulls and intervals: specialisation and differences between arms."""

from collections.abc import Iterator
from functools import partial

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, learns
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.answer_loss import differences_shown, loss_difference_finding
from moe_emergence.report.curves import Legend
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.estimates import information_difference_forest, loss_difference_forest, specialisation_marks
from moe_emergence.report.information_curves import information_curves
from moe_emergence.report.numbers import GAP, count, plural
from moe_emergence.report.verdicts import (
    emergence_finding,
    final_information,
    information_difference_finding,
    specialisation_finding,
)
from moe_emergence.training.neighbour import FRESH_GATES

INTERVALS = f"Lines through marks: 95{GAP}% intervals over documents."


def specialisation_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    """How it emerges, how it ends beside both nulls, and the differences between arms."""
    legend = legend_of(suite)
    last = final_information(tables)
    if not last:
        return
    rows = [row for row in tables.information if row.counted == FIRST_CHOICE]
    begun = min(row.step for row in rows)
    sample = f"n = {plural(last[0].documents, 'document')}, {count(last[0].tokens)} tokens"
    averaged = ", mean over an arm's seeds" if len(suite.seeds) > 1 else ""
    scale = (
        f"100{GAP}%: the expert tells the domain for certain, as routing by domain does; 0: no more than few documents "
        "show by chance"
    )
    learning = sorted({run.arm for run in suite.runs if learns(run)})
    yield Drawing(
        name="information",
        section="answer",
        tables=("information", "onset"),
        title=emergence_finding(tables, learning),
        reading=(
            f"How much a token's first expert tells of its domain, I(E;D), over training, at "
            f"{plural(len({row.step for row in rows}), 'traced step')}; {scale}. Grey: what "
            f"untrained gates reach on the hidden states of the first or the last step (central 95{GAP}%{averaged}), "
            f"which separate domains too. {sample}."
        ),
        make=partial(information_curves, rows, legend, learning),
    )
    yield Drawing(
        name="specialisation",
        section="answer",
        tables=("information", "arm_verdicts", "verdicts"),
        title=specialisation_finding(tables),
        reading=(
            f"The same at the last step; {scale}. {INTERVALS} A "
            "router has learned to tell domains apart where its mark is beyond both kinds of bar, permuted documents "
            f"(black) and {FRESH_GATES} untrained gates on the same hidden states (grey), which separate domains too; "
            "filled where that holds of the run alone and rerouting some expert costs its own domain more than the "
            "others, adjusted for layers. The verdict is on the mean of an arm's seeds, adjusted for arms too. Bars: "
            f"central 95{GAP}%. Probe set, {sample}."
        ),
        make=partial(specialisation_marks, last, [row for row in rows if row.step == begun], tables.verdicts, legend),
    )
    if tables.information_differences:
        differences = tables.information_differences
        yield Drawing(
            name="information-differences",
            section="specialisation",
            tables=("information_differences",),
            title=information_difference_finding(differences),
            reading=(
                "Each arm's domain information minus its baseline's on the same documents, in percentage points of "
                f"H(D), first choice, last step. {INTERVALS} Hollow: not shown to differ (p ≥ 0.05, Holm over "
                "layers). n = "
                f"{plural(differences[0].documents, 'document')} in the smallest domain, "
                f"{plural(max(row.seeds for row in differences), 'seed')}."
            ),
            make=partial(information_difference_forest, differences, legend),
        )


def loss_difference_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    """Differences in LM loss to the dense arm, or to baselines where there is none."""
    rows = differences_shown(suite, tables.loss_differences)
    if rows:
        seeds = max(row.seeds for row in rows)
        ticks = " Ticks: the smallest and the largest difference of a seed." if seeds > 1 else ""
        yield Drawing(
            name="loss-differences",
            section="loss",
            tables=("loss_differences", *(["equivalence"] if tables.equivalence else [])),
            title=loss_difference_finding(rows, tables.equivalence),
            reading=(
                "Difference in LM loss on test at the last step, nats a token, same documents and seeds on both "
                f"sides; left of 0 the arm is better. {INTERVALS} Hollow: not shown to differ (p ≥ 0.05, Holm "
                f"over domains).{ticks} n = "
                f"{plural(min(row.documents for row in rows), 'document')} in the smallest domain, "
                f"{plural(seeds, 'seed')}."
            ),
            make=partial(loss_difference_forest, rows, legend_of(suite)),
        )


def legend_of(suite: Suite) -> Legend:
    """The colours and dashes of the suite's arms, the same in every figure."""
    return Legend([arm.name for arm in suite.arms], suite.dense)
