"""Going on with a run: only as what it was, from its newest whole checkpoint, the records cut back to that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moe_emergence.config import RunConfig, from_dict, to_dict
from moe_emergence.errors import CheckpointError, ConfigError, RunDirectoryError
from moe_emergence.moe.router import routers_of
from moe_emergence.training import checkpoint as checkpoints
from moe_emergence.training import durable
from moe_emergence.training.engine import Engine
from moe_emergence.training.run_directory import MANIFEST, METRICS, RunDirectory, is_used, json_digest
from moe_emergence.training.schedule import evaluation_steps
from moe_emergence.training.snapshot import remove_snapshots
from moe_emergence.training.start import (
    Change,
    Origin,
    Start,
    data_record,
    empty_model,
    forked_from,
    origin_changes,
    refuse_changes,
    starting_model,
)
from moe_emergence.training.tensors import OPTIMIZER, load_optimizer, load_weights
from moe_emergence.training.trace import step_of_trace, trace_name

STATE_KEYS = ("step", "updates", "skipped_in_a_row", "schedule", "balance", "collapse", "best_evaluation")
"""What a run's state must hold."""


@dataclass(frozen=True)
class Progress:
    """How far a run that has begun is.

    Attributes:
        has_weights: whether there is a checkpoint of its own to go on from.
        forked_from: of a fork, what its manifest says of its parent.
    """

    has_weights: bool
    forked_from: dict[str, Any] | None


def progress_of(run: RunDirectory) -> Progress | None:
    """None for a run that still has to begin.

    Raises:
        RunDirectoryError: it has checkpoints and no manifest, which says what they were made from.
    """
    has_weights = bool(checkpoints.checkpoints_in(run.checkpoints))
    if run.begun:
        return Progress(has_weights, run.read_manifest()["forked_from"])
    if has_weights:
        raise RunDirectoryError(
            f"{run.path} has checkpoints but no {MANIFEST}: restore it, or start the run in another folder"
        )
    return None


def first_model(config: RunConfig, origin: Origin, progress: Progress | None) -> Start:
    """What the run starts from; only its form, where a checkpoint of its own holds the weights."""
    if progress is not None and progress.has_weights:
        return empty_model(config, origin.base)
    recorded = None if progress is None else progress.forked_from
    return starting_model(config, origin.base, origin.data, origin.fork, recorded)


def open_run(
    engine: Engine, folder: Path, config: RunConfig, *, resume: bool, allow_inexact: bool
) -> tuple[RunDirectory, list[Change]]:
    """The run in `folder`, made anew or to be continued, and the fields in which `config` differs from its own.

    The first process locks it; the others read along.

    Raises:
        RunDirectoryError: it is in use, already used, or was started with another configuration.
    """
    opened: list[RunDirectory] = []
    changes = engine.on_main(lambda: _open(opened, folder, config, resume, allow_inexact))
    if not opened:
        opened.append(RunDirectory.open_existing(folder))
        opened[0].recording = False
    return opened[0], changes


def _open(
    opened: list[RunDirectory], folder: Path, config: RunConfig, resume: bool, allow_inexact: bool
) -> list[Change]:
    if not (resume and is_used(folder)):
        opened.append(RunDirectory.create(folder, config))
        return []
    run = RunDirectory.open_existing(folder)
    _finish_changing(run)
    changes = run.changes_to(config)
    if changes and (run.finished or not allow_inexact):
        refuse_changes(run, changes)
    if not run.finished:  # else it is only read
        run.lock()
    opened.append(run)
    return changes


def run_origin(
    run: RunDirectory, engine: Engine, origin: Origin, changes: Sequence[Change], *, allow_inexact: bool
) -> tuple[Origin, list[Change]]:
    """What a run that is continued started from, its fork included, and all that has changed since.

    Raises:
        RunDirectoryError: something has, and `allow_inexact` is not given.
    """
    origin, found = replace(origin, fork=forked_from(run, origin.fork)), list(changes)
    found += engine.on_main(lambda: origin_changes(run, origin))
    if found and not allow_inexact:
        engine.on_main(lambda: refuse_changes(run, found))
    return origin, found


def checkpoint_origin(config: RunConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint's bits depend on, for its own manifest."""
    kept = {name: manifest[name] for name in ("environment", "inexact")}
    return {"made_from": identity(config, manifest)} | kept


def identity(config: RunConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    """What tells a run from another: by these a checkpoint is known to be its own."""
    return {
        "configuration": json_digest(to_dict(config)),
        "data": manifest["data"]["digest"],
        "base": manifest["base"]["digest"],
        "parent": json_digest(manifest["forked_from"]),
    }


def restore(
    run: RunDirectory,
    engine: Engine,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    last_step: int,
    warn: Callable[[str], None],
) -> dict[str, Any] | None:
    """Load the newest whole checkpoint and cut the records back to it; its state, or None where there is none.

    Raises:
        CheckpointError: none is whole, or the newest does not fit the run.
        ConfigError: the run is now to end before its step.
        RunDirectoryError: records or traces from before it are missing.
    """
    name = engine.on_main(lambda: _prepare_folder(run, last_step, bool(routers_of(model)), warn))
    if name is None:
        return None
    newest = run.checkpoints / name
    load_weights(newest, model, engine.like)
    load_optimizer(newest, optimizer, engine.like)
    state = checkpoints.read_state(newest, STATE_KEYS)
    if bool(optimizer.state) != bool(state["updates"]):
        raise CheckpointError(f"{newest / OPTIMIZER} has no moments, but {state['updates']} updates were taken")
    return state


def _prepare_folder(run: RunDirectory, last_step: int, routed: bool, warn: Callable[[str], None]) -> str | None:
    """The name of the checkpoint to go on from: records and traces end there, and leftovers are gone."""
    for folder in (run.checkpoints, run.snapshots):
        durable.remove_partial_folders(folder)
    newest = checkpoints.newest_whole_checkpoint(run.checkpoints, warn)
    step = None if newest is None else checkpoints.step_of(newest)
    if newest is not None and step is not None:
        if step > last_step:
            raise ConfigError(f"training.steps must be at least {step}, the step of {newest}; got {last_step}")
        _require_own(run, newest)
        _require_looks(run, step, routed)
    elif any(line["event"] == "step" for line in run.read(METRICS)):
        warn(f"{run.path} has no checkpoint yet: starting again from step 0")
    run.cut_back(step)
    for path in (*run.path.iterdir(), *run.traces.glob("*")):
        if durable.is_leftover(path) or (path.parent == run.traces and step_of_trace(path) >= (step or 0)):
            path.unlink()
    remove_snapshots(run.snapshots, step or 0)
    return None if newest is None else newest.name


def _require_own(run: RunDirectory, newest: Path) -> None:
    """A checkpoint of another run, or of this one with other settings, would load all the same."""
    manifest = run.read_manifest()
    now, found = identity(run.config, manifest), checkpoints.verified_manifest(newest).get("made_from")
    if found == now or found in [entry["before"] for entry in manifest["inexact"]]:
        return
    theirs = found if isinstance(found, dict) else {}
    what = next(name for name in now if theirs.get(name) != now[name])
    raise CheckpointError(
        f"{newest} is of another run: its {what} has sha256 {str(theirs.get(what))[:16]}…, this run's "
        f"{now[what][:16]}…. Take it away, and the same command goes on from the checkpoint before it"
    )


def _require_looks(run: RunDirectory, step: int, routed: bool) -> None:
    """Evaluations and traces of the looks before the checkpoint: they are not made again.

    A run that went on inexactly may have looked at other steps than its configuration says now.
    """
    if run.read_manifest()["inexact"]:
        return
    training = run.config.training
    seen = {line["step"] for line in run.read(METRICS) if line["event"] == "evaluation"}
    for look in evaluation_steps(training.steps, training.evaluations):
        if look >= step:
            return
        if look not in seen:
            raise RunDirectoryError(f"{run.path / METRICS} lacks the evaluation at step {look}: {_WAY_OUT}")
        trace = run.traces / f"{trace_name(look)}.parquet"
        wide = run.traces / f"{trace_name(look, wide=True)}.parquet"
        expected = [trace, trace.with_suffix(".safetensors") if routed else trace]
        expected += [wide] if look == 0 and run.config.data.wide_probe_tokens else []
        for path in expected:
            if not path.exists():
                raise RunDirectoryError(f"{path} is missing: {_WAY_OUT}")


_WAY_OUT = "restore it, or start the run in another folder"


def record_changes(run: RunDirectory, config: RunConfig, origin: Origin, changes: Sequence[Change], step: int) -> None:
    """Write down that the run goes on inexactly from `step`, where it does; from here on it is what it is now.

    Changes that were written down as of a later step hold from this one: a damaged checkpoint led back to it.
    """
    manifest = run.read_manifest()
    earlier = [entry | {"step": min(entry["step"], step)} for entry in manifest["inexact"]]
    if not changes and earlier == manifest["inexact"]:
        return
    if changes:
        listed = [{"name": name, "then": _json(then), "now": _json(now)} for name, then, now in changes]
        before = identity(run.config, manifest)
        earlier.append({"step": step, "changes": listed, "before": before, "config": to_dict(config)})
        base = {"name": origin.base.name, "digest": origin.base.digest}
        manifest |= {
            "environment": origin.environment,
            "data": data_record(origin.data),
            "base": manifest["base"] | base,
        }
    run.write_manifest(manifest | {"inexact": earlier})
    _finish_changing(run)


def _finish_changing(run: RunDirectory) -> None:
    """The configuration follows the manifest, also where a process was killed between writing the two."""
    if not run.begun:
        return
    inexact = run.read_manifest()["inexact"]
    if inexact and inexact[-1]["config"] != to_dict(run.config):
        run.write_config(from_dict(inexact[-1]["config"]))


def _json(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
