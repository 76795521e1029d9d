"""Known bugs of other projects, put back one at a time: a test that none of them can fail proves nothing.

    python scripts/mutants.py [--only NAME] [--jobs 2]

copies `src` to a temporary folder for each bug in `known_bugs.py`, changes one place there, runs the tests named beside
it against the copy, and demands that one fails by an assertion or an error of ours. The repository stays as it is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from known_bugs import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "src/moe_emergence"
OURS = ("AssertionError", "assert ", "Failed: DID NOT RAISE", "moe_emergence.errors.")
"""How the message of a failure begins that shows a test, or the product, noticing; others are accidents."""


def mutated(mutant: Mutant, package: Path) -> str:
    """The file with the bug in it; ValueError where the table no longer fits the source."""
    text = (package / mutant.file).read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} times, not once: {mutant.old!r}")
    changed = text.replace(mutant.old, mutant.new)
    compile(changed, mutant.file, "exec")
    return changed


def failures(tests: Sequence[str], root: Path, folder: Path) -> tuple[int, dict[str, str]]:
    """pytest's exit code with `folder`/src in the place of the package, and the message of each test that failed."""
    report = folder / "report.xml"
    options = [f"--basetemp={folder / 'tmp'}", f"--junitxml={report}", "--tb=short"]
    path = os.pathsep.join(filter(None, (str(folder / "src"), os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=root,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    found = {case.get("name", ""): case.find("failure") for case in cases}
    return ended.returncode, {name: case.get("message", "") for name, case in found.items() if case is not None}


def verdict(mutant: Mutant, root: Path, package: str) -> tuple[bool, str]:
    """Whether one of its tests has noticed, and which, or how they ended instead."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = copied(root, Path(name))
        (folder / package / mutant.file).write_text(mutated(mutant, folder / package), "utf-8")
        code, failed = failures(mutant.tests, root, folder)
    by = dict.fromkeys(test.partition("[")[0] for test, message in failed.items() if message.startswith(OURS))
    if code == 1 and by:
        return True, f"{mutant.name}: caught by {', '.join(by)}"
    return False, f"{mutant.name}: SURVIVED (pytest ended with {code}; {'; '.join(failed.values()) or 'no failure'})"


def copied(root: Path, folder: Path) -> Path:
    """A folder with the source tree in it."""
    shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def check(
    mutants: Sequence[Mutant], *, jobs: int, root: Path = ROOT, package: str = PACKAGE, say: Callable[..., None] = print
) -> bool:
    """Print a line a mutant and how many were caught; False if one was not, or a test fails without any of them."""
    for mutant in mutants:
        mutated(mutant, root / package)
    with tempfile.TemporaryDirectory(prefix="clean-") as name:
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        code, failed = failures(tests, root, copied(root, Path(name)))
    if code != 0:
        say(f"without a mutant pytest ended with {code}: {failed}")
        return False
    caught = 0
    with ThreadPoolExecutor(jobs) as pool:
        for noticed, line in pool.map(partial(verdict, root=root, package=package), mutants):
            caught += noticed
            say(line, flush=True)
    say(f"mutants: {caught} of {len(mutants)} caught")
    return caught == len(mutants)


def main() -> None:
    """Exit code 1 if a mutant survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[mutant.name for mutant in MUTANTS], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    sys.exit(not check([m for m in MUTANTS if given.only in (None, m.name)], jobs=given.jobs))


if __name__ == "__main__":
    main()
