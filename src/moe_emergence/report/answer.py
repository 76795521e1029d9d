"""The box at the top of the page: what came out, in plain words with numbers and intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_emergence.analysis.losses import plain
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.answer_balance import balance_sentences
from moe_emergence.report.answer_evidence import evidence_sentences
from moe_emergence.report.answer_loss import loss_sentences
from moe_emergence.report.answer_specialisation import specialisation_sentences
from moe_emergence.report.numbers import count, listed


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One heading of the box and its sentences, the first of which says most; `alert` marks what must not be missed."""

    heading: str
    sentences: tuple[str, ...]
    alert: bool = False


def answers(suite: Suite, tables: Tables) -> list[Answer]:
    """Specialisation, its evidence, balance, LM loss, what intervals are over, what is going, ended early, went on
    under other conditions, was skipped or is missing; empty ones are left out."""
    box = [
        Answer(heading="Specialisation", sentences=tuple(specialisation_sentences(tables))),
        Answer(heading="Evidence", sentences=tuple(evidence_sentences(suite, tables))),
        Answer(heading="Balance", sentences=tuple(balance_sentences(suite, tables))),
        Answer(heading="LM loss", sentences=tuple(loss_sentences(suite, tables))),
        Answer(heading="Intervals", sentences=tuple(_intervals(suite))),
        Answer(heading="Still going", sentences=tuple(_going(suite)), alert=True),
        Answer(heading="Ended early", sentences=tuple(_ended_early(suite)), alert=True),
        Answer(heading="Continued inexactly", sentences=tuple(_inexact(suite)), alert=True),
        Answer(heading="Skipped steps", sentences=tuple(_skipped(suite)), alert=True),
        Answer(heading="Missing", sentences=tuple(_missing(suite)), alert=True),
    ]
    return [answer for answer in box if answer.sentences]


def too_short(suite: Suite) -> str | None:
    """The warning of a first look, for the page's first lines; None when the suite is conclusive."""
    return None if suite.conclusive else f"Too short for conclusions{f' ({suite.note})' if suite.note else ''}."


def _intervals(suite: Suite) -> Iterator[str]:
    if not suite.runs:
        return
    seeds = len({run.seed for run in suite.runs})
    missing = (
        "Each arm has one seed: what another seed would show is not in them."
        if seeds == 1
        else "They hold for these seeds; how seeds differ is given beside them."
    )
    yield f"Brackets are 95 % intervals over documents of held-out text. {missing}"


def _ended_early(suite: Suite) -> Iterator[str]:
    for run in suite.runs:
        if run.reason != "finished":
            where = f"step {count(run.last_step)} of {count(run.config.training.steps)}"
            yield f"{run.arm}, seed {run.seed}: at {where}, because of {run.reason}; its numbers are of that step."


def _inexact(suite: Suite) -> Iterator[str]:
    for run in suite.runs:
        for continued in run.manifest.inexact:
            changes = "; ".join(f"{name} {plain(then)} → {plain(now)}" for name, then, now in continued.changes)
            yield (
                f"{run.arm}, seed {run.seed}: from step {count(continued.step)} on with other conditions ({changes}). "
                "Its numbers are not those of an uninterrupted run."
            )


def _skipped(suite: Suite) -> Iterator[str]:
    for run in suite.runs:
        if run.skipped:
            causes = "; ".join(dict.fromkeys(skipped.cause for skipped in run.skipped))
            where = listed([count(skipped.step) for skipped in run.skipped])
            yield f"{run.arm}, seed {run.seed}: no update at step {where} ({causes})."


def _going(suite: Suite) -> Iterator[str]:
    """Runs that have begun and not ended: whether they still do or were broken off, records cannot tell."""
    for run in suite.going:
        steps = f"{count(max(run.steps.tolist(), default=0))} of {count(run.config.training.steps)} steps"
        yield (
            f"{run.arm}, seed {run.seed}: training has recorded {steps} and no end; the last trace is of step "
            f"{count(run.last_step)}. No measure includes this run."
        )


def _missing(suite: Suite) -> Iterator[str]:
    going = {(run.arm, run.seed) for run in suite.going}
    for run in suite.missing:
        if (run.arm, run.seed) in going:
            continue
        yield f"{run.arm}, seed {run.seed}: {run.reason}. Nothing on this page includes it."
