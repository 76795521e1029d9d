"""The figures of collapse: load maps of every arm, and how many experts are used over training."""

from collections.abc import Iterator, Sequence
from functools import partial

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.evolution import LoadPoint
from moe_emergence.analysis.reading import GOING
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.collapse import collapsed_layers, count_finding, load_map_finding
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.load_maps import ExpertCount, Quantity, expert_count_curves, expert_counts, load_maps
from moe_emergence.report.measure_drawings import legend_of
from moe_emergence.report.numbers import GAP, count, decimal, percent
from moe_emergence.report.shown import first_runs, of_run, seed_note
from moe_emergence.routing import DEAD_SHARE, HOT_EXCESS

_WORDS: dict[Quantity, str] = {
    "effective": "Effective experts: exp of the entropy of the load. Dashed: E, all experts equally busy; k experts "
    "take everything at the worst.",
    "dead": f"Dead: a load below {percent(DEAD_SHARE)} of the equal share 1/E. Dashed: 0, as at balance.",
    "hot": f"Hot: an excess above {decimal(HOT_EXCESS)}, where 0 is balance and 1 is all that an expert can take. "
    "Dashed: 0.",
}


def collapse_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    """A load map an arm, of its first seed; effective experts, and dead and hot ones where there are any."""
    yield from (
        load_map(suite, run, _of(run, tables.load_over_steps), of_run(run, tables.routing))
        for run in first_runs(suite)
        if tables.load_over_steps
    )
    slots = {run.arm: run.config.moe.top_k for run in suite.runs if run.config.moe is not None}
    counts = list(expert_counts(tables.load_over_steps, slots))
    for quantity, words in _WORDS.items():
        if any(getattr(row, quantity) for row in counts):
            yield _counted(suite, tables, counts, quantity, words)


def load_map(suite: Suite, run: Run, points: Sequence[LoadPoint], routing: Sequence[RoutingRow]) -> Drawing:
    """The loads of one run over its training; `points` and `routing`, of its last look, are its own."""
    assert run.config.moe is not None
    return Drawing(
        name=f"load-map-{run.arm}",
        section="collapse",
        tables=("load_over_steps", "routing"),
        title=load_map_finding(run, routing),
        reading=(
            f"One row an expert, from left to right over training ({training_sample(suite, points[0].steps)}): its "
            f"share of the assignments. White is the uniform share, orange above, purple below; the scale marks where "
            f"an expert counts as dead (below {percent(DEAD_SHARE)} of 1/E) and as hot (excess above "
            f"{decimal(HOT_EXCESS)}). A black line is the moment the detector called the layer collapsed. Title: "
            f"{_last_look(run)}.{seed_note(suite, run)}"
        ),
        make=partial(load_maps, points, run.config.moe.top_k, collapsed_layers(run)),
    )


def _last_look(run: Run) -> str:
    """Which text the title's numbers are of: a run still going has no test result, but an evaluation so far."""
    if run.reason != GOING:
        return "held-out text at the last step"
    return f"{run.evaluations[-1].split} text at step {count(run.evaluations[-1].step)}, the latest evaluation"


def _of(run: Run, points: Sequence[LoadPoint]) -> list[LoadPoint]:
    return [point for point in points if (point.arm, point.seed) == (run.arm, run.seed)]


def _counted(suite: Suite, tables: Tables, counts: list[ExpertCount], quantity: Quantity, words: str) -> Drawing:
    sample = training_sample(suite, tables.load_over_steps[0].steps)
    return Drawing(
        name=f"experts-{quantity}",
        section="collapse",
        tables=("load_over_steps",),
        title=count_finding(counts, quantity),
        reading=f"A number of experts. {words} Counted on each expert's % of the training assignments ({sample}).",
        make=partial(expert_count_curves, counts, legend_of(suite), quantity),
    )


def training_sample(suite: Suite, steps: int) -> str:
    """`n = 4,096 tokens a step`."""
    config = suite.runs[0].config
    tokens = f"n = {count(config.training.batch_size * config.data.block_size)}{GAP}tokens a step"
    return tokens if steps == 1 else f"{tokens}, averaged over {steps} steps"
