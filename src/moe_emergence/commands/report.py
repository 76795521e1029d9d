"""`report`: a suite's page, anew from its records."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moe_emergence.commands.arguments import Arguments, Command
from moe_emergence.commands.findings import print_report
from moe_emergence.errors import RunDirectoryError
from moe_emergence.interrupt import stop_requests

if TYPE_CHECKING:  # heavy: imported when there is something to read
    from moe_emergence.analysis.records import Suite
    from moe_emergence.analysis.tables import Tables


def command() -> Command:
    """What `report` takes."""
    report = Command("report", "Write report.html anew from the records of a suite or of runs; nothing is trained.")
    add_runs(report)
    report.flag("text", "print the findings here, as tables and sparklines; write no page")
    return report


def add_runs(command: Command) -> None:
    """What to read, and where its results go."""
    command.positions("runs", "the folder of a suite, as in runs/quickstart, or of one or more runs")
    command.option("out", str | None, None, "where results go; several runs need it (if not given: the folder read)")


def run(arguments: Sequence[str]) -> None:
    """Write the page and say where it is, or print what is on it."""
    given = command().parse(arguments)
    folders, out = given_folders(given)

    with stop_requests():
        if given["text"]:
            print_report(*_analysed(folders, out))
        else:
            print(_page(folders, out))


def _page(folders: Sequence[Path], out: Path | None) -> Path:
    from moe_emergence.report.page import report_of
    from moe_emergence.tracking.console import StageConsole
    from moe_emergence.training.runtime import processors

    with StageConsole() as progress:
        return report_of(*folders, out=out, progress=progress, workers=processors())


def _analysed(folders: Sequence[Path], out: Path | None) -> "tuple[Suite, Tables]":
    from moe_emergence.analysis.reading import read_given
    from moe_emergence.analysis.stored import analysed
    from moe_emergence.tracking.console import StageConsole
    from moe_emergence.training.runtime import processors

    suite = read_given(folders, out)
    with StageConsole() as progress:
        return suite, analysed(suite, progress, workers=processors())


def given_folders(given: Arguments) -> tuple[list[Path], Path | None]:
    """The folders to read, and where results go.

    Raises:
        RunDirectoryError: a folder is not there.
    """
    folders = [Path(name) for name in given["runs"]]
    for folder in folders:
        if not folder.is_dir():
            raise RunDirectoryError(
                f"there is no folder {folder}: give a suite's folder, as in runs/quickstart, or runs' folders"
            )
    return folders, None if given["out"] is None else Path(given["out"])
