"""A run's folder: its frozen configuration, its manifest, its records, its checkpoints and traces."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from moe_emergence.config import RunConfig, flat, from_dict, to_dict
from moe_emergence.errors import RunDirectoryError

CONFIG, MANIFEST, METRICS, TIMINGS = "config.json", "manifest.json", "metrics.jsonl", "timings.jsonl"


class RunDirectory:
    """Where one run is kept; made by `create`, `reopen` or `open_existing`."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self._files: dict[str, TextIO] = {}

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """A new run; never writes into a used folder."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunDirectoryError(f"{path} is already used: choose another folder, or continue it with --resume")
            write_json(path / CONFIG, to_dict(config))
        except OSError as error:
            raise RunDirectoryError(f"cannot write the run to {path}: {error.strerror}") from error
        return cls(path, config)

    @classmethod
    def open_existing(cls, path: Path) -> "RunDirectory":
        """A run that was started before, finished or not."""
        if not (path / CONFIG).exists():
            raise RunDirectoryError(f"no run in {path} (no {CONFIG} there): give the folder of a run")
        try:
            return cls(path, from_dict(dict(json.loads((path / CONFIG).read_text("utf-8")))))
        except (ValueError, TypeError) as error:
            raise RunDirectoryError(f"{path / CONFIG} is damaged ({error}): choose another folder") from error

    @classmethod
    def reopen(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """A run to be continued with the configuration it was started with.

        Raises:
            RunDirectoryError: a field has changed; names it with both values.
        """
        run = cls.open_existing(path)
        then, now = flat(run.config), flat(config)
        changed = [name for name in now | then if then.get(name) != now.get(name)]
        if changed:
            name = changed[0]
            raise RunDirectoryError(
                f"{path} was started with {name} = {then.get(name)!r}, not {now.get(name)!r}: continue it "
                f"unchanged, or choose "
                "another folder"
            )
        return run

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
    def finished(self) -> bool:
        """Whether the run reached its end (its last step, or the stop its configuration allows)."""
        return any(line["event"] == "end" for line in self.read(METRICS))

    @property
    def begun(self) -> bool:
        """Whether the run got as far as its manifest: everything it starts from was there and fitted."""
        return (self.path / MANIFEST).exists()

    def clear_unbegun(self) -> None:
        """Leave the folder free again if the run was refused before it began."""
        if not self.begun:
            (self.path / CONFIG).unlink(missing_ok=True)
            shutil.rmtree(self.data, ignore_errors=True)

    def write_manifest(self, values: dict[str, Any]) -> None:
        write_json(self.path / MANIFEST, values)

    def read_manifest(self) -> dict[str, Any]:
        return json.loads((self.path / MANIFEST).read_text("utf-8"))

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to `metrics.jsonl` or `timings.jsonl`, flushed."""
        if name not in self._files:
            self._files[name] = (self.path / name).open("a", encoding="utf-8")
        file = self._files[name]
        file.write(json.dumps(line) + "\n")
        file.flush()

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a record; a torn last line is passed over."""
        if not (self.path / name).exists():
            return
        for line in (self.path / name).read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)

    def cut_back(self, step: int) -> None:
        """Drop what was recorded after `step`, which a continued run records again."""
        self.close()
        for name in (METRICS, TIMINGS):
            lines = [line for line in self.read(name) if line["step"] <= step]
            temporary = self.path / f".{name}"
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
            os.replace(temporary, self.path / name)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace `path` in one move."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    os.replace(temporary, path)
