"""A first signal is a request, a second one stops at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from moe_emergence.interrupt import SIGNALS, StopAsked, deferred_stops, ignored_interrupts, stop_if_asked, stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_request(number: int) -> None:
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == number


def test_a_second_interrupt_raises() -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop


def test_a_second_interrupt_raises_whatever_came_between() -> None:
    with stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_request_is_answered_where_it_is_polled() -> None:
    stop_if_asked()
    with stop_requests():
        stop_if_asked()
        os.kill(os.getpid(), signal.SIGUSR1)
        with deferred_stops():
            stop_if_asked()
        with pytest.raises(StopAsked, match="the same command goes on from there"):
            stop_if_asked()
        stop_if_asked(lambda asked: False)
    stop_if_asked()


def test_processes_that_agree_stop_together() -> None:
    with stop_requests(), pytest.raises(StopAsked):
        stop_if_asked(lambda asked: True)


@pytest.mark.parametrize("first", SIGNALS)
def test_a_suite_s_request_is_not_a_second_one(first: int) -> None:
    """Ctrl-C, or a scheduler's signal to the whole group, reaches a run that its suite then asks to stop as well."""
    with stop_requests() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop


def test_ignored_interrupts_are_ignored_here_and_in_processes_started_meanwhile() -> None:
    code = "import signal; raise SystemExit(signal.getsignal(signal.SIGINT) != signal.SIG_IGN)"
    before = signal.getsignal(signal.SIGINT)
    with ignored_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert signal.getsignal(signal.SIGINT) == before


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
