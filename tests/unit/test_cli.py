"""The command line: exit codes, one clear line for a mistake, quick help."""

import errno
import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

import moe_emergence
from moe_emergence import cli
from moe_emergence.errors import CheckpointError, ConfigError, DataError, Interrupted

LOADED = """
import sys
from moe_emergence import cli
assert cli.main({arguments}) == 0
print([name for name in {heavy} if name in sys.modules])
"""
HEAVY = ["torch", "transformers", "matplotlib", "pyarrow", "scipy"]
COMMANDS = list(cli.COMMANDS)


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], None]:
    """Let `report` do nothing but raise."""

    def replace(error: BaseException | None) -> None:
        module = ModuleType("moe_emergence.commands.report")

        def run(arguments: list[str]) -> None:
            if error is not None:
                raise error

        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "moe_emergence.commands.report", module)

    return replace


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_every_command_has_a_module() -> None:
    for name in cli.COMMANDS:
        module = importlib.import_module(f"moe_emergence.commands.{name.replace('-', '_')}")
        assert callable(module.run)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"moe-emergence {moe_emergence.__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


def test_no_command_shows_the_usage_as_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert _said(capsys).startswith("usage: moe-emergence COMMAND")


@pytest.mark.parametrize(
    ("typed", "meant"), [("quikstart", "quickstart"), ("pretrain", "pretrain-base"), ("trian", "train")]
)
def test_a_mistyped_command_gets_the_nearest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([typed]) == 2
    assert _said(capsys) == f"error: there is no command {typed!r}. Did you mean {meant}?\n"


def test_a_command_like_no_other_gets_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["xyz"]) == 2
    assert "Choose from quickstart, suite, train" in _said(capsys)


@pytest.mark.parametrize("error", [ConfigError("a\n b"), DataError("a b"), CheckpointError("a  b")])
def test_a_mistake_is_one_line_and_exit_2(
    error: Exception, command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(error)
    assert cli.main(["report"]) == 2
    assert _said(capsys) == "error: a b\n"


def test_a_stop_on_request_exits_75(
    command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(Interrupted("stopped at step 3; the same command continues it"))
    assert cli.main(["report"]) == 75
    assert _said(capsys) == "stopped at step 3; the same command continues it\n"


def test_ctrl_c_exits_130(command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    command_that(KeyboardInterrupt())
    assert cli.main(["report"]) == 130
    assert _said(capsys) == "interrupted\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR])
def test_disk_trouble_names_the_path(
    code: int, command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(OSError(code, os.strerror(code), "/runs/x"))
    assert cli.main(["report"]) == 2
    said = _said(capsys)
    assert said.startswith(f"error: /runs/x: {os.strerror(code)}: ")
    assert said.count("\n") == 1


def test_a_full_disk_is_known_from_other_libraries_errors(
    command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(RuntimeError("Error while serializing: No space left on device (os error 28)"))
    assert cli.main(["report"]) == 2
    assert "free some space" in _said(capsys)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), FileNotFoundError(errno.ENOENT, "x", "y"), KeyError("x")])
def test_a_defect_keeps_its_traceback(error: Exception, command_that: Callable[[BaseException], None]) -> None:
    command_that(error)
    with pytest.raises(type(error)):
        cli.main(["report"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    ended = subprocess.run(
        f"{sys.executable} -m moe_emergence.cli train --print_config | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_top_level_loads_nothing_heavy(arguments: list[str]) -> None:
    assert _loaded(arguments, [*HEAVY, "jsonargparse", "rich"]) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    assert _loaded([command, "--help"], HEAVY) == []


@pytest.mark.parametrize("command", [None, "quickstart", "train", "suite"])
def test_help_takes_at_most_a_second(command: str | None) -> None:
    """Processor time, the least of three: wall time would measure what else the machine does."""
    arguments = [sys.executable, "-m", "moe_emergence.cli", *([command] if command else []), "--help"]
    assert min(_processor_seconds(arguments) for _ in range(3)) <= 1


def _loaded(arguments: list[str], heavy: list[str]) -> list[str]:
    code = LOADED.format(arguments=arguments, heavy=heavy)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(ended.stdout.splitlines()[-1].replace("'", '"')))


def _processor_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
