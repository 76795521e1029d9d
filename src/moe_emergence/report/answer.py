"""The box at the top of the page: what came out, in plain words with numbers, and what it does not say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.losses import ArmRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.findings import place, slots
from moe_emergence.report.numbers import count, decimal, difference, listed, loss, number_list, percent, plural

NO_CLAIM = (
    "A heatmap alone proves nothing: a random gate on these hidden states also separates domains, so this page shows "
    "where tokens go and does not yet say whether experts specialise."
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One heading of the box and its sentences; `alert` marks what a reader must not miss."""

    heading: str
    sentences: tuple[str, ...]
    alert: bool = False


def answers(suite: Suite, tables: Tables) -> list[Answer]:
    """LM loss, balance, collapse, what ended early or is missing, what is not claimed; empty ones are left out."""
    box = [
        Answer(heading="LM loss", sentences=tuple(_loss(suite, tables.arms))),
        Answer(heading="Balance", sentences=tuple(_balance(tables.routing))),
        Answer(heading="Collapse", sentences=tuple(_collapse(suite, tables.routing))),
        Answer(heading="Ended early", sentences=tuple(_ended_early(suite)), alert=True),
        Answer(heading="Missing", sentences=tuple(_missing(suite)), alert=True),
        Answer(heading="Specialisation", sentences=(NO_CLAIM,) if tables.routing else ()),
    ]
    return [answer for answer in box if answer.sentences]


def too_short(suite: Suite) -> str | None:
    """The warning of a first look, for the page's first lines; None when the suite is conclusive."""
    return None if suite.conclusive else f"Too short for conclusions{f' ({suite.note})' if suite.note else ''}."


def _loss(suite: Suite, arms: Sequence[ArmRow]) -> Iterator[str]:
    done = [row for row in arms if row.lm_loss_macro is not None]
    if not done:
        return
    steps = sorted({run.last_step for run in suite.runs})
    losses = listed([_arm_loss(row, suite.dense) for row in done])
    after = f"{count(steps[0])}–{count(steps[-1])}" if len(steps) > 1 else count(steps[0])
    domains = plural(len(suite.domains), "domain")
    yield f"After {after} steps, LM loss on held-out test text, mean over {domains}, in nats a token: {losses}."
    if len(done) > 1:
        seeds = max(row.runs for row in done)
        of = "one seed an arm" if seeds == 1 else f"means over {plural(seeds, 'seed')} an arm"
        yield f"These are {of}, without intervals: small differences may be chance."


def _arm_loss(row: ArmRow, dense: str | None) -> str:
    compared = "" if row.arm == dense or row.difference_to_dense is None else _against(row.difference_to_dense, dense)
    return f"{row.arm} {loss(row.lm_loss_macro)}{compared}"


def _against(gap: float, dense: str | None) -> str:
    return f" ({difference(gap)} against {dense})"


def _balance(routing: Sequence[RoutingRow]) -> Iterator[str]:
    busiest = [
        max((row for row in routing if row.arm == arm), key=lambda row: row.max_load)
        for arm in dict.fromkeys(row.arm for row in routing)
    ]
    if busiest:
        yield f"The busiest expert of each arm takes: {listed([_busiest(row, routing) for row in busiest])}."


def _busiest(row: RoutingRow, routing: Sequence[RoutingRow]) -> str:
    share = f"{percent(row.max_load)} of the {slots(row)} in {place(row, routing)}"
    return f"{row.arm} {share} ({decimal(row.max_violation + 1)} times an equal share)"


def _collapse(suite: Suite, routing: Sequence[RoutingRow]) -> Iterator[str]:
    quiet: list[str] = []
    for arm in dict.fromkeys(row.arm for row in routing):
        found = [
            sentence
            for run in suite.runs_of(arm)
            for row in routing
            if (row.arm, row.seed) == (arm, run.seed)
            for sentence in _layer_collapse(run, row, several=len(suite.seeds) > 1)
        ]
        quiet += [] if found else [arm]
        yield from found
    if quiet:
        yield f"None found in {listed(quiet)}: no collapse in training, no hot and no dead expert at the end."


def _layer_collapse(run: Run, row: RoutingRow, *, several: bool) -> Iterator[str]:
    events = [event for event in run.collapses if event.layer == row.layer and event.state == "collapsed"]
    if not (events or row.hot or row.dead):
        return
    where = f"{run.arm}{f', seed {run.seed}' if several else ''}, layer {row.layer}"
    signs = "signs of collapse at the end" if row.hot else "dead experts at the end"
    said = (
        f"collapse found in training at step {count(events[0].step)}" if events else f"{signs}, no collapse in training"
    )
    ended = ", ended since" if events and row.detector == "healthy" else ""
    yield (
        f"{where}: {said}{ended}; on test at step {count(row.step)}, hot experts: {number_list(row.hot)}; dead "
        f"experts: {number_list(row.dead)} ({len(row.dead)} of {row.experts})."
    )


def _ended_early(suite: Suite) -> Iterator[str]:
    for run in suite.runs:
        if run.reason != "finished":
            where = f"step {count(run.last_step)} of {count(run.config.training.steps)}"
            yield f"{run.arm}, seed {run.seed}: at {where}, because of {run.reason}; its numbers are of that step."


def _missing(suite: Suite) -> Iterator[str]:
    for run in suite.missing:
        yield f"{run.arm}, seed {run.seed}: {run.reason}. Nothing on this page includes it."
