"""A signal to stop is a request, answered where nothing is lost; a second Ctrl-C stops at once.

SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (what schedulers send ahead of taking a machine away) set a flag that long work
polls with `stop_if_asked`: each micro-step, and each batch or part of evaluation, traces, data, measures and report.
SIGTERM may come twice: a suite asks its runs to stop when a scheduler may have asked them already.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from moe_emergence.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """True once a signal asked to stop.

    Attributes:
        signal: the last one that did.
        interrupted: whether Ctrl-C was among them.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.interrupted = False

    def __bool__(self) -> bool:
        return self.signal is not None


class StopAsked(Interrupted):
    """Raised by `stop_if_asked`, for whoever has something to save before it lets the process end."""


_active: StopRequest | None = None
_deferred = False


@contextmanager
def deferred_stops() -> Iterator[None]:
    """Leave requests unanswered for the length of the block: others of several processes would wait for this one."""
    global _deferred
    before, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = before


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Answer `SIGNALS` by setting the request; the handlers before it return on exit. Within another, it is that one's.

    Beside the main thread no handler can be set: the request stays False there.
    """
    global _active
    if _active is not None:  # a suite's, which its runs answer too
        yield _active
        return
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.interrupted:
            raise KeyboardInterrupt
        request.signal = number
        request.interrupted |= number == signal.SIGINT

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


def stop_if_asked(agree: Callable[[bool], bool] = bool) -> None:
    """Raise `StopAsked` if a signal has asked to stop; `agree` lets several processes decide alike.

    Raises:
        StopAsked: within `stop_requests` only; without it signals do what they always do.
    """
    if not _deferred and agree(bool(_active)):
        raise StopAsked("stopped; what was finished is kept, and the same command goes on from there")


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
