"""What a child of the zygote is made to suffer: errors and signals at chosen phases, or what its siblings here plan.

Everything is wrapped from outside, in the child alone; the package is not changed.
"""

import importlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

from board import NAMES, PHASES, Board, wrap
from mutants import MUTANTS
from operations import OPERATION_FAULTS, Operations


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
            wrap(importlib.import_module(module), name, _marked(board, phase, passing))


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


def signals_at(
    board: Board, *, phase: str, call: int, number: int, at: int = 0, again: bool = False
) -> Callable[[str, bool], None]:
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

    wrap(GPT2Model, "forward", around)


def _count_forwards(board: Board) -> None:
    """Count the forward passes that begin from now on."""
    from transformers import GPT2Model

    def around(real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        board.add("forwards")
        return real(*arguments, **options)

    wrap(GPT2Model, "forward", around)


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
    wrap(importlib.import_module(module), name, around)


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
    wrap(importlib.import_module(module), name, around)
