"""Ctrl-C (or a scheduler's SIGTERM) is a request, answered at the end of the step; a second one stops at once.

Only the same signal again is a second one: a suite asks its runs to stop when Ctrl-C may have reached them already.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """True once a signal asked to stop.

    Attributes:
        signal: which one did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Answer SIGINT and SIGTERM by setting the request; the handlers before it return on exit."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal == number:
            raise KeyboardInterrupt
        request.signal = request.signal or number

    try:
        before = {number: signal.signal(number, handle) for number in SIGNALS}
    except ValueError:  # not the main thread: whoever owns it decides
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
