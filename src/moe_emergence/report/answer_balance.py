"""What balancing did: the answer box's sentences, and what the collapse detector could and could not see."""

from collections.abc import Iterator, Sequence
from math import ceil

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import count, decimal, listed, span
from moe_emergence.training.collapse import REFERENCE_CHECKS, WINDOW


def balance_sentences(suite: Suite, tables: Tables) -> Iterator[str]:
    """Arms without a balance loss beside those with one, then what max violation means, then the detector's limits."""
    arms = list(dict.fromkeys(row.arm for row in tables.routing))
    without = [arm for arm in arms if _is_unbalanced(suite, arm)]
    with_loss = [arm for arm in arms if arm not in without]
    for arm in without:
        reference = balanced_reference(suite, arm, with_loss)
        against = f"; with it, {reference}: {arm_balance(suite, tables, reference)}" if reference else ""
        yield f"Without the balance loss, {arm}: {arm_balance(suite, tables, arm)}{against}."
        with_loss = [other for other in with_loss if other != reference]
    for arm in with_loss:
        yield f"{arm}: {arm_balance(suite, tables, arm)}."
    if arms:
        yield _scale([row for row in tables.routing if row.arm == arms[0]])
    yield from _detector_limits(suite)
    yield from _warnings(suite, tables)


def _is_unbalanced(suite: Suite, arm: str) -> bool:
    return all(run.config.moe is not None and run.config.moe.balance_coef == 0 for run in suite.runs_of(arm))


def balanced_reference(suite: Suite, arm: str, balanced: Sequence[str]) -> str | None:
    """The arm's baseline where that is balanced, else the first balanced arm not yet spoken of."""
    baseline = next((known.baseline for known in suite.arms if known.name == arm), None)
    return baseline if baseline in balanced else next(iter(balanced), None)


def arm_balance(suite: Suite, tables: Tables, arm: str) -> str:
    """`max violation 4.79 (layer 2), dead experts: up to 5 of 8 a layer, collapse found in training at step 96`."""
    rows = [row for row in tables.routing if row.arm == arm]
    runs = [run for run in suite.runs_of(arm) if any(row.seed == run.seed for row in rows)]
    worst = [max((row for row in rows if row.seed == run.seed), key=lambda row: row.max_violation) for run in runs]
    several = len(runs) > 1
    over = f" over {len(runs)} seeds" if several else f" (layer {worst[0].layer})" if _layers(rows) > 1 else ""
    violation = f"max violation {span([row.max_violation for row in worst], decimal)}{over}"
    marked = [_marked(rows, kind, several) for kind in ("hot", "dead") if any(getattr(row, kind) for row in rows)]
    return ", ".join([violation, *(marked or ["no hot or dead expert"]), _collapse(runs)])


def _layers(rows: Sequence[RoutingRow]) -> int:
    return len({row.layer for row in rows})


def _marked(rows: Sequence[RoutingRow], kind: str, several: bool) -> str:
    """`dead experts: 5 of 8 in layer 2`, `dead experts in 2 of 3 seeds (up to 5 of 8 in a layer)`."""
    found = [(row, len(getattr(row, kind))) for row in rows if getattr(row, kind)]
    if several:
        seeds, all_seeds = len({row.seed for row, _ in found}), len({row.seed for row in rows})
        most = max(number for _, number in found)
        return f"{kind} experts in {seeds} of {all_seeds} seeds (up to {most} of {rows[0].experts} in a layer)"
    where = [f"{number} of {row.experts} in layer {row.layer}" for row, number in found]
    return f"{kind} experts: {listed(where)}"


def _collapse(runs: Sequence[Run]) -> str:
    """When the detector first called a layer of a run collapsed, and whether that ended."""
    first = [
        next((event for event in run.collapses if event.state == "collapsed"), None) for run in runs
    ]  # events are in the order of steps
    found = [(run, event) for run, event in zip(runs, first, strict=True) if event is not None]
    if not found:
        return "no collapse found in training"
    steps = span([event.step for _, event in found], count)
    ended = sum(not _still_collapsed(run) for run, _ in found)
    if len(runs) == 1:
        return f"collapse found in training at step {steps} (layer {found[0][1].layer}{', ended since' * ended})"
    return (
        f"collapse found in training in {len(found)} of {len(runs)} seeds, first at "
        f"step{'s' if ' to ' in steps else ''} {steps}" + (f" (ended since in {ended})" if ended else "")
    )


def _still_collapsed(run: Run) -> bool:
    return "collapsed" in {event.layer: event.state for event in run.collapses}.values()


def _scale(rows: Sequence[RoutingRow]) -> str:
    row = rows[0]
    whole = decimal(row.experts / row.top_k - 1)
    takers = "one expert takes" if row.top_k == 1 else f"{row.top_k} experts take"
    return (
        "Max violation is how far the busiest expert is above an equal share, as a multiple of it: 0 at balance, "
        f"{whole} when {takers} everything."
    )


def _detector_limits(suite: Suite) -> Iterator[str]:
    """Arms whose training was shorter than the windows the detector needs."""
    short = [arm.name for arm in suite.arms if any(_windows(run) < _needed(run) for run in suite.runs_of(arm.name))]
    if short:
        run = suite.runs_of(short[0])[0]
        yield (
            f"In {listed(short)} training was too short for a collapse to be found: the detector needs "
            f"{_needed(run)} windows of {count(WINDOW)} assignments a layer."
        )


def _windows(run: Run) -> int | float:
    """Windows that the run's steps closed; a dense run needs none."""
    moe, training = run.config.moe, run.config.training
    if moe is None:
        return float("inf")
    a_step = training.batch_size * run.config.data.block_size * moe.top_k
    return run.last_step // ceil(WINDOW / a_step)


def _needed(run: Run) -> int:
    return REFERENCE_CHECKS if run.config.training.collapse_rule == "reference" else 2


def _warnings(suite: Suite, tables: Tables) -> Iterator[str]:
    """Layers whose last window was uneven, with no further window to confirm or end it."""
    several = len(suite.seeds) > 1
    rows = [row for row in tables.routing if row.detector == "warning"]
    if rows:
        where = [f"{row.arm}{f', seed {row.seed}' if several else ''}, layer {row.layer}" for row in rows]
        yield (
            f"The collapse detector stood at a warning at the end of training in {listed(where)}: an uneven window, "
            "neither confirmed nor ended by the windows after it."
        )
