"""Known bugs, put back one at a time: the comparison with an undisturbed run must find each."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FINISHED, Runs, digest
from mutants import MUTANTS

from moe_emergence.config import RunConfig


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_known_bug_is_found(
    runs: Runs, twelve: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], mutant: str
) -> None:
    """A run killed in step 9 and continued by broken code fails, or ends otherwise than it should."""
    case_of("mutants")
    folder = runs.stopped(twelve, 8, next(folders))
    if mutant == "records kept":
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"event": "step", "step": 9, "lm_loss": 1.0}\n')
    outcome = runs.zygote.train(twelve, folder, fault={"kind": mutant})
    assert outcome.status != FINISHED or digest(folder) != runs.whole(twelve)
