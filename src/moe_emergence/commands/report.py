"""`report`: a suite's page, anew from its records."""

from collections.abc import Sequence
from pathlib import Path

from moe_emergence.commands.arguments import Command
from moe_emergence.errors import RunDirectoryError
from moe_emergence.interrupt import stop_requests


def command() -> Command:
    """What `report` takes."""
    report = Command("report", "Write report.html anew from the records of a suite's runs; nothing is trained.")
    report.position("runs", "the suite's folder, as in runs/quickstart")
    return report


def run(arguments: Sequence[str]) -> None:
    """Write the page and say where it is."""
    folder = suite_folder(command().parse(arguments)["runs"])

    from moe_emergence.report.page import report_of

    with stop_requests():
        print(report_of(folder))


def suite_folder(given: str) -> Path:
    """The folder as given.

    Raises:
        RunDirectoryError: there is none.
    """
    folder = Path(given)
    if not folder.is_dir():
        raise RunDirectoryError(f"there is no folder {folder}: give a suite's folder, as in runs/quickstart")
    return folder
