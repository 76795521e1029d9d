"""What became of balance in each arm, when it was lost, and what that did to LM loss: the section's words."""

from collections.abc import Iterator, Sequence

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.comparisons import LossDifferenceRow
from moe_emergence.analysis.reading import GOING
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.answer_balance import arm_balance
from moe_emergence.report.findings import slots
from moe_emergence.report.load_maps import ExpertCount, Quantity
from moe_emergence.report.numbers import count, decimal, difference_interval, listed, percent


def collapse_sentences(suite: Suite, tables: Tables) -> Iterator[str]:
    """One an arm with experts: its balance at the end, the moment of collapse, and its LM loss against other arms."""
    for arm in dict.fromkeys(row.arm for row in tables.routing):
        yield f"{arm}: {arm_balance(suite, tables, arm)}. {_cost(arm, tables.loss_differences)}"


def _cost(arm: str, rows: Sequence[LossDifferenceRow]) -> str:
    mine = [row for row in rows if row.arm == arm and row.domain is None]
    if not mine:
        return "There is no arm to say what that cost."
    told = listed([f"{_change(row)} against {row.against}" for row in mine])
    return f"LM loss on test, nats a token (above 0: worse): {told}."


def _change(row: LossDifferenceRow) -> str:
    steps = "" if row.step == row.against_step else f" (step {count(row.step)}, theirs {count(row.against_step)})"
    return f"{difference_interval(row.difference, row.low, row.high)}{steps}"


def collapsed_layers(run: Run) -> dict[int, int]:
    """Layer to the step at which the detector first called it collapsed."""
    found: dict[int, int] = {}
    for event in run.collapses:
        if event.state == "collapsed":
            found.setdefault(event.layer, event.step)
    return dict(sorted(found.items()))


def load_map_finding(run: Run, routing: Sequence[RoutingRow]) -> str:
    """When layers collapsed, or that none did, and the busiest expert at the last look; rows of this run."""
    top = max(routing, key=lambda row: row.max_load)
    when = [f"layer {layer} collapsed at step {count(step)}" for layer, step in collapsed_layers(run).items()]
    none = "no collapse found so far" if run.reason == GOING else "no collapse found in training"
    return (
        f"{run.arm}: {listed(when) or none}; expert {top.busiest_expert} of layer "
        f"{top.layer} takes {percent(top.max_load)} of the {slots(top)}, where an equal share is "
        f"{percent(1 / top.experts)}"
    )


def count_finding(counts: Sequence[ExpertCount], quantity: Quantity) -> str:
    """The layer of the fewest effective experts at the end, or of the most dead or hot ones at any time."""
    if quantity == "effective":
        last = {(row.arm, row.seed, row.layer): row for row in counts}
        least = min(last.values(), key=lambda row: row.effective / row.experts)
        return (
            f"Training ends with as much as {decimal(least.effective)} of {least.experts} experts in use in "
            f"{_place(least, counts)}, the fewest"
        )
    most = max(counts, key=lambda row: (getattr(row, quantity), -row.step))
    return (
        f"Most {quantity} experts at a time: {getattr(most, quantity)} of {most.experts} in {_place(most, counts)}, "
        f"first at step {count(most.step)}"
    )


def _place(row: ExpertCount, rows: Sequence[ExpertCount]) -> str:
    seed = f", seed {row.seed}" if len({other.seed for other in rows}) > 1 else ""
    return f"{row.arm}, layer {row.layer}{seed}"
