"""Progress: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import io
import pickle
import re
from functools import partial

import pytest
from rich.console import Console

from moe_emergence.tracking import console as module
from moe_emergence.tracking.console import RunConsole, StageConsole

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error that goes to a file."""
    file = io.StringIO()
    monkeypatch.setattr(module, "Console", partial(Console, file=file))
    return file


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error that goes to a terminal."""
    file = _Terminal()
    monkeypatch.setattr(module, "Console", partial(Console, file=file))
    return file


def _train(*, load: float | None = 0.21, quiet: bool = False) -> None:
    with RunConsole(quiet=quiet) as console:
        console.note("data is ready")
        console.start("moe", 20, 4096)
        for step in range(1, 21):
            console.update(step, 3.5, load, 10_200.0)
        console.finish("finished at step 20")


def test_plain_lines_come_at_every_tenth_of_the_steps(log: io.StringIO) -> None:
    _train()
    lines = log.getvalue().splitlines()
    assert lines[:2] == ["data is ready", "moe: 20 steps of 4,096 tokens"]
    assert [int(re.findall(r"step (\d+)/20", line)[0]) for line in lines[2:-1]] == list(range(2, 21, 2))
    assert lines[-1] == "moe: finished at step 20"


def test_a_plain_line_has_loss_load_speed_and_time_left(log: io.StringIO) -> None:
    _train()
    line = log.getvalue().splitlines()[2]
    assert re.fullmatch(r"moe: step 2/20, LM loss 3\.500, largest load 0\.21, 10\.2k tokens/s, \d+:\d\d left", line)


def test_a_dense_run_has_no_load(log: io.StringIO) -> None:
    _train(load=None)
    assert "LM loss 3.500, 10.2k" in log.getvalue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be moved by hand."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_slow_run_says_something_every_ten_seconds(log: io.StringIO, clock: list[float]) -> None:
    console = RunConsole()
    console.start("moe", 1000, 4096)
    for step in range(1, 13):
        clock[0] += 3.0
        console.update(step, 3.5, None, 1365.0)
    assert re.findall(r"step (\d+)/", log.getvalue()) == ["4", "8", "12"]


def test_time_left_counts_what_happens_between_steps(log: io.StringIO, clock: list[float]) -> None:
    console = RunConsole()
    console.start("moe", 10, 1000)
    for step in (1, 2, 3):
        clock[0] += 60.0  # the step itself takes 1 s, an evaluation the rest
        console.update(step, 3.5, None, 1000.0)
    assert "step 1/10, LM loss 3.500, 1.0k tokens/s, 0:09 left" in log.getvalue()
    assert "step 3/10, LM loss 3.500, 1.0k tokens/s, 7:00 left" in log.getvalue()


def test_a_continued_run_starts_where_it_is(log: io.StringIO) -> None:
    console = RunConsole()
    console.start("moe", 100, 100)
    console.update(91, 3.5, None, 100.0)
    assert "step 91/100, LM loss 3.500, 100 tokens/s, 0:09 left" in log.getvalue()


def test_hours_are_shown_as_hours(log: io.StringIO, clock: list[float]) -> None:
    console = RunConsole()
    console.start("moe", 10_000, 100)
    clock[0] = 11.0
    console.update(1000, 3.5, None, 200.0)
    assert "200 tokens/s, 1:15:00 left" in log.getvalue()


def test_a_terminal_gets_a_bar_that_is_taken_away(terminal: io.StringIO) -> None:
    _train()
    drawn = terminal.getvalue()
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # the cursor hidden, and given back
    assert "20/20 LM loss 3.500, largest load 0.21, 10.2k tokens/s, 0:00 left" in ESCAPES.sub("", drawn)
    assert COLOUR.search(drawn)


def test_no_color_leaves_a_bar_without_colour(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _train()
    assert "20/20" in terminal.getvalue()
    assert not COLOUR.search(terminal.getvalue())


def test_a_dumb_terminal_gets_plain_lines(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    _train()
    assert "\x1b" not in terminal.getvalue()
    assert "moe: step 20/20" in terminal.getvalue()


def test_a_process_beside_others_writes_plain_lines(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.multiprocessing, "parent_process", lambda: object())
    _train()
    assert "\x1b" not in terminal.getvalue()
    assert "moe: step 20/20" in terminal.getvalue()


def test_the_cursor_comes_back_after_an_error(terminal: io.StringIO) -> None:
    def fail() -> None:
        with RunConsole() as console:
            console.start("moe", 10, 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_quiet_says_nothing_to_a_file(log: io.StringIO) -> None:
    _train(quiet=True)
    assert log.getvalue() == ""


def test_quiet_says_nothing_to_a_terminal(terminal: io.StringIO) -> None:
    _train(quiet=True)
    assert terminal.getvalue() == ""


def test_a_note_names_its_run_and_is_printed_as_it_is(log: io.StringIO) -> None:
    console = RunConsole()
    console.note("before [bold]any[/] run :smile:")
    console.start("moe", 10, 10)
    console.note("layer 2 " + 30 * "collapsed ")
    console.finish("finished")
    console.note("after")
    lines = log.getvalue().splitlines()
    assert lines[0] == "before [bold]any[/] run :smile:"
    assert lines[2] == "moe: layer 2 " + 30 * "collapsed "
    assert lines[-1] == "after"


def test_one_console_serves_run_after_run(terminal: io.StringIO) -> None:
    with RunConsole() as console:
        for name in ("dense", "moe"):
            console.start(name, 2, 10)
            console.update(2, 3.5, None, 10.0)
            console.note("an event")
            console.finish("finished")
    shown = ESCAPES.sub("", terminal.getvalue())
    assert "dense: finished" in shown
    assert "moe: finished" in shown


def test_it_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    RunConsole().note("x")
    assert capsys.readouterr() == ("", "x\n")


def test_it_goes_to_another_process() -> None:
    assert isinstance(pickle.loads(pickle.dumps(RunConsole(quiet=True))), RunConsole)


def test_a_stage_writes_a_line_now_and_then_with_the_time_left(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 5.0, 10.0, 12.0, 20.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with StageConsole() as progress:
        for done in range(5):
            progress("moe: causal tests", done, 8)
        progress("top2: causal tests", 0, 8)
    assert log.getvalue().splitlines() == [
        "moe: causal tests: 2/8, 0:30 left",
        "moe: causal tests: 4/8, 0:20 left",
    ]


def test_parts_found_done_say_nothing_of_the_time_left_and_a_stage_that_had_lines_says_that_it_is_done(
    log: io.StringIO, clock: list[float]
) -> None:
    with StageConsole() as progress:
        clock[0] = 11.0
        for done in range(561):  # kept from an earlier analysis: all pass at once
            progress("moe: causal tests", done, 1001)
        for done in range(561, 1002):
            clock[0] += 0.125
            progress("moe: causal tests", done, 1001)
        progress("top2: causal tests", 0, 2)
        progress("top2: causal tests", 2, 2)  # no line before, so none at its end
    first, *lines, last = log.getvalue().splitlines()
    assert first == "moe: causal tests: 1/1001"
    paces = ((640, "45"), (720, "35"), (800, "25"), (880, "15"), (960, "05"))
    assert lines == [f"moe: causal tests: {done}/1001, 0:{seconds} left" for done, seconds in paces]
    assert last == "moe: causal tests: 1001/1001, done in 0:55"


def test_a_stage_that_starts_half_done_has_no_time_left_to_tell(log: io.StringIO, clock: list[float]) -> None:
    with StageConsole() as progress:
        clock[0] = 10.0
        progress("causal tests", 560, 1001)
    assert log.getvalue().splitlines() == ["causal tests: 560/1001"]


def test_a_bar_says_when_its_stage_is_done(terminal: io.StringIO, clock: list[float]) -> None:
    with StageConsole() as progress:
        progress("causal tests", 0, 2)
        clock[0] = 70.0
        progress("causal tests", 2, 2)
    assert "2/2 done in 1:10" in ESCAPES.sub("", terminal.getvalue())


def test_stages_that_are_short_each_still_write_a_line_now_and_then(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 2.0, 6.0, 7.0, 11.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with StageConsole() as progress:
        for stage in ("measuring", "drawing figures"):
            progress(stage, 0, 2)
            progress(stage, 1, 2)
    assert log.getvalue().splitlines() == ["drawing figures: 1/2, 0:04 left"]


def test_a_stage_is_a_bar_on_a_terminal_and_silent_when_quiet(terminal: io.StringIO) -> None:
    with StageConsole() as progress:
        progress("causal tests [moe]", 3, 8)
    assert "causal tests [moe]" in ESCAPES.sub("", terminal.getvalue())
    assert "3/8" in ESCAPES.sub("", terminal.getvalue())
    before = terminal.getvalue()
    with StageConsole(quiet=True) as progress:
        progress("more", 1, 2)
    assert terminal.getvalue() == before
