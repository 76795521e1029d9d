"""What a child of the zygote is made to suffer: death, errors and signals at chosen operations and phases.

Everything is wrapped from outside, in the child alone; the package is not changed.
"""

import builtins
import errno
import importlib
import io
import json
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

PHASES = {
    "data": [("moe_emergence.training.loop", "prepared_data")],
    "step": [("moe_emergence.training.step", "Stepper.take")],
    "evaluation": [("moe_emergence.training.loop", "evaluate")],
    "trace": [("moe_emergence.training.loop", "write_trace")],
    "save": [("moe_emergence.training.loop", "_Training._save")],
    "analysis": [("moe_emergence.analysis.tables", "information_rows")],
    "report": [("moe_emergence.report.page", "drawings")],
}
"""The functions whose time is a phase; where one is renamed, the child says so and every test fails."""

NAMES = ("starting", *PHASES)
_CREATING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Board:
    """A few numbers shared with the zygote, which outlive the child that writes them."""

    _FIELDS = ("phase", "operations", "forwards")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self._FIELDS))

    def get(self, field: str) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * self._FIELDS.index(field))[0])

    def put(self, field: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self._FIELDS.index(field), value)

    def add(self, field: str) -> int:
        self.put(field, self.get(field) + 1)
        return self.get(field)

    def clear(self) -> None:
        for field in self._FIELDS:
            self.put(field, 0)

    @property
    def phase(self) -> str:
        return NAMES[self.get("phase")]


def plant(fault: dict[str, Any] | None, board: Board, folder: str) -> None:
    """Mark the phases on the board, and prepare the fault: `kind` names it, the rest are its arguments."""
    arguments = dict(fault or {"kind": "none"})
    kind = arguments.pop("kind")
    if kind == "signal":
        watch_phases(board, signals_at(board, **arguments))
        return
    watch_phases(board)
    if kind == "size limit":
        limit_file_size(board, **arguments)
    elif kind == "remove":
        remove_folder(**arguments)
    elif kind in OPERATION_FAULTS:
        Operations(folder, board, OPERATION_FAULTS[kind](**arguments)).install()
    elif kind in MUTANTS:
        MUTANTS[kind]()
    elif kind != "none":
        raise ValueError(f"there is no fault {kind!r}")


# Phases


def watch_phases(board: Board, passing: Callable[[str, bool], None] = lambda phase, leaving: None) -> None:
    """Write the current phase to the board; `passing` is called inside it, before and after the function's own work."""
    for phase, functions in PHASES.items():
        for module, name in functions:
            if phase in ("analysis", "report") and module not in sys.modules:
                continue  # imported by their commands alone
            _wrap(importlib.import_module(module), name, _marked(board, phase, passing))


def _marked(board: Board, phase: str, passing: Callable[[str, bool], None]) -> Callable[..., Any]:
    def around(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        before = board.get("phase")
        board.put("phase", NAMES.index(phase))
        try:
            passing(phase, False)
            result = real(*arguments, **options)
            passing(phase, True)
            return result
        finally:
            board.put("phase", before)

    return around


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a module's function, or a class' method given as Class.method, by one that calls `around` with it."""
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **options: around(real, *arguments, **options))


def signals_at(board: Board, *, phase: str, call: int, number: int, at: int = 0, again: bool = False) -> Callable[[str, bool], None]:
    """Send this process a signal in the `call`-th call (from 1) of a phase's functions.

    Args:
        at: the forward pass of the model within that call (from 1) that it comes in; 0 stands for the call's
            beginning, -1 for its end.
        again: send it twice.
    """
    calls = 0

    def passing(now: str, leaving: bool) -> None:
        nonlocal calls
        if now != phase:
            return
        calls += not leaving
        if calls != call:
            return
        if at > 0 and not leaving:
            _at_forward(board, at, [number] * (1 + again))
        elif at == (-1 if leaving else 0):
            _send(board, [number] * (1 + again))

    return passing


def _send(board: Board, numbers: list[int]) -> None:
    _count_forwards(board)
    for number in numbers:
        os.kill(os.getpid(), number)


def _at_forward(board: Board, wanted: int, numbers: list[int]) -> None:
    from transformers import GPT2Model

    done = 0

    def around(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == wanted:
            _send(board, numbers)
        return real(*arguments, **options)

    _wrap(GPT2Model, "forward", around)


def _count_forwards(board: Board) -> None:
    """Count the forward passes that begin from now on."""
    from transformers import GPT2Model

    def around(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        board.add("forwards")
        return real(*arguments, **options)

    _wrap(GPT2Model, "forward", around)


def limit_file_size(board: Board, *, size: int, dies: bool, save: int) -> None:
    """From the `save`-th save on, no file may grow beyond `size` bytes: the write kills the process, or fails."""
    saves = 0

    def around(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal saves
        saves += 1
        if saves == save:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if dies else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return real(*arguments, **options)

    module, name = PHASES["save"][0]
    _wrap(importlib.import_module(module), name, around)


def remove_folder(*, folder: str, step: int) -> None:
    """Delete a folder as the `step`-th step of this process (from 1) begins."""
    steps = 0

    def around(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step:
            shutil.rmtree(folder)
        return real(*arguments, **options)

    module, name = PHASES["step"][0]
    _wrap(importlib.import_module(module), name, around)


# Operations on files


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
            _wrap(os, name, self._on_path(name))
        for name in ("fsync", "fdatasync", "ftruncate"):
            _wrap(os, name, self._on_descriptor(name))
        _wrap(os, "write", self._write)
        _wrap(os, "open", self._os_open)
        opening = io.open
        for module in (builtins, io):
            setattr(module, "open", lambda *a, **o: self._open(opening, *a, **o))  # noqa: B010
        for module in ("safetensors.torch", "safetensors.numpy"):
            _wrap(importlib.import_module(module), "serialize_file", self._native("safetensors"))
        _wrap(importlib.import_module("pyarrow.parquet"), "write_table", self._native("arrow"))

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
    """Write down every operation: kind, path, and where it moves to, one JSON line each."""

    def __init__(self, *, journal: str, phase: str | None = None) -> None:
        self.journal, self.phase = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND), phase
        self.write = os.write

    def meet(self, board: Board, kind: str, path: str, half: Callable[[], Any] | None, to: str) -> None:
        entry = [kind, path, to, board.phase, half is not None]
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


# Known bugs, to see the tests fail


def order_off_by_one() -> None:
    """A process that continues a run takes every batch of the step after."""
    from moe_emergence.training import loop

    first: list[int] = []

    def around(real: Callable[..., Any], *arguments: Any, step: int, **options: Any) -> Any:
        first.append(step)
        return real(*arguments, step=step + (first[0] > 0), **options)

    _wrap(loop, "make_batch", around)


def moments_lost() -> None:
    """A continued run starts with fresh moments."""
    from moe_emergence.training import checkpoint

    _wrap(checkpoint, "load_optimizer", lambda real, *arguments, **options: None)


def dropout_not_keyed() -> None:
    """Dropout draws from wherever the generator of the process stands."""
    import torch

    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
    _wrap(torch, "manual_seed", lambda real, *arguments: None)


def records_kept() -> None:
    """What was recorded after the checkpoint is not cut off."""
    from moe_emergence.training.run_directory import RunDirectory

    _wrap(RunDirectory, "cut_back", lambda real, *arguments, **options: None)


MUTANTS = {
    "order off by one": order_off_by_one,
    "moments lost": moments_lost,
    "dropout not keyed": dropout_not_keyed,
    "records kept": records_kept,
}
