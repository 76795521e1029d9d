"""What can be drawn of runs that are still going: loads and LM loss so far. No measure includes them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from moe_emergence.analysis.balance import latest_routing_rows
from moe_emergence.analysis.evolution import LossPoint, load_points, loss_points
from moe_emergence.analysis.records import Suite
from moe_emergence.report.curves import Legend, load_curves, loss_curves
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.findings import load_finding
from moe_emergence.report.numbers import count, listed, loss, percent, plural

SECTION = "going"


def going_drawings(suite: Suite) -> Iterator[Drawing]:
    """Each arm's loads, then the LM loss on dev of all."""
    so_far = replace(suite, runs=suite.going)
    yield from _loads(so_far)
    points = [point for point in loss_points(so_far) if point.domain is None]
    if points:
        arms = list(dict.fromkeys(run.arm for run in suite.going))
        yield Drawing(
            name="going-loss",
            section=SECTION,
            title=_loss_finding(points),
            reading=(
                "Still going. Cross-entropy of the next token on dev text in nats, mean over domains, lower is better; "
                f"n = {plural(len(suite.going), 'run')}."
            ),
            make=partial(loss_curves, points, Legend(arms, so_far.dense)),
        )


def _loads(so_far: Suite) -> Iterator[Drawing]:
    points = load_points(so_far)
    top = 1.04 * max((point.load for point in points), default=1.0)
    routing = latest_routing_rows(so_far.runs)
    known = {(row.arm, row.seed) for row in routing}
    for arm in dict.fromkeys(point.arm for point in points if (point.arm, point.seed) in known):
        mine = [point for point in points if point.arm == arm and (arm, point.seed) in known]
        rows = [row for row in routing if row.arm == arm]
        yield Drawing(
            name=f"going-load-{arm}",
            section=SECTION,
            title=load_finding(rows),
            reading=(
                "Still going. One line an expert: its share of the training assignments, "
                f"n = {plural(mine[0].steps, 'step')} a point. Dashed: the uniform share 1/E = "
                f"{percent(mine[0].uniform)}. Title and colours (orange: hot, blue: dead): the latest evaluation."
            ),
            make=partial(load_curves, mine, rows, top),
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
