"""A process, or the machine, dies at every operation of one save; and inside the native writers."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import FINISHED, KILLED, Runs, Zygote, checkpoints, digest
from power import cut_power

from moe_emergence.config import RunConfig

STEP = 6
"""Runs are continued from the checkpoint of this step; the save under test is the next one."""


@pytest.fixture(scope="module")
def config(toy_config: Callable[..., RunConfig]) -> RunConfig:
    """Short, with one checkpoint kept, so that a save writes, verifies and removes."""
    return toy_config(training={"steps": 10, "checkpoint_every": 3, "keep_checkpoints": 1, "evaluations": 4})


Operation = tuple[str, str, str, str, bool, int]


@pytest.fixture(scope="module")
def operations(zygote: Zygote, runs: Runs, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Every operation of a continued run: kind, path, target, phase, whether it has halves."""
    folder = tmp_path_factory.mktemp("recorded")
    runs.stopped(config, STEP, folder / "run")
    fault = {"kind": "record", "journal": str(folder / "journal")}
    zygote.train(config, folder / "run", fault=fault).check(FINISHED)
    return read_journal(folder / "journal")


def read_journal(path: Path) -> list[Operation]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def points(operations: list[Operation], full: bool) -> list[tuple[int, bool]]:
    """Where to die: before each operation, and after half of it; in the short form, in the first save alone."""
    first = next(number for number, operation in enumerate(operations) if operation[3] == "save")
    last = next(n for n in range(first, len(operations)) if operations[n][3] != "save")
    chosen = range(len(operations)) if full else range(first, last + 1)
    return [(n + 1, half) for n in chosen for half in (False, True) if not half or operations[n][4]]


def test_a_save_has_the_operations_it_needs(operations: list[Operation]) -> None:
    """Else the tests below would die nowhere: both writers, the rename, the removal."""
    kinds = {kind for kind, _, _, phase, *_ in operations if phase == "save"}
    assert kinds >= {"mkdir", "open", "write"}
    assert kinds & {"rename", "replace"}
    assert kinds & {"unlink", "rmdir"}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("part", [0, 1])
def test_dying_at_any_operation_is_harmless(
    runs: Runs,
    config: RunConfig,
    operations: list[Operation],
    folders: Iterator[Path],
    full: bool,
    figure: Callable[[str], None],
    part: int,
) -> None:
    """Before it and after half of it: of one save, or in the full form of everything up to the end."""
    chosen = points(operations, full)[part::2]
    for number, half in chosen:
        folder = die(runs, config, next(folders), number, half)
        runs.zygote.train(config, folder).check(FINISHED)
        assert digest(folder) == runs.whole(config), f"died at {number} {operations[number - 1]}, half: {half}"
    figure(f"operations: died at {len(chosen)} points (part {part + 1} of 2), all bit-equal")


def die(runs: Runs, config: RunConfig, folder: Path, number: int, half: bool) -> Path:
    runs.stopped(config, STEP, folder)
    journal = str(folder.with_name("journal"))
    fault = {"kind": "die", "number": number, "half": half, "journal": journal}
    runs.zygote.train(config, folder, fault=fault).check(KILLED)
    return folder


@pytest.mark.timeout(900)
def test_dying_at_any_operation_of_the_start_is_harmless(
    runs: Runs, config: RunConfig, folders: Iterator[Path], full: bool, figure: Callable[[str], None]
) -> None:
    """From the run's folder to its first step (in the short form, to its first forward pass): it then starts anew."""
    folder = next(folders)
    journal = folder.with_name("journal")
    runs.zygote.train(config, folder, fault={"kind": "record", "journal": str(journal)}).check(FINISHED)
    phases = [operation[3] for operation in read_journal(journal)]
    last = next(n for n, phase in enumerate(phases) if phase == ("save" if full else "trace"))
    for number in range(1, last + 1):
        folder = next(folders)
        fault = {"kind": "die", "number": number, "half": False, "journal": str(folder.with_name("journal"))}
        runs.zygote.train(config, folder, fault=fault).check(KILLED)
        runs.zygote.train(config, folder).check(FINISHED)
        assert digest(folder) == runs.whole(config), f"died at {number}"
    figure(f"operations of the start: died at {last} points, all bit-equal")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("names_kept", [True, False], ids=["names kept", "names lost"])
def test_losing_power_at_any_operation_is_harmless(
    runs: Runs,
    config: RunConfig,
    operations: list[Operation],
    folders: Iterator[Path],
    full: bool,
    figure: Callable[[str], None],
    names_kept: bool,
) -> None:
    """What was not synced is lost: contents, and in one variant also names."""
    chosen = [(number, half) for number, half in points(operations, full) if not half]
    chosen = chosen if full else chosen[::3]
    for number, _ in chosen:
        folder = next(folders)
        runs.stopped(config, STEP, folder)
        before = folder.with_name("before")
        shutil.copytree(folder, before)
        fault = {"kind": "die", "number": number, "half": False, "journal": str(folder.with_name("journal"))}
        runs.zygote.train(config, folder, fault=fault).check(KILLED)
        cut_power(folder, before, read_journal(folder.with_name("journal")), names_kept=names_kept)
        assert checkpoints(folder), f"no checkpoint after a power cut at {number} {operations[number - 1]}"
        runs.zygote.train(config, folder).check(FINISHED)
        assert digest(folder) == runs.whole(config), f"power cut at {number} {operations[number - 1]}"
    how = "contents" if names_kept else "contents and names"
    figure(f"power cuts: {len(chosen)} points, unsynced {how} lost, all bit-equal")


@pytest.mark.parametrize("dies", [True, False], ids=["killed", "told"])
def test_a_write_torn_inside_the_native_writer(
    runs: Runs, config: RunConfig, folders: Iterator[Path], full: bool, figure: Callable[[str], None], dies: bool
) -> None:
    """The file size limit ends the process within the write, or lets the write fail with EFBIG."""
    sizes = [0, 7, 4096, 20_000, 60_000, 65_536, 100_000, 150_000]
    sizes = sizes if dies else sizes[2:]  # what it says goes to a file too
    sizes = sizes if full else sizes[1::2]
    for size in sizes:
        folder = runs.stopped(config, STEP, next(folders))
        fault = {"kind": "size limit", "size": size, "dies": dies, "save": 1}
        outcome = runs.zygote.command(config, folder, fault=fault)
        if dies:
            outcome.check(-25)
        else:
            outcome.check(2)
            assert str(folder) in outcome.error
        assert checkpoints(folder)[-1].name == f"step-{STEP:06d}"
        runs.check_finishes(config, folder)
    figure(f"native writers: torn at {len(sizes)} sizes, process {'killed' if dies else 'told'}, all bit-equal")
