"""What became of balance in each arm, when it was lost, and what that did to LM loss: the section's words."""

from collections.abc import Iterator, Sequence

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.comparisons import LossDifferenceRow
from moe_emergence.analysis.reading import GOING
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.answer_balance import arm_balance
from moe_emergence.report.answer_loss import within_margin
from moe_emergence.report.findings import slots
from moe_emergence.report.load_maps import ExpertCount, Quantity
from moe_emergence.report.numbers import count, decimal, difference_interval, listed, percent, plural


def collapse_sentences(suite: Suite, tables: Tables) -> Iterator[str]:
    """One an arm with experts: its balance at the end, the moment of collapse, and its LM loss against other arms."""
    for arm in dict.fromkeys(row.arm for row in tables.routing):
        yield f"{arm}: {arm_balance(suite, tables, arm)}. {_cost(arm, tables)}"


def _cost(arm: str, tables: Tables) -> str:
    mine = [row for row in tables.loss_differences if row.arm == arm and row.domain is None]
    if not mine:
        return "There is no arm to say what that cost."
    told = listed([f"{_change(row)} against {row.against}" for row in mine])
    small = within_margin(mine, tables.equivalence, lambda row: f"against {row.against}")
    return f"LM loss on test, nats a token (above 0: worse): {'; '.join(filter(None, (told, small)))}."


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
    """The layer of the fewest effective experts at the end, or of the most dead or hot ones, for longest."""
    if quantity == "effective":
        last = {(row.arm, row.seed, row.layer): row for row in counts}
        least = min(last.values(), key=lambda row: row.effective / row.experts)
        return (
            f"Training ends with as few as {decimal(least.effective)} of {least.experts} experts in use in "
            f"{_place(least, counts)}"
        )
    most = max(getattr(row, quantity) for row in counts)
    layers: dict[tuple[str, int, int], list[ExpertCount]] = {}
    for row in sorted(counts, key=lambda row: row.step):
        if getattr(row, quantity) == most:
            layers.setdefault((row.arm, row.seed, row.layer), []).append(row)
    longest = max(layers.values(), key=lambda rows: (len(rows), -rows[0].step))
    place = _place(longest[0], counts)
    return f"Most {quantity} experts at a time: {most} of {longest[0].experts} in {place}, {_when(longest, counts)}"


def _when(held: Sequence[ExpertCount], counts: Sequence[ExpertCount]) -> str:
    """`from step 56 on`, or at how many of the recorded points; `held` are one layer's, in the order of steps."""
    first = held[0]
    layer = (first.arm, first.seed, first.layer)
    steps = [row.step for row in counts if (row.arm, row.seed, row.layer) == layer]
    if len(held) == 1:
        return f"at step {count(first.step)}"
    if len(held) == sum(step >= first.step for step in steps):
        return f"from step {count(first.step)} on"
    return f"at {len(held)} of {plural(len(steps), 'recorded step')}, first at step {count(first.step)}"


def _place(row: ExpertCount, rows: Sequence[ExpertCount]) -> str:
    seed = f", seed {row.seed}" if len({other.seed for other in rows}) > 1 else ""
    return f"{row.arm}, layer {row.layer}{seed}"
