"""A first signal is a request, a second one stops at once."""

import os
import signal
import threading

import pytest

from moe_emergence.training.interrupt import SIGNALS, stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_request(number: int) -> None:
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_one_raises(number: int) -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert stop


def test_another_signal_is_not_a_second_one() -> None:
    """Ctrl-C reaches a run that its suite then asks to stop as well: still one request."""
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGINT


def test_handlers_return_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), stop_requests():
        _fail_unless([signal.getsignal(number) for number in SIGNALS] != before)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def _fail_unless(installed: bool) -> None:
    assert installed
    raise ZeroDivisionError


def test_beside_the_main_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_requests() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
