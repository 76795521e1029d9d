"""What can be drawn of runs that are still going: loads and LM loss so far. No measure includes them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from moe_emergence.analysis.balance import latest_routing_rows
from moe_emergence.analysis.evolution import LossPoint, load_points, loss_points
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import csv_text
from moe_emergence.report.collapse_drawings import load_map
from moe_emergence.report.curves import Legend, loss_curves
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.numbers import count, listed, loss, plural
from moe_emergence.report.shown import first_runs, so_far

SECTION = "going"
LOADS, LOSSES = "going_loads", "going_losses"


def going_csvs(suite: Suite) -> dict[str, str]:
    """Name to text of the CSV files behind the figures; none where no run is going."""
    if not suite.going:
        return {}
    going = so_far(suite)
    return {LOADS: csv_text(load_points(going)), LOSSES: csv_text(loss_points(going))}


def going_drawings(suite: Suite) -> Iterator[Drawing]:
    """Each arm's loads, then the LM loss on dev of all."""
    going = so_far(suite)
    yield from _loads(going)
    points = [point for point in loss_points(going) if point.domain is None]
    if points:
        arms = list(dict.fromkeys(run.arm for run in going.runs))
        yield Drawing(
            name="going-loss",
            section=SECTION,
            tables=(LOSSES,),
            title=_loss_finding(points),
            reading=(
                "Still going. Cross-entropy of the next token on dev text in nats, mean over domains, lower is better; "
                f"n = {plural(len(going.runs), 'run')}."
            ),
            make=partial(loss_curves, points, Legend(arms, going.dense)),
        )


def _loads(going: Suite) -> Iterator[Drawing]:
    routing = latest_routing_rows(going.runs)
    for run in first_runs(going):
        points = load_points(replace(going, runs=(run,)))
        rows = [row for row in routing if (row.arm, row.seed) == (run.arm, run.seed)]
        if points and rows:
            drawn = load_map(going, run, points, rows)
            yield replace(
                drawn,
                name=f"going-{drawn.name}",
                section=SECTION,
                tables=(LOADS,),
                reading=f"Still going. {drawn.reading}",
            )


def _loss_finding(points: list[LossPoint]) -> str:
    """`LM loss so far: moe 3.605 at step 120`."""
    last = {(point.arm, point.seed): point for point in points}
    several = len({point.seed for point in last.values()}) > 1
    said = [
        f"{point.arm}{f', seed {point.seed},' if several else ''} {loss(point.lm_loss)} at step {count(point.step)}"
        for point in last.values()
    ]
    return f"LM loss so far: {listed(said)}"
