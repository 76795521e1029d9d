"""A suite on this machine: the data prepared once, then every arm and seed, one after another or side by side."""

import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from moe_emergence.config import EMBEDDED, DataConfig, RunConfig, from_dict, to_dict
from moe_emergence.data.blocks import load_prepared, prepared_folder
from moe_emergence.data.corpora import load_corpus
from moe_emergence.errors import ConfigError, DataError, Interrupted, RunDirectoryError, TrainingError
from moe_emergence.experiments.suites import Suite
from moe_emergence.interrupt import SIGNALS, ignored_interrupts, stop_requests
from moe_emergence.models.base import load_tokenizer
from moe_emergence.models.cost import base_config, run_cost
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.engine import Engine
from moe_emergence.training.loop import RunSummary, train
from moe_emergence.training.run_directory import CONFIG, RunDirectory, is_used, write_json
from moe_emergence.training.runtime import choose_device, processors
from moe_emergence.training.start import check_fits, refuse_changes

SUITE = "suite.json"
_stopping = threading.Event()
"""Set in a worker that was asked to stop: the pool may have handed it the next run already."""


def run_suite(
    suite: Suite,
    folder: Path,
    *,
    seeds: Sequence[int],
    workers: int | None = 1,
    console: RunConsole | None = None,
    command: str = "",
    allow_inexact: bool = False,
) -> list[RunSummary]:
    """Train every arm with every seed in `folder`/arm/seed-n; finished runs stay, unfinished ones go on.

    With one worker the arms run here, one after another; with more, side by side in processes of one thread each, which
    makes more tokens per second on a CPU (two cores: 13 thousand against 10). None chooses: see `usual_workers`.
    Under torchrun or `accelerate launch` all processes train each run together.

    Raises:
        ConfigError: an arm does not fit its base; no arm is trained then.
        RunDirectoryError: `folder` holds another suite, or this one with other settings.
        Interrupted: on Ctrl-C; the same call goes on from there.
    """
    console = console or RunConsole()
    workers = usual_workers(suite, len(seeds)) if workers is None else workers
    configs = [_config(arm.config, seed, workers) for seed in seeds for arm in suite.arms]
    for config in configs:
        check_fits(config, base_config(config.base))
    execution = configs[0].execution
    engine = Engine.start(execution.device, execution.precision, execution.parallel)
    if workers > 1 and engine.world_size > 1:
        raise ConfigError(
            f"--workers {workers} starts processes of its own, and {engine.world_size} were launched already: give one "
            "of them alone"
        )
    data = engine.on_main(lambda: _begin(suite, folder, configs, console, command, allow_inexact))
    if workers <= 1:
        return _one_after_another(configs, folder, data, console, engine, allow_inexact)
    return _side_by_side(configs, folder, data, workers, console, allow_inexact)


def usual_workers(suite: Suite, seeds: int) -> int:
    """As many processes as cores, at most one per run, for models of the embedded base's size on a CPU; else 1."""
    config = suite.arms[0].config
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched or config.base != EMBEDDED or choose_device(config.execution.device).type != "cpu":
        return 1
    return min(processors(), len(suite.arms) * seeds)


def _one_after_another(
    configs: Sequence[RunConfig], folder: Path, data: Path, console: RunConsole, engine: Engine, allow_inexact: bool
) -> list[RunSummary]:
    done: list[RunSummary] = []
    with stop_requests() as stop:
        for config in configs:
            if engine.any(bool(stop)):  # asked for while a run was ending
                raise _interrupted(folder)
            run = _run_folder(folder, config)
            options: dict[str, Any] = {"resume": True, "console": console, "allow_inexact": allow_inexact}
            done.append(train(_own_if_finished(config, run), run, data=load_prepared(data), **options))
    return done


def _own_if_finished(config: RunConfig, folder: Path) -> RunConfig:
    """A finished run is left as it is, also where the others go on under other conditions."""
    if not (folder / CONFIG).exists():
        return config
    held = RunDirectory.open_existing(folder)
    return held.config if held.finished else config


def _interrupted(folder: Path) -> Interrupted:
    return Interrupted(f"stopped; all that was done is kept in {folder}: the same command continues it")


def _config(config: RunConfig, seed: int, workers: int) -> RunConfig:
    """The arm's run of one seed; runs side by side get one thread each unless told otherwise."""
    execution = config.execution
    if workers > 1 and execution.threads is None:
        execution = replace(execution, threads=1)
    return replace(config, seed=seed, execution=execution)


def _run_folder(folder: Path, config: RunConfig) -> Path:
    return folder / config.name / f"seed-{config.seed}"


def _begin(
    suite: Suite, folder: Path, configs: Sequence[RunConfig], console: RunConsole, command: str, allow_inexact: bool
) -> Path:
    """Claim the folder and prepare the one corpus that all runs read; a corpus that is refused leaves nothing behind.

    Returns:
        The folder of the prepared corpus.
    """
    base, data = _shared(configs)
    held = _refuse_taken(suite, folder, configs, allow_inexact)
    corpus, tokenizer = load_corpus(data.corpus, deal_domains=data.deal_domains), load_tokenizer(base)
    _claim(suite, folder, configs, command, held)
    console.note(f"data: packing {data.corpus}")
    try:
        return prepared_folder(corpus, tokenizer, data, folder / "data")
    except DataError:
        if not held:
            (folder / SUITE).unlink()
            with suppress(OSError):  # something else is in it
                folder.rmdir()
        raise


def _shared(configs: Sequence[RunConfig]) -> tuple[str, DataConfig]:
    wanted = {(config.base, config.data) for config in configs}
    if len(wanted) != 1:
        raise ConfigError("the arms of a suite must share one base and one data configuration")
    return wanted.pop()


def _refuse_taken(suite: Suite, folder: Path, configs: Sequence[RunConfig], allow_inexact: bool) -> dict[str, Any]:
    """Refuse a folder that other runs live in; returns what its `suite.json` says, nothing where there is none."""
    if is_used(folder) and not (folder / SUITE).exists():
        raise RunDirectoryError(f"{folder} is not empty and holds no suite: choose another folder with --out")
    held = _held(folder / SUITE)
    if held.get("name", suite.name) != suite.name:
        raise RunDirectoryError(f"{folder} holds the suite {held['name']!r}, not {suite.name!r}: choose another folder")
    for config in configs:
        run = _run_folder(folder, config)
        if (run / CONFIG).exists():
            held_run = RunDirectory.open_existing(run)
            changes = held_run.changes_to(config)
            if changes and not allow_inexact:
                refuse_changes(held_run, changes)
    return held


def _claim(suite: Suite, folder: Path, configs: Sequence[RunConfig], command: str, held: Mapping[str, Any]) -> None:
    """Write down what the suite is; `held` is what was written there before."""
    seeds = {config.seed for config in configs} | set(held.get("seeds", ()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SUITE, describe(suite, sorted(seeds), command))
    except OSError as error:
        raise RunDirectoryError(f"cannot write the suite to {folder}: {error.strerror}") from error


def _held(path: Path) -> dict[str, Any]:
    """What `suite.json` says of an earlier call; the seeds it trained stay part of the suite."""
    try:
        held = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: delete it, and the same command writes it anew") from error
    return held if isinstance(held, dict) else {}


def describe(suite: Suite, seeds: Sequence[int], command: str) -> dict[str, Any]:
    """What `suite.json` says: the arms, and in which fields each differs from its baseline."""
    return {
        "suite": suite.name,
        "name": suite.name,
        "question": suite.question,
        "conclusive": suite.conclusive,
        "note": suite.note,
        "seeds": list(seeds),
        "command": command,
        "arms": [
            {
                "name": arm.name,
                "question": arm.config.question,
                "baseline": arm.baseline,
                "changes": {name: list(values) for name, values in suite.changes(arm).items()},
            }
            for arm in suite.arms
        ],
    }


def _side_by_side(
    configs: Sequence[RunConfig], folder: Path, data: Path, workers: int, console: RunConsole, allow_inexact: bool
) -> list[RunSummary]:
    context = get_context("spawn")
    with stop_requests() as stop, ProcessPoolExecutor(workers, context, _answer_between_runs) as pool:
        with ignored_interrupts():  # while a process loads its modules, Ctrl-C is this one's to answer
            jobs = [
                pool.submit(_run_arm, to_dict(config), str(folder), str(data), console, allow_inexact)
                for config in configs
            ]
        waiting = set(jobs)
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            failed = [job for job in finished if not job.cancelled() and job.exception() is not None]
            for job in finished - set(failed):
                console.note(_line(job.result()))
            if failed or (stop and waiting):
                pool.shutdown(wait=False, cancel_futures=True)
                for child in active_children():
                    child.terminate()  # a request: a run answers it after its step
                if stop:
                    raise _interrupted(folder)
                _raise_what(failed[0])
    return [job.result() for job in jobs]


def _raise_what(job: Future[RunSummary]) -> None:
    try:
        job.result()
    except BrokenProcessPool as error:
        raise TrainingError(
            "a run's process was killed, perhaps for lack of memory: the same command continues it once there is more"
        ) from error


def _line(summary: RunSummary) -> str:
    return (
        f"{summary.folder}: {summary.reason} at step {summary.steps}, LM loss {summary.lm_loss_macro:.4f} (test, macro)"
    )


def _answer_between_runs() -> None:
    """In a worker: a signal that comes before or after a run must not kill the process, but keep it from the next."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: _stopping.set())


def _run_arm(values: dict[str, Any], folder: str, data: str, console: RunConsole, allow_inexact: bool) -> RunSummary:
    if _stopping.is_set():
        raise Interrupted("stopped before it began")
    config = from_dict(values)
    run = _run_folder(Path(folder), config)
    with stop_requests() as stop:
        try:
            return train(
                _own_if_finished(config, run),
                run,
                data=load_prepared(Path(data)),
                resume=True,
                console=console,
                allow_inexact=allow_inexact,
            )
        finally:
            if stop:
                _stopping.set()


def dry_run(suite: Suite) -> list[dict[str, Any]]:
    """What each arm would cost, from configurations alone: no weights are made."""
    return [{"arm": arm.name} | run_cost(arm.config) for arm in suite.arms]
