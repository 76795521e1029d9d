"""Ctrl-C (or a scheduler's SIGTERM) is a request, answered at the end of the step; a second Ctrl-C stops at once.

SIGTERM may come twice: a suite asks its runs to stop when a scheduler may have asked them already.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """True once a signal asked to stop.

    Attributes:
        signal: the last one that did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


_active: StopRequest | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Answer SIGINT and SIGTERM by setting the request; the handlers before it return on exit."""
    global _active
    if _active is not None:  # a suite's, which its runs answer too
        yield _active
        return
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == request.signal == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = number

    try:
        before = {number: signal.signal(number, handle) for number in SIGNALS}
    except ValueError:  # not the main thread: whoever owns it decides
        yield request
        return
    _active = request
    try:
        yield request
    finally:
        _active = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C; a process started meanwhile goes on ignoring it, until it answers `stop_requests` of its own."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
