"""What a person sees while a run trains: a bar on a terminal, now and then a plain line elsewhere. No torch."""

import multiprocessing
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_SHARE, LINE_SECONDS = 0.1, 10.0
"""A plain line comes after this share of the steps or this time, whichever is first."""

AT_ONCE_SECONDS = 0.02
"""What takes less was not done but found done."""


class RunConsole:
    """The progress of one run after another, on stderr: results go to stdout.

    A process beside others writes plain lines with its run's name, since bars of several would overwrite each other.
    rich answers for NO_COLOR and TERM. As a context manager it gives the terminal back, also after an error.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._progress: Progress | None = None
        self._run = _Run("", 1, 0)

    def __enter__(self) -> "RunConsole":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def start(self, name: str, total_steps: int, tokens_a_step: int) -> None:
        """A run begins, or goes on."""
        self._close()
        self._run = _Run(name, total_steps, tokens_a_step)
        console = self._console()
        if not console.is_terminal or console.is_dumb_terminal:
            self._say(f"{name}: {total_steps} steps of {tokens_a_step:,} tokens")
        elif not self._quiet:
            self._progress = _bar(console)
            self._progress.add_task(name, total=total_steps, measures="")
            self._progress.start()

    def update(self, step: int, lm_loss: float, max_load: float | None, tokens_per_second: float) -> None:
        """After a step (from 1): its LM loss in nats, the largest expert load of any layer if there are experts."""
        measures = self._run.measures(step, lm_loss, max_load, tokens_per_second)
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, measures=measures)
        elif self._run.line_is_due(step):
            self._say(f"{self._run.name}: step {step}/{self._run.total_steps}, {measures}")

    def note(self, text: str) -> None:
        """One line, above the bar if there is one; of a run that writes plain lines, with its name."""
        named = self._run.name and self._progress is None
        self._say(f"{self._run.name}: {text}" if named else text)

    def warn(self, text: str) -> None:
        """One line that must be seen: on stderr also where the run is quiet."""
        self._console().print(f"warning: {text}", markup=False, highlight=False, emoji=False, soft_wrap=True)

    def finish(self, summary: str) -> None:
        """The run ended."""
        self._close()
        self._say(f"{self._run.name}: {summary}")
        self._run = _Run("", 1, 0)

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console().print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _console(self) -> Console:
        if self._progress is not None:
            return self._progress.console
        beside_others = multiprocessing.parent_process() is not None
        return Console(stderr=True, force_terminal=False if beside_others else None)


class StageConsole:
    """The progress of what takes a while outside training, stage after stage, on stderr; called with a stage's name and
    how much of it is done. Elsewhere than on a terminal, a plain line comes now and then, also where every stage is
    short. As a context manager it gives the terminal back, also after an error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._stage, self._pace = "", _Pace(0.0)
        self._said, self._said_of = time.monotonic(), ""

    def __enter__(self) -> "StageConsole":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` parts of `stage` are done."""
        if self._quiet:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._close()
            self._stage, self._pace = stage, _Pace(now)
            if self._console.is_terminal and not self._console.is_dumb_terminal:
                self._progress = _bar(self._console)
                self._progress.add_task(stage, total=total, measures="")
                self._progress.start()
        self._show(done, total, self._pace.measures(done, total, now), now)

    def _show(self, done: int, total: int, measures: str, now: float) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total, measures=measures)
            return
        due = now - self._said >= LINE_SECONDS
        ends = done == total and self._said_of == self._stage
        if done and (due or ends):
            self._said, self._said_of = now, "" if done == total else self._stage
            text = ", ".join(filter(None, (f"{self._stage}: {done}/{total}", measures)))
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Pace:
    """How fast a stage goes, from the parts that took time: those that were kept from earlier pass at once, and say
    nothing of the others."""

    def __init__(self, began: float) -> None:
        self._began, self._seen = began, (0, began)
        self._parts, self._seconds = 0, 0.0

    def measures(self, done: int, total: int, now: float) -> str:
        """`0:30 left`, at the end `done in 1:10`; nothing while no part took time."""
        before, when = self._seen
        self._seen = (done, now)
        if done > before and now - when >= AT_ONCE_SECONDS * (done - before):
            self._parts += done - before
            self._seconds += now - when
        if done == total:
            return f"done in {_duration(now - self._began)}"
        return f"{_duration(self._seconds / self._parts * (total - done))} left" if self._parts else ""


class _Run:
    """How far a run is, and when it was last said."""

    def __init__(self, name: str, total_steps: int, tokens_a_step: int) -> None:
        self.name, self.total_steps, self.tokens_a_step = name, total_steps, tokens_a_step
        self.first: tuple[int, float] | None = None
        self.line = (0, time.monotonic())

    def measures(self, step: int, lm_loss: float, max_load: float | None, tokens_per_second: float) -> str:
        load = "" if max_load is None else f"largest load {max_load:.2f}, "
        left = _duration(self._seconds_left(step, tokens_per_second))
        return f"LM loss {lm_loss:.3f}, {load}{_thousands(tokens_per_second)} tokens/s, {left} left"

    def line_is_due(self, step: int) -> bool:
        then, when = self.line
        due = step - then >= LINE_SHARE * self.total_steps or time.monotonic() - when >= LINE_SECONDS
        if due:
            self.line = (step, time.monotonic())
        return due

    def _seconds_left(self, step: int, tokens_per_second: float) -> float:
        """At the pace since the first update, evaluations included; at the step's own pace before there is one."""
        self.first = self.first or (step, time.monotonic())
        if step > self.first[0]:
            return (time.monotonic() - self.first[1]) / (step - self.first[0]) * (self.total_steps - step)
        return (self.total_steps - step) * self.tokens_a_step / max(tokens_per_second, 1e-9)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measures]}", markup=False),
    )
    return Progress(*columns, console=console, expand=True, redirect_stdout=False, refresh_per_second=4)


def _thousands(rate: float) -> str:
    return f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
