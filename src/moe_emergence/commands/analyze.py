"""`analyze`: a suite's measures with their nulls and intervals, as Parquet and JSON, and its verdicts in words."""

from collections.abc import Sequence

from moe_emergence.commands.arguments import Command
from moe_emergence.commands.report import suite_folder
from moe_emergence.interrupt import stop_requests


def command() -> Command:
    """What `analyze` takes."""
    analyze = Command("analyze", "Compute a suite's measures from its records; write Parquet and JSON, print verdicts.")
    analyze.position("runs", "the suite's folder, as in runs/quickstart")
    return analyze


def run(arguments: Sequence[str]) -> None:
    """Measure, write, and say what came out."""
    folder = suite_folder(command().parse(arguments)["runs"])

    from moe_emergence.analysis.export import write_analysis
    from moe_emergence.analysis.reading import read_suite
    from moe_emergence.analysis.tables import make_tables
    from moe_emergence.commands.suite import print_summary

    with stop_requests():
        suite = read_suite(folder)
        tables = make_tables(suite)
        written = write_analysis(suite, tables)
    print_summary(suite, tables)
    print(f"tables: {written}")
