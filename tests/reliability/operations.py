"""Every operation of a child on the files of its run, counted; and what can be made to happen at one of them."""

import builtins
import errno
import importlib
import io
import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

from board import Board, wrap

_CREATING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operations:
    """Calls `fault` before everything that changes a file or folder of the run.

    `fault(number, kind, path, half)` may return, raise, or end the process; `half` does half of the operation, where
    an operation has halves. Python's own buffering stays: a write is what reaches the system.
    """

    def __init__(self, folder: str, board: Board, fault: "Fault") -> None:
        self.folder, self.board, self.fault = os.path.realpath(folder), board, fault
        self.real = {name: getattr(os, name) for name in ("open", "write", "ftruncate")}

    def install(self) -> None:
        """Wrap `os`, `open` and the native writers of safetensors and Arrow."""
        for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "truncate", "link", "symlink"):
            wrap(os, name, self._on_path(name))
        for name in ("fsync", "fdatasync", "ftruncate"):
            wrap(os, name, self._on_descriptor(name))
        wrap(os, "write", self._write)
        wrap(os, "open", self._os_open)
        opening = io.open
        for module in (builtins, io):
            setattr(module, "open", lambda *a, **o: self._open(opening, *a, **o))  # noqa: B010
        for module in ("safetensors.torch", "safetensors.numpy"):
            wrap(importlib.import_module(module), "serialize_file", self._native("safetensors"))
        wrap(importlib.import_module("pyarrow.parquet"), "write_table", self._native("arrow"))

    def meet(self, kind: str, path: str, half: Callable[[], Any] | None = None, to: str = "") -> None:
        """Count the operation and let the fault have its say."""
        if path == self.folder or path.startswith(self.folder + os.sep):
            self.fault.meet(self.board, kind, path, half, to)

    def _on_path(self, name: str) -> Callable[..., Any]:
        def around(real: Callable[..., Any], path: Any, *rest: Any, **options: Any) -> Any:
            to = self._absolute(rest[0]) if rest and isinstance(rest[0], str | os.PathLike) else ""
            self.meet(name, self._absolute(path, options.get("dir_fd")), to=to)
            return real(path, *rest, **options)

        return around

    def _on_descriptor(self, name: str) -> Callable[..., Any]:
        def around(real: Callable[..., Any], descriptor: Any, *rest: Any) -> Any:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            self.meet(name, self._of_descriptor(number))
            return real(descriptor, *rest)

        return around

    def _write(self, real: Callable[..., Any], descriptor: int, data: bytes) -> int:
        self.meet("write", self._of_descriptor(descriptor), lambda: real(descriptor, data[: len(data) // 2]))
        return int(real(descriptor, data))

    def _os_open(self, real: Callable[..., Any], path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & _CREATING:
            self.meet("open", self._absolute(path, options.get("dir_fd")))
        return int(real(path, flags, *rest, **options))

    def _open(self, real: Callable[..., Any], file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        """What `open` does, on a raw file that counts its writes."""
        if not set(mode) & set("wax+"):
            return real(file, mode, *rest, **options)
        path = self._of_descriptor(file) if isinstance(file, int) else self._absolute(file)
        if not isinstance(file, int):
            self.meet("open", path)
        raw = _CountedFile(file, mode.replace("b", "").replace("t", ""), closefd=options.pop("closefd", True))
        raw.meet = lambda half: self.meet("write", path, half)
        buffering = rest[0] if rest else options.pop("buffering", -1)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest[1:], **options)

    def _native(self, library: str) -> Callable[..., Any]:
        def around(real: Callable[..., Any], content: Any, where: Any, *rest: Any, **options: Any) -> Any:
            path = self._absolute(where)

            def half() -> None:  # as the libraries leave it: safetensors writes beside, then renames
                real(content, where, *rest, **options)
                self.real["ftruncate"](descriptor := self.real["open"](path, os.O_RDWR), os.path.getsize(path) // 2)
                os.close(descriptor)
                if library == "safetensors":
                    os.system(f"mv '{path}' '{os.path.dirname(path)}/.tmpHaLf00'")

            self.meet(library, path, half)
            return real(content, where, *rest, **options)

        return around

    def _absolute(self, path: Any, folder: int | None = None) -> str:
        given = os.fspath(path)
        given = given.decode() if isinstance(given, bytes) else given
        base = self._of_descriptor(folder) if folder is not None else os.getcwd()
        joined = os.path.normpath(os.path.join(base, given))
        return os.path.join(os.path.realpath(os.path.dirname(joined)), os.path.basename(joined))

    @staticmethod
    def _of_descriptor(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")


class _CountedFile(io.FileIO):
    meet: Callable[[Callable[[], Any]], None]

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        self.meet(lambda: io.FileIO.write(self, content[: len(content) // 2]))
        return super().write(content)


class Fault:
    """What happens at an operation."""

    def meet(self, board: Board, kind: str, path: str, half: Callable[[], Any] | None, to: str) -> None:
        raise NotImplementedError


class Record(Fault):
    """Write down every operation, one JSON line each: kind, path, where it moves to, phase, whether it can be halved,
    and the bytes that an fsync of a file makes last."""

    def __init__(self, *, journal: str, phase: str | None = None) -> None:
        self.journal, self.phase = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND), phase
        self.write = os.write

    def meet(self, board: Board, kind: str, path: str, half: Callable[[], Any] | None, to: str) -> None:
        synced = os.path.getsize(path) if kind == "fsync" and os.path.isfile(path) else 0
        entry = [kind, path, to, board.phase, half is not None, synced]
        self.write(self.journal, (json.dumps(entry) + "\n").encode())


class Die(Record):
    """SIGKILL at the `number`-th operation (from 1): before it, or after half of it."""

    def __init__(self, *, number: int, half: bool, journal: str) -> None:
        super().__init__(journal=journal)
        self.number, self.half = number, half

    def meet(self, board: Board, kind: str, path: str, half: Callable[[], Any] | None, to: str) -> None:
        if board.add("operations") == self.number:
            if self.half and half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        super().meet(board, kind, path, half, to)


class Fail(Fault):
    """An error from the `first`-th operation (from 1) whose kind and path match, on all that follow."""

    def __init__(self, *, operation: str, path: str, error: str, first: int = 1, half: bool = False) -> None:
        self.operation, self.path = re.compile(operation), re.compile(path)
        self.error, self.first, self.half = getattr(errno, error), first, half

    def meet(self, board: Board, kind: str, path: str, half: Callable[[], Any] | None, to: str) -> None:
        if not (self.operation.fullmatch(kind) and self.path.search(path)):
            return
        if board.add("operations") < self.first:
            return
        if self.half and half is not None:
            half()
        raise _error_of(kind, self.error, path)


def _error_of(kind: str, number: int, path: str) -> Exception:
    """As the writer in question would raise it."""
    if kind == "safetensors":
        from safetensors import SafetensorError

        return SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    if kind == "arrow":
        detail = f"Error writing bytes to file. Detail: [errno {number}] {os.strerror(number)}"
        return OSError(number, detail)
    if kind in ("write", "fsync", "fdatasync"):  # a descriptor has no name
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), path)


OPERATION_FAULTS: dict[str, Callable[..., Fault]] = {"record": Record, "die": Die, "fail": Fail}
