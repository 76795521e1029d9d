"""`report`: a suite's page, anew from its records."""

from collections.abc import Sequence
from pathlib import Path

from moe_emergence.commands.arguments import Arguments, Command
from moe_emergence.errors import RunDirectoryError
from moe_emergence.interrupt import stop_requests


def command() -> Command:
    """What `report` takes."""
    report = Command("report", "Write report.html anew from the records of a suite or of runs; nothing is trained.")
    add_runs(report)
    return report


def add_runs(command: Command) -> None:
    """What to read, and where its results go."""
    command.positions("runs", "the folder of a suite, as in runs/quickstart, or of one or more runs")
    command.option("out", str | None, None, "where results go; several runs need it (if not given: the folder read)")


def run(arguments: Sequence[str]) -> None:
    """Write the page and say where it is."""
    folders, out = given_folders(command().parse(arguments))

    from moe_emergence.report.page import report_of

    with stop_requests():
        print(report_of(*folders, out=out))


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
