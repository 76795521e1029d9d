"""A disk that refuses stops a run in one line with the path; what was kept stays, and the same command goes on."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FAILED, FINISHED, Outcome, Runs, Zygote, checkpoints, tree

from moe_emergence.config import RunConfig

STEP = 6
BYTES = re.compile(r"\d[\d,]* bytes")
FULL = ("ENOSPC", "EDQUOT")

Failure = tuple[str, str, str]
"""Which operation, on which path (regular expressions), with which error."""
LATER: dict[str, Failure] = {
    "metrics, disk full": ("write", r"/metrics\.jsonl$", "ENOSPC"),
    "metrics, input/output error": ("write", r"/metrics\.jsonl$", "EIO"),
    "timings, quota": ("write", r"/timings\.jsonl$", "EDQUOT"),
    "metrics not opened, read-only": ("open", r"/metrics\.jsonl$", "EROFS"),
    "trace, disk full": ("arrow|open", r"/traces/.*parquet", "ENOSPC"),
    "trace, input/output error": ("arrow|write", r"/traces/.*parquet", "EIO"),
    "trace's neighbour, disk full": ("safetensors", r"/traces/", "ENOSPC"),
    "trace not synced": ("fsync", r"/traces/", "EIO"),
    "trace not renamed": ("rename|replace", r"/traces/", "EROFS"),
    "model, disk full": ("safetensors", r"/model\.safetensors", "ENOSPC"),
    "model, input/output error": ("safetensors", r"/model\.safetensors", "EIO"),
    "optimizer, disk full": ("safetensors", r"/optimizer\.safetensors", "ENOSPC"),
    "optimizer, quota": ("safetensors", r"/optimizer\.safetensors", "EDQUOT"),
    "the model's configuration, disk full": ("write", r"step-.*/config\.json", "ENOSPC"),
    "the model's configuration not opened": ("open", r"step-.*/config\.json", "EROFS"),
    "state, disk full": ("write", r"/state\.json", "ENOSPC"),
    "state, input/output error": ("write", r"/state\.json", "EIO"),
    "manifest, quota": ("write", r"step-.*manifest\.json", "EDQUOT"),
    "manifest not opened": ("open", r"step-.*manifest\.json", "EROFS"),
    "manifest not renamed": ("rename|replace", r"step-.*manifest\.json", "EIO"),
    "weights not synced": ("fsync", r"/model\.safetensors", "EIO"),
    "checkpoint not synced": ("fsync", r"/\.step-\d+\.\d+$", "EIO"),
    "parent not synced": ("fsync", r"/checkpoints$", "EIO"),
    "records not synced": ("fsync", r"/metrics\.jsonl$", "EIO"),
    "checkpoint not renamed": ("rename|replace", r"/\.step-\d+\.\d+$", "EIO"),
    "checkpoint's folder not made": ("mkdir", r"/checkpoints/\.step-", "EDQUOT"),
    "records not cut back": ("open|write", r"/\.metrics\.jsonl", "ENOSPC"),
}
REMOVALS: dict[str, Failure] = {
    "old checkpoint not moved away": ("rename|replace", r"/checkpoints/step-\d+$", "EIO"),
    "old files not deleted": ("unlink|remove", r"/checkpoints/", "EIO"),
    "old folder not deleted": ("rmdir", r"/checkpoints/", "EROFS"),
}
AT_THE_START: dict[str, Failure] = {
    "the run's folder not made": ("mkdir", r"/run$", "EROFS"),
    "configuration, disk full": ("open|write", r"/run/\.?config\.json", "ENOSPC"),
    "configuration, quota": ("write", r"/run/\.?config\.json", "EDQUOT"),
    "the run's manifest, disk full": ("write", r"/run/\.?manifest\.json", "ENOSPC"),
    "ancestor, disk full": ("safetensors", r"ancestor", "ENOSPC"),
    "checkpoints' folder not made": ("mkdir", r"/checkpoints$", "ENOSPC"),
    "first trace's folder not made": ("mkdir", r"/traces$", "EROFS"),
}


@pytest.fixture(scope="module")
def config(toy_config: Callable[..., RunConfig]) -> RunConfig:
    """Keeps two checkpoints, so that one goes after STEP."""
    return toy_config(training={"steps": 10, "checkpoint_every": 3, "evaluations": 4})


def check_refused(outcome: Outcome, folder: Path, error: str) -> None:
    """Exit code 2, one line that names a path of the run, and bytes where room is what lacks."""
    outcome.check(FAILED)
    said = outcome.error.strip().splitlines()[-1]
    assert said.startswith("error: "), outcome.error
    assert str(folder) in said, outcome.error
    if error in FULL:
        assert BYTES.search(said), outcome.error


def planted(failure: Failure) -> dict[str, str]:
    operation, path, error = failure
    return {"kind": "fail", "operation": operation, "path": path, "error": error}


@pytest.mark.parametrize("name", LATER)
def test_a_refused_write_stops_a_run_and_loses_nothing(
    runs: Runs, config: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], name: str
) -> None:
    case_of("write failures")
    folder = runs.stopped(config, STEP, next(folders))
    newest = checkpoints(folder)[-1]
    before = tree(newest)
    outcome = runs.zygote.command(config, folder, fault=planted(LATER[name]))
    assert outcome.operations > 0, "the run never did what was to fail"
    check_refused(outcome, folder, LATER[name][2])
    assert tree(newest) == before or checkpoints(folder)[-1] > newest, "it is there, or a newer one is"
    runs.check_finishes(config, folder)


@pytest.mark.parametrize("name", REMOVALS)
def test_an_old_checkpoint_that_cannot_be_removed_loses_nothing(
    runs: Runs, config: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], name: str
) -> None:
    """The run may stop or go on; either way it says so."""
    case_of("write failures")
    folder = runs.stopped(config, STEP, next(folders))
    outcome = runs.zygote.command(config, folder, fault=planted(REMOVALS[name]))
    assert outcome.operations > 0, "the run never did what was to fail"
    outcome.check(FAILED, FINISHED)
    assert str(folder) in outcome.error
    assert checkpoints(folder)[-1].name in ("step-000009", "step-000010")
    runs.check_finishes(config, folder)


@pytest.mark.parametrize("name", AT_THE_START)
def test_a_refused_write_at_the_start(
    runs: Runs, config: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], name: str
) -> None:
    """The same command then starts, or continues, the run."""
    case_of("write failures")
    folder = next(folders)
    outcome = runs.zygote.command(config, folder, fault=planted(AT_THE_START[name]))
    assert outcome.operations > 0, "the run never did what was to fail"
    check_refused(outcome, folder, AT_THE_START[name][2])
    runs.check_finishes(config, folder)


def test_a_suite_that_cannot_be_written_down(
    zygote: Zygote, folders: Iterator[Path], toy_folder: Path, toy_base: Path, case_of: Callable[[str], None]
) -> None:
    case_of("write failures")
    folder = next(folders)
    where = ["--out", str(folder), "--base", str(toy_base), "--corpus", str(toy_folder), "--data.block_size=32"]
    fault = planted(("write|open", r"suite\.json", "ENOSPC"))
    outcome = zygote.call(["suite", "quickstart", *where], folder, fault=fault)
    assert outcome.operations > 0
    check_refused(outcome, folder, "ENOSPC")


# Real disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a tmpfs with these options; skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if made.returncode:
            pytest.skip(f"mounting a tmpfs is not allowed here: {made.stderr.decode().strip()}")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount command here")
@pytest.mark.parametrize("size", ["size=700k", "size=2600k", "size=3200k"])
def test_a_disk_that_fills_up(
    runs: Runs, config: RunConfig, small_disk: Callable[[str], Path], case_of: Callable[[str], None], size: str
) -> None:
    """Given room, the same command goes on, bit-equal."""
    case_of("write failures")
    disk = small_disk(size)
    folder = disk / "run"
    outcome = runs.zygote.command(config, folder)
    check_refused(outcome, disk, "ENOSPC")
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    runs.check_finishes(config, folder)


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount command here")
def test_a_disk_that_turns_read_only(
    runs: Runs, config: RunConfig, small_disk: Callable[[str], Path], case_of: Callable[[str], None]
) -> None:
    case_of("write failures")
    disk = small_disk("size=64m")
    folder = runs.stopped(config, STEP, disk / "run")
    written = disk / "run.yaml"
    written.touch()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = tree(folder)
    outcome = runs.zygote.call(["train", "--out", str(folder), "--resume"], folder)
    check_refused(outcome, folder, "EROFS")
    assert tree(folder) == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    runs.check_finishes(config, folder)


@pytest.mark.parametrize("what", ["run", "run/checkpoints", "run/traces"])
def test_a_folder_that_is_removed_meanwhile(
    runs: Runs, config: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], what: str
) -> None:
    """Within the step after STEP. What can be made again is; what cannot is refused by name; never a traceback."""
    case_of("write failures")
    folder = runs.stopped(config, STEP, next(folders))
    gone = folder.parent / what
    fault = {"kind": "remove", "folder": str(gone), "step": 2}
    outcome = runs.zygote.command(config, folder, fault=fault)
    outcome.check(FAILED, FINISHED)
    if outcome.status == FAILED:
        assert str(folder) in outcome.error
