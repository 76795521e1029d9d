"""`quickstart`: the main job, from the embedded base to tables and a page."""

import shlex
from collections.abc import Sequence
from typing import Literal

from moe_emergence.commands.arguments import Command
from moe_emergence.commands.suite import add_run_options, changes, complete, order_of
from moe_emergence.config import EMBEDDED
from moe_emergence.experiments.suites import fast, suite_named

PURPOSE = (
    "Train five arms from one dense base (the base trained on, and Mixtures of Experts made from it), then write "
    "tables and one page. The same command continues it. Every other setting: moe-emergence suite quickstart --help."
)


def command() -> Command:
    """What `quickstart` takes."""
    quickstart = Command("quickstart", PURPOSE)
    quickstart.flag("fast", "a first look in some three minutes: too short for conclusions")
    add_run_options(quickstart, None)
    quickstart.option("base", str, EMBEDDED, "embedded, gpt2, or a directory with a GPT-2 model and its tokenizer")
    quickstart.option(
        "corpus", str, EMBEDDED, "embedded, or a folder with one .txt, .jsonl, .parquet or folder a domain"
    )
    quickstart.option("device", Literal["auto", "cpu", "cuda", "mps"], "auto", "where to compute")
    return quickstart


def run(arguments: Sequence[str]) -> None:
    """Train, write the page, print the closing tables."""
    given = command().parse(arguments)
    suite = suite_named("quickstart")
    suite = (fast(suite) if given["fast"] else suite).override(changes(given))
    complete(order_of(suite, given, shlex.join(["moe-emergence", "quickstart", *arguments])))
