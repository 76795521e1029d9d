"""What is measured of each run for itself, of several runs side by side where there are processors for it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

import torch

from moe_emergence.analysis.measures import Measures, Progress, run_measures, silent
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.scope import QUICK, Scope
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import ignored_interrupts, stop_if_asked, stop_requests
from moe_emergence.training.runtime import processors

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_worker: dict[str, Any] = {}
"""What a process beside others was given when it began: `data`, and `heard`, the queue of progress."""


def measures_of_runs(
    runs: Sequence[Run], data: PreparedData, progress: Progress = silent, scope: Scope = QUICK, workers: int = 1
) -> Measures:
    """The tables of all runs, run after run; the same but for rounding whatever `workers`, processes that share the
    processors. `progress` hears of the first run that is not yet measured.

    Raises:
        AnalysisError: as `run_measures`, or a process was killed.
        StopAsked: a signal asked to stop; causal tests that are finished are kept.
    """
    routed = [run for run in runs if run.manifest.moe_layers]
    processes = min(workers, len(routed))
    if processes > 1:
        of_each = _side_by_side(routed, data, progress, scope, processes)
    else:
        of_each = [run_measures(run, data, progress, scope) for run in routed]
    found: Measures = {}
    for measures in of_each:
        for name, rows in measures.items():
            found.setdefault(name, []).extend(rows)
    return found


def _side_by_side(
    runs: Sequence[Run], data: PreparedData, progress: Progress, scope: Scope, processes: int
) -> list[Measures]:
    context, threads = get_context("spawn"), max(1, processors() // processes)
    heard = context.SimpleQueue()
    with stop_requests(), ProcessPoolExecutor(processes, context, _begin, (data, heard, threads)) as pool:
        with ignored_interrupts(), _threads_of_children(threads):  # while they load, Ctrl-C is this one's to answer
            jobs = [pool.submit(_measure, place, run, scope) for place, run in enumerate(runs)]
        try:
            return _results(jobs, heard, progress)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()  # a request: answered after a pass
            if isinstance(error, BrokenProcessPool):
                raise AnalysisError(
                    "the process that measured a run was killed, perhaps for lack of memory: the same command goes on "
                    "from what was finished; `taskset -c 0` before it measures one run at a time"
                ) from error
            raise


def _results(jobs: Sequence[Future[Measures]], heard: Any, progress: Progress) -> list[Measures]:
    waiting = set(jobs)
    while waiting:
        finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        stop_if_asked()
        for job in finished:
            job.result()
        first = next((place for place, job in enumerate(jobs) if job in waiting), None)
        while not heard.empty():
            place, *told = heard.get()
            if place == first:
                progress(*told)
    return [job.result() for job in jobs]


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Processes started meanwhile give numpy so many: it reads them once, when it is loaded."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(data: PreparedData, heard: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    _worker.update(data=data, heard=heard)


def _measure(place: int, run: Run, scope: Scope) -> Measures:
    with stop_requests():
        return run_measures(run, _worker["data"], lambda *told: _worker["heard"].put((place, *told)), scope)
