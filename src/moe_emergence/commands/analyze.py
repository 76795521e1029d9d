"""`analyze`: a suite's measures with their nulls and intervals, as Parquet and JSON, and its verdicts in words."""

from collections.abc import Sequence

from moe_emergence.commands.arguments import Command
from moe_emergence.commands.findings import print_measures
from moe_emergence.commands.report import add_runs, given_folders
from moe_emergence.interrupt import stop_requests


def command() -> Command:
    """What `analyze` takes."""
    analyze = Command("analyze", "Compute measures from the records of runs; write Parquet and JSON, print verdicts.")
    add_runs(analyze)
    analyze.flag("all", "every causal test; without it, those of the first page (the rest takes minutes a run)")
    return analyze


def run(arguments: Sequence[str]) -> None:
    """Measure, write, and say what came out."""
    given = command().parse(arguments)
    folders, out = given_folders(given)

    from moe_emergence.analysis.export import FOLDER
    from moe_emergence.analysis.reading import read_given
    from moe_emergence.analysis.scope import ALL, QUICK
    from moe_emergence.analysis.stored import analysed
    from moe_emergence.tracking.console import StageConsole
    from moe_emergence.training.runtime import processors

    with stop_requests(), StageConsole() as progress:
        suite = read_given(folders, out)
        tables = analysed(suite, progress, ALL if given["all"] else QUICK, workers=processors())
    print_measures(suite, tables)
    print(f"tables: {suite.folder / FOLDER}")
