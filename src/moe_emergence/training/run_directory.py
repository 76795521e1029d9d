"""A run's folder: its frozen configuration, its manifest, its records, its checkpoints and traces."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from moe_emergence.config import RunConfig, flat, from_dict, to_dict
from moe_emergence.errors import RunDirectoryError
from moe_emergence.training import durable

CONFIG, MANIFEST, METRICS, TIMINGS = "config.json", "manifest.json", "metrics.jsonl", "timings.jsonl"
LOCK, DIAGNOSIS, ANCESTOR = ".lock", "diagnosis.json", "ancestor.safetensors"
AFTER_CHECKPOINT = ("evaluation", "trace", "end")
"""Events of a step that come after its checkpoint."""


class RunDirectory:
    """Where one run is kept; made by `create` or `open_existing`.

    Attributes:
        recording: False in processes beside the first one of a run: they read, and record nothing.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self.recording = True
        self._files: dict[str, TextIO] = {}
        self._held = ExitStack()

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """A new run, locked; never writes into a used folder."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, config)
            if is_used(path):
                raise RunDirectoryError(f"{path} is already used: choose another folder, or continue it with --resume")
            run.lock()
            run.write_config(config)
        except OSError as error:
            raise RunDirectoryError(f"cannot write the run to {path}: {error.strerror}") from error
        return run

    @classmethod
    def open_existing(cls, path: Path) -> "RunDirectory":
        """A run that was started before, finished or not; not locked."""
        if not (path / CONFIG).exists():
            raise RunDirectoryError(f"no run in {path} (no {CONFIG} there): give the folder of a run")
        try:
            return cls(path, from_dict(dict(json.loads((path / CONFIG).read_text("utf-8")))))
        except (ValueError, TypeError) as error:
            raise RunDirectoryError(f"{path / CONFIG} is damaged ({error}): choose another folder") from error

    def lock(self) -> None:
        """Keep other processes from training here, until `close` or the end of this process.

        Raises:
            RunDirectoryError: another one does.
        """
        self._held.enter_context(folder_lock(self.path))

    def changes_to(self, config: RunConfig) -> list[tuple[str, Any, Any]]:
        """The fields in which `config` differs from the run's own: (name, then, now)."""
        then, now = flat(self.config), flat(config)
        names = [name for name in now | then if then.get(name) != now.get(name)]
        return [(name, then.get(name), now.get(name)) for name in names]

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def traces(self) -> Path:
        return self.path / "traces"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def finished(self) -> bool:
        """Whether the run reached its end (its last step, or the stop its configuration allows)."""
        return any(line["event"] == "end" for line in self.read(METRICS))

    @property
    def begun(self) -> bool:
        """Whether the run got as far as its manifest: everything it starts from was there and fitted."""
        return (self.path / MANIFEST).exists()

    def clear_unbegun(self) -> None:
        """Leave the folder free again if the run was refused before it began."""
        if self.recording and not self.begun and not self.checkpoints.exists():
            for name in (CONFIG, LOCK, ANCESTOR):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.data, ignore_errors=True)

    def write_config(self, config: RunConfig) -> None:
        """Freeze the configuration."""
        self.config = config
        write_json(self.path / CONFIG, to_dict(config))

    def write_manifest(self, values: dict[str, Any]) -> None:
        write_json(self.path / MANIFEST, values)

    def read_manifest(self) -> dict[str, Any]:
        """What the run's results are to be traced to.

        Raises:
            RunDirectoryError: it cannot be read, or was written by a version that kept other things.
        """
        try:
            values = dict(json.loads((self.path / MANIFEST).read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunDirectoryError(
                f"{self.path / MANIFEST} cannot be read ({error}): restore it, or start the run in another folder"
            ) from error
        lacking = [key for key in ("environment", "data", "base", "forked_from", "inexact") if key not in values]
        if lacking:
            raise RunDirectoryError(
                f"{self.path / MANIFEST} lacks {', '.join(lacking)}: another version wrote it. Continue with that "
                "version, or start the run in another folder"
            )
        return values

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to `metrics.jsonl` or `timings.jsonl`, flushed."""
        if not self.recording:
            return
        text = json.dumps(line) + "\n"
        try:
            if name not in self._files:
                self._files[name] = (self.path / name).open("a", encoding="utf-8")
            self._files[name].write(text)
            self._files[name].flush()
        except OSError as error:
            self._discard(name)
            raise RunDirectoryError(durable.trouble(error, self.path / name, len(text))) from error

    def _discard(self, name: str) -> None:
        """Let go of a record that could not be written: closing it would try, and fail, again."""
        file = self._files.pop(name, None)
        with suppress(OSError):
            if file is not None:
                file.close()

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a record; a torn last line is passed over.

        Raises:
            RunDirectoryError: the file cannot be read, or holds something else.
        """
        if not (self.path / name).exists():
            return
        try:
            for line in (self.path / name).read_text("utf-8").split("\n")[:-1]:
                record = json.loads(line)
                yield {"event": record["event"], "step": int(record["step"])} | record
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunDirectoryError(
                f"{self.path / name} is damaged ({type(error).__name__}: {error}): restore it, or start the run in "
                "another folder"
            ) from error

    def sync_records(self) -> None:
        """Make the records last: a checkpoint relies on those before it."""
        for name in self._files:
            try:
                durable.sync(self.path / name)
            except OSError as error:
                raise RunDirectoryError(f"cannot make {self.path / name} last: {error.strerror}") from error

    def cut_back(self, step: int | None) -> None:
        """Drop what was recorded after the checkpoint of `step` (None: all), which a continued run records again.

        Raises:
            RunDirectoryError: what must have been recorded before it is not there.
        """
        if not self.recording:
            return
        self._close_files()
        kept = {
            name: [line for line in self.read(name) if step is not None and _is_before_checkpoint(line, step)]
            for name in (METRICS, TIMINGS)
        }
        if step is not None:
            self._require_steps(kept[METRICS], step)
        for name, lines in kept.items():
            if (self.path / name).exists():
                durable.write_text(self.path / name, "".join(json.dumps(line) + "\n" for line in lines))

    def _require_steps(self, lines: list[dict[str, Any]], step: int) -> None:
        found = [line["step"] for line in lines if line["event"] in ("step", "skipped")]
        if found != list(range(1, step + 1)):
            missing = min(set(range(1, step + 1)) - set(found), default=step)
            raise RunDirectoryError(
                f"{self.path / METRICS} lacks step {missing}, or has it in the wrong place, but the checkpoint is of "
                f"step {step}: restore it, or start the run in another folder"
            )

    def _close_files(self) -> None:
        for name in list(self._files):
            self._discard(name)

    def close(self) -> None:
        """Close the records and give the folder free for other processes."""
        self._close_files()
        self._held.close()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`; a killed process gives it free.

    Raises:
        RunDirectoryError: another one does, or it cannot be locked.
    """
    durable.make_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(
            f"{folder} is in use: another process trains there. Wait for it or stop it, or choose another folder"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot lock {folder / LOCK}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_used(folder: Path) -> bool:
    """Whether there is anything in it but a lock, or what a run that was killed before its first file has left."""
    if not folder.is_dir():
        return False
    return any(path.name != LOCK and not durable.is_leftover(path) for path in folder.iterdir())


def json_digest(values: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace `path` in one move."""
    durable.write_text(path, json.dumps(values, indent=1) + "\n")


def _is_before_checkpoint(line: dict[str, Any], step: int) -> bool:
    """A checkpoint is taken after the step's update and before its evaluation."""
    return line["step"] < step or (line["step"] == step and line["event"] not in AFTER_CHECKPOINT)
