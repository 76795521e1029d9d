"""Progress: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import io
import pickle
import re

import pytest

from moe_emergence.tracking import console as module
from moe_emergence.tracking.console import RunConsole

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


def _train(file: io.StringIO, steps: int = 20, load: float | None = 0.21, **options: bool) -> str:
    with RunConsole(file=file, **options) as console:
        console.start("moe", steps, 4096)
        for step in range(1, steps + 1):
            console.update(step, 3.5, load, 10_200.0)
        console.finish("finished at step 20")
    return file.getvalue()


def test_plain_lines_come_at_every_tenth_of_the_steps() -> None:
    lines = _train(io.StringIO()).splitlines()
    assert lines[0] == "moe: 20 steps of 4,096 tokens"
    assert [int(re.findall(r"step (\d+)/20", line)[0]) for line in lines[1:-1]] == list(range(2, 21, 2))
    assert lines[-1] == "moe: finished at step 20"


def test_a_plain_line_has_loss_load_speed_and_time_left() -> None:
    line = _train(io.StringIO()).splitlines()[1]
    assert re.fullmatch(r"moe: step 2/20, LM loss 3\.500, largest load 0\.21, 10\.2k tokens/s, \d+:\d\d left", line)


def test_a_dense_run_has_no_load() -> None:
    assert "load" not in _train(io.StringIO(), load=None)


def test_a_slow_run_says_something_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    file = io.StringIO()
    console = RunConsole(file=file)
    console.start("moe", 1000, 4096)
    for step in range(1, 13):
        now += 3.0
        console.update(step, 3.5, None, 1365.0)
    assert re.findall(r"step (\d+)/", file.getvalue()) == ["4", "8", "12"]


def test_time_left_counts_what_happens_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    file = io.StringIO()
    console = RunConsole(file=file)
    console.start("moe", 10, 1000)
    for step in (1, 2, 3):
        now += 60.0  # the step itself takes 1 s, an evaluation the rest
        console.update(step, 3.5, None, 1000.0)
    assert "step 1/10, LM loss 3.500, 1.0k tokens/s, 0:09 left" in file.getvalue()
    assert "step 3/10, LM loss 3.500, 1.0k tokens/s, 7:00 left" in file.getvalue()


def test_a_continued_run_starts_where_it_is() -> None:
    file = io.StringIO()
    console = RunConsole(file=file)
    console.start("moe", 100, 100)
    console.update(91, 3.5, None, 100.0)
    assert "step 91/100, LM loss 3.500, 100 tokens/s, 0:09 left" in file.getvalue()


def test_a_terminal_gets_a_bar_that_is_taken_away() -> None:
    drawn = _train(_Terminal())
    assert "\x1b[?25l" in drawn  # the cursor hidden …
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # … and given back
    assert "20/20" in drawn
    assert "LM loss 3.500, largest load 0.21, 10.2k tokens/s" in ESCAPES.sub("", drawn)
    assert COLOUR.search(drawn)


def test_no_color_leaves_a_bar_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    drawn = _train(_Terminal())
    assert "20/20" in drawn
    assert not COLOUR.search(drawn)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in _train(_Terminal())


def test_a_process_beside_others_writes_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.multiprocessing, "parent_process", lambda: object())
    drawn = _train(_Terminal())
    assert "\x1b" not in drawn
    assert "moe: step 20/20" in drawn


def test_the_cursor_comes_back_after_an_error() -> None:
    file = _Terminal()
    with pytest.raises(ZeroDivisionError), RunConsole(file=file) as console:
        console.start("moe", 10, 10)
        raise ZeroDivisionError
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize("file", [io.StringIO(), _Terminal()], ids=["plain", "terminal"])
def test_quiet_says_nothing(file: io.StringIO) -> None:
    assert _train(file, quiet=True) == ""
    RunConsole(file=file, quiet=True).note("x")
    assert file.getvalue() == ""


def test_a_note_names_its_run_and_is_printed_as_it_is() -> None:
    file = io.StringIO()
    console = RunConsole(file=file)
    console.note("before [bold]any[/] run :smile:")
    console.start("moe", 10, 10)
    console.note("layer 2 " + 30 * "collapsed ")
    console.finish("finished")
    console.note("after")
    lines = file.getvalue().splitlines()
    assert lines[0] == "before [bold]any[/] run :smile:"
    assert lines[2] == ("moe: layer 2 " + 30 * "collapsed ")
    assert lines[-1] == "after"


def test_it_goes_to_another_process() -> None:
    assert isinstance(pickle.loads(pickle.dumps(RunConsole(quiet=True))), RunConsole)
