"""What a disk may hold after a power cut: the least that the calls to fsync allow.

A process that is killed leaves its writes to the system, which completes them; a machine that loses power does not.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_MOVES, _MAKES = ("rename", "replace"), ("open", "safetensors", "arrow")
_WRITES = ("open", "write", "truncate", "ftruncate", "safetensors", "arrow")


def cut_power(run: Path, before: Path, journal: Sequence[Sequence[Any]], *, names_kept: bool) -> None:
    """Take from `run` what was not synced when the process died.

    Args:
        before: the run's folder when the process started; all of it counts as synced.
        journal: the operations since then, each as [kind, path, where it moves to, …].
        names_kept: whether renames and new names whose folder was not synced survive; removals always do.
    """

    def before_it(path: str) -> Path:
        return before / Path(path).relative_to(os.path.realpath(run))

    if not names_kept:
        _lose_names(journal, lambda path: before_it(path).exists())
    for path, synced in _unsynced(journal).items():
        if os.path.isfile(path):
            _take_content(Path(path), before_it(path), synced)


def _unsynced(journal: Sequence[Sequence[Any]]) -> dict[str, int | None]:
    """Files written since their last fsync, under the names they have now, and how many of their bytes it made last."""
    dirty: set[str] = set()
    lasting: dict[str, int] = {}
    for kind, path, to, _, _, synced in journal:
        if kind in _WRITES:
            dirty.add(path)
        elif kind in ("fsync", "fdatasync"):
            dirty.discard(path)
            lasting[path] = synced
        elif kind in _MOVES:
            dirty = {_moved(name, path, to) for name in dirty if name != to}
            lasting = {_moved(name, path, to): size for name, size in lasting.items() if name != to}
    return {path: lasting.get(path) for path in dirty}


def _moved(name: str, path: str, to: str) -> str:
    return to + name[len(path) :] if name == path or name.startswith(path + os.sep) else name


def _take_content(path: Path, before: Path, synced: int | None) -> None:
    """Back to what was synced; else to the beginning that was there before, if it grew from it; else to nothing."""
    new = path.read_bytes()
    old = new[:synced] if synced is not None else before.read_bytes() if before.is_file() else b""
    path.write_bytes(old if new.startswith(old) else b"")


def _lose_names(journal: Sequence[Sequence[Any]], was_there: Callable[[str], bool]) -> None:
    """Take back, last first, each rename, new folder and new file whose parent was not synced afterwards."""
    for number in range(len(journal) - 1, -1, -1):
        kind, path, to, *_ = journal[number]
        name = to if kind in _MOVES else path
        later = journal[number + 1 :]
        if any(entry[0] == "fsync" and entry[1] == os.path.dirname(name) for entry in later):
            continue
        if kind in _MOVES and os.path.isdir(to):
            shutil.move(to, path)
        elif kind == "mkdir" and os.path.isdir(path) and not was_there(path):
            shutil.rmtree(path)
        elif kind in _MAKES and os.path.isfile(path) and not was_there(path):
            os.unlink(path)
