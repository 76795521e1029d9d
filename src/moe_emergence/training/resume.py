"""Going on with a run: only as what it was, from its newest whole checkpoint, the records cut back to that."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.errors import CheckpointError, RunDirectoryError
from moe_emergence.moe.router import routers_of
from moe_emergence.training import checkpoint as checkpoints
from moe_emergence.training.engine import Engine
from moe_emergence.training.run_directory import MANIFEST, METRICS, RunDirectory, is_used, json_digest
from moe_emergence.training.start import Change, Origin, data_record, forked_from, origin_changes, refuse_changes
from moe_emergence.training.trace import trace_name

STATE_KEYS = ("step", "updates", "skipped_in_a_row", "schedule", "balance", "collapse", "best_evaluation")
"""What a run's state must hold."""


def has_begun(run: RunDirectory) -> bool:
    """Whether the run is to be continued, or still has to begin.

    Raises:
        RunDirectoryError: it has checkpoints and no manifest, which says what they were made from.
    """
    if not run.begun and checkpoints.checkpoints_in(run.checkpoints):
        raise RunDirectoryError(
            f"{run.path} has checkpoints but no {MANIFEST}: restore it, or start the run in another folder"
        )
    return run.begun


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
    return {
        "config_digest": json_digest(to_dict(config)),
        "data_digest": manifest["data"]["digest"],
        "base_digest": manifest["base"]["digest"],
        "environment": manifest["environment"],
        "inexact": manifest["inexact"],
    }


def restore(
    run: RunDirectory,
    engine: Engine,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    looks: Sequence[int],
    warn: Callable[[str], None],
) -> dict[str, Any] | None:
    """Load the newest whole checkpoint and cut the records back to it; its state, or None where there is none.

    Raises:
        CheckpointError: none is whole, or the newest does not fit the run.
        RunDirectoryError: records or traces from before it are missing.
    """
    name = engine.on_main(lambda: _prepare_folder(run, looks, bool(routers_of(model)), warn))
    if name is None:
        return None
    newest = run.checkpoints / name
    checkpoints.load_weights(newest, model, engine.like)
    checkpoints.load_optimizer(newest, optimizer, engine.like)
    state = checkpoints.read_state(newest, STATE_KEYS)
    if bool(optimizer.state) != bool(state["updates"]):
        raise CheckpointError(
            f"{newest / checkpoints.OPTIMIZER} has no moments, but {state['updates']} updates were taken"
        )
    return state


def _prepare_folder(run: RunDirectory, looks: Sequence[int], routed: bool, warn: Callable[[str], None]) -> str | None:
    """The name of the checkpoint to go on from; the records end there, and what a killed process left is gone."""
    checkpoints.remove_partial_checkpoints(run.checkpoints)
    for path in (*run.traces.glob(".step-*"), *run.traces.glob(".tmp*")):  # ours, and the safetensors library's own
        path.unlink()
    newest = checkpoints.newest_whole_checkpoint(run.checkpoints, warn)
    if newest is None:
        if any(line["event"] == "step" for line in run.read(METRICS)):
            warn(f"{run.path} has no checkpoint yet: starting again from step 0")
        run.cut_back(None)
        return None
    step = checkpoints.step_of(newest)
    _require_own(run, newest)
    _require_looks(run, [look for look in looks if look < step], routed)
    run.cut_back(step)
    return newest.name


def _require_own(run: RunDirectory, newest: Path) -> None:
    """A checkpoint of another run, or of this one with other settings, would load all the same."""
    manifest = run.read_manifest()
    before = [(entry["config_digest"], entry["data_digest"]) for entry in manifest["inexact"]]
    now = (json_digest(to_dict(run.config)), manifest["data"]["digest"])
    saved = checkpoints.verified_manifest(newest)
    found = (saved.get("config_digest"), saved.get("data_digest"))
    if found not in (now, *before):
        what, then, mine = next(
            (what, one, other)
            for what, one, other in zip(("configuration", "data"), found, now, strict=True)
            if one != other
        )
        raise CheckpointError(
            f"{newest} is of another run: its {what} has sha256 {str(then)[:16]}…, this run's {mine[:16]}…. Take it "
            "away, and the same command goes on from the checkpoint before it"
        )


def _require_looks(run: RunDirectory, looks: Sequence[int], routed: bool) -> None:
    """Evaluations and traces of the looks before the checkpoint: they are not made again."""
    seen = {line["step"] for line in run.read(METRICS) if line["event"] == "evaluation"}
    for look in looks:
        if look not in seen:
            raise RunDirectoryError(f"{run.path / METRICS} lacks the evaluation at step {look}: {_WAY_OUT}")
        trace = run.traces / f"{trace_name(look)}.parquet"
        for path in (trace, trace.with_suffix(".safetensors")) if routed else (trace,):
            if not path.exists():
                raise RunDirectoryError(f"{path} is missing: {_WAY_OUT}")


_WAY_OUT = "restore it, or start the run in another folder"


def record_changes(run: RunDirectory, config: RunConfig, origin: Origin, changes: Sequence[Change], step: int) -> None:
    """Write down that the run goes on inexactly from `step`, where it does; from here on it is what it is now."""
    if not changes:
        return
    manifest = run.read_manifest()
    entry = {
        "step": step,
        "changes": [{"name": name, "then": _json(then), "now": _json(now)} for name, then, now in changes],
        "config_digest": json_digest(to_dict(run.config)),
        "data_digest": manifest["data"]["digest"],
    }
    base = {"name": origin.base.name, "digest": origin.base.digest}
    now = {"environment": origin.environment, "data": data_record(origin.data), "base": manifest["base"] | base}
    run.write_manifest(manifest | now | {"inexact": [*manifest["inexact"], entry]})
    run.write_config(config)


def _json(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
