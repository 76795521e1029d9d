"""`suite`: the arms of a suite, trained one after another or side by side, or what they would cost."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.commands.arguments import Arguments, Command
from moe_emergence.commands.fields import fields_of
from moe_emergence.commands.findings import print_closing
from moe_emergence.commands.printing import human, is_first_process, print_rows
from moe_emergence.config import RunConfig
from moe_emergence.errors import ConfigError
from moe_emergence.experiments.suites import SUITES, Suite, suite_named
from moe_emergence.interrupt import stop_requests

INEXACT = "continue also where configuration, data or environment have changed; recorded in all that follows"
ARMS_OWN = ("name", "question", "seed")
"""Fields that a suite sets for each of its runs."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A suite to be run: where, with which seeds, in how many processes; `command` is what was typed."""

    suite: Suite
    folder: Path
    seeds: tuple[int, ...]
    workers: int | None
    quiet: bool
    allow_inexact: bool
    command: str


def command() -> Command:
    """What `suite` takes."""
    suite = Command("suite", "Train the arms of a suite; the same command continues it. Fields apply to every arm.")
    suite.position("suite", f"its name: {', '.join(SUITES)}")
    add_run_options(suite, None)
    suite.option("arms", str | None, None, "some of its arms alone, as in dense,moe")
    suite.option("corpus", str | None, None, "the same as --data.corpus: embedded, or a folder with a file a domain")
    suite.flag("dry-run", "print parameters, memory and FLOPs of each arm, and stop")
    suite.fields(field for field in fields_of(RunConfig) if field.name not in ARMS_OWN)
    return suite


def add_run_options(command: Command, out: str | None) -> None:
    """Where to, how many seeds, how many processes."""
    command.option("out", str | None, out, "the folder of its runs (runs/ and the suite's name if not given)")
    command.option("seeds", int, 1, "how many seeds each arm is trained with")
    command.option("seed", int, 42, "the first of them; the others follow")
    command.option(
        "workers", int | None, None, "runs side by side, one CPU thread each; null: one per core where small"
    )
    command.flag("quiet", "no progress")
    command.flag("allow-inexact", INEXACT)


def run(arguments: Sequence[str]) -> None:
    """Train the suite, or print what it would cost."""
    given = command().parse(arguments)
    suite = suite_named(given["suite"])
    suite = suite if given["arms"] is None else suite.only(given["arms"].split(","))
    suite = suite.override(changes(given))
    order = order_of(suite, given, shlex.join(["moe-emergence", "suite", *arguments]))
    if given["dry_run"]:
        _print_costs(suite)
    else:
        complete(order)


def changes(given: Arguments) -> dict[str, Any]:
    """Dotted fields that were given, under their own names or as `--corpus` and the like."""
    short = {"corpus": "data.corpus", "device": "execution.device", "base": "base"}
    named = {field: given.options.get(option) for option, field in short.items()}
    return given.fields | {field: value for field, value in named.items() if value is not None}


def order_of(suite: Suite, given: Arguments, command: str) -> Order:
    """Check what was given and fill in what was not."""
    for name in ("seeds", "workers"):
        if given[name] is not None and given[name] < 1:
            raise ConfigError(f"--{name} must be at least 1; got {given[name]}")
    return Order(
        suite=suite,
        folder=Path(given["out"] or f"runs/{suite.name}"),
        seeds=tuple(range(given["seed"], given["seed"] + given["seeds"])),
        workers=given["workers"],
        quiet=given["quiet"],
        allow_inexact=given["allow_inexact"],
        command=command,
    )


def complete(order: Order) -> None:
    """Train what is not yet trained, then measure and write the page."""
    with stop_requests():
        carry_out(order)
        if is_first_process():
            close(order.folder, quiet=order.quiet)


def carry_out(order: Order) -> None:
    """Train what is not yet trained."""
    from moe_emergence.tracking.console import RunConsole
    from moe_emergence.training.suite import run_suite

    with RunConsole(quiet=order.quiet) as console:
        run_suite(
            order.suite,
            order.folder,
            seeds=order.seeds,
            workers=order.workers,
            console=console,
            command=order.command,
            allow_inexact=order.allow_inexact,
        )


def close(folder: Path, *, quiet: bool = False) -> None:
    """Measure; write the tables and the page; print what came out and where it is."""
    from moe_emergence.analysis.reading import read_suite
    from moe_emergence.analysis.stored import analysed
    from moe_emergence.report.page import write_report
    from moe_emergence.tracking.console import StageConsole
    from moe_emergence.training.runtime import processors

    suite = read_suite(folder)
    with StageConsole(quiet=quiet) as progress:
        tables = analysed(suite, progress, workers=processors())
        page = write_report(suite, tables, progress)
    print_closing(suite, tables)
    print(f"page: {page}")


def _print_costs(suite: Suite) -> None:
    from moe_emergence.training.suite import dry_run

    rows = [
        {
            "arm": cost["arm"],
            "parameters": cost["parameters"],
            "active a token": cost["active_parameters"],
            "weights, gradients, AdamW": human(float(cost["state_bytes"]), ("B", "KiB", "MiB", "GiB", "TiB"), 1024),
            "tokens": cost["tokens"],
            "FLOPs": f"{cost['flops']:.3g}",
        }
        for cost in dry_run(suite)
    ]
    print_rows(f"{suite.name}: what one seed of each arm costs (memory without activations)", rows)
