"""A run, from its first evaluation to its last."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.data.blocks import PreparedData, prepared_data
from moe_emergence.data.corpora import load_corpus
from moe_emergence.errors import CheckpointError, Interrupted, MoEEmergenceError, RunDirectoryError, TrainingError
from moe_emergence.interrupt import StopAsked, deferred_stops, stop_if_asked, stop_requests
from moe_emergence.models.base import load_base
from moe_emergence.moe.balancing import BalanceStatistics
from moe_emergence.tracking.console import RunConsole
from moe_emergence.tracking.sinks import open_sinks
from moe_emergence.training import checkpoint as checkpoints
from moe_emergence.training import tensors
from moe_emergence.training.collapse import CollapseDetector
from moe_emergence.training.engine import Engine
from moe_emergence.training.fault import diagnosis, memory_advice
from moe_emergence.training.look import Looks
from moe_emergence.training.optimizer import make_optimizer, set_learning_rate
from moe_emergence.training.resume import (
    checkpoint_origin,
    first_model,
    open_run,
    progress_of,
    record_changes,
    restore,
    run_origin,
)
from moe_emergence.training.run_directory import DIAGNOSIS, METRICS, TIMINGS, RunDirectory, write_json
from moe_emergence.training.runtime import environment, prepare_process
from moe_emergence.training.schedule import evaluation_steps, learning_rate_factor
from moe_emergence.training.selfcheck import check_model
from moe_emergence.training.start import Change, Origin, check_fits, manifest, save_ancestor
from moe_emergence.training.step import NotFinite, Stepper, make_batch, share_of_batch


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run ended.

    Attributes:
        steps: the last step.
        reason: `finished`, or `collapse` where the configuration lets a collapse end it.
        lm_loss_macro: on test documents at the last step, nats a token, each domain weighing the same.
    """

    folder: Path
    steps: int
    reason: str
    lm_loss_macro: float


def train(
    config: RunConfig,
    folder: Path,
    *,
    data: PreparedData | None = None,
    resume: bool = False,
    fork: Path | None = None,
    console: RunConsole | None = None,
    allow_inexact: bool = False,
) -> RunSummary:
    """Train one run in `folder`, or with `resume` continue the one that is there; a finished one is left as it is.

    Under torchrun or `accelerate launch` this process is one of several: all call it alike, and the first one writes.

    Args:
        data: what `config.data` describes, where the caller has prepared it.
        fork: a run whose last weights this one starts from.
        allow_inexact: continue also where configuration, data, base or environment have changed, and record it.

    Raises:
        Interrupted: on Ctrl-C, SIGTERM or SIGUSR1, after a checkpoint.
    """
    execution = config.execution
    engine = Engine.start(execution.device, execution.precision, execution.parallel)
    prepare_process(execution)
    console = console or RunConsole()
    run, changes = open_run(engine, folder, config, resume=resume, allow_inexact=allow_inexact)
    try:
        if not engine.on_main(lambda: run.finished):
            with stop_requests():
                _started(config, run, changes, engine, data, fork, console, allow_inexact).run_to_end()
        return engine.on_main(lambda: summary(run))
    except Interrupted:
        raise
    except MoEEmergenceError:
        run.clear_unbegun()
        raise
    finally:
        run.close()


def _started(config: RunConfig, run: RunDirectory, *rest: Any) -> "_Training":
    """A run that is ready to train.

    Raises:
        Interrupted: a signal asked to stop before that; nothing is lost.
        TrainingError: it does not fit into memory.
    """
    try:
        with memory_advice(config, 0, "at the start"):
            return _Training(config, run, *rest)
    except StopAsked:
        raise Interrupted(
            f"{config.name}: stopped before its first step in {run.path}; the same command begins it (for train: with "
            "--resume)"
        ) from None


def summary(run: RunDirectory) -> RunSummary:
    """What the records of a finished run say."""
    lines = list(run.read(METRICS))
    end = next(line for line in lines if line["event"] == "end")
    last = [line for line in lines if line["event"] == "evaluation" and line["split"] == "test"]
    if not last:
        raise RunDirectoryError(
            f"{run.path / METRICS} has no evaluation on test: restore it, or train in another folder"
        )
    return RunSummary(folder=run.path, steps=end["step"], reason=end["reason"], lm_loss_macro=last[-1]["lm_loss_macro"])


class _Training:
    """Everything a run holds while it trains."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        changes: Sequence[Change],
        engine: Engine,
        data: PreparedData | None,
        fork: Path | None,
        console: RunConsole,
        allow_inexact: bool,
    ) -> None:
        self.run, self.config, self.engine = run, config, engine
        self.console = console if engine.is_main else RunConsole(quiet=True)
        self.poll = partial(stop_if_asked, engine.any)
        self.share = share_of_batch(engine, config)
        base = load_base(config.base)
        check_fits(config, base.model.config)
        self.data = data or self._prepare(base.tokenizer)
        self.poll()
        surroundings = environment(config.execution, engine.device, engine.world_size)
        origin = Origin(base=base, data=self.data, environment=surroundings, fork=fork)
        self._begin(origin, changes, allow_inexact)

    def _begin(self, origin: Origin, changes: Sequence[Change], allow_inexact: bool) -> None:
        """Make what trains, write down what it is made from, and go on from where the run was."""
        run, engine, config = self.run, self.engine, self.config
        begun = engine.on_main(lambda: progress_of(run))  # asked once: the first process is about to change it
        if begun is not None:
            origin, changes = run_origin(run, engine, origin, changes, allow_inexact=allow_inexact)
        start = first_model(config, origin, begun)
        self.model = start.model.to(engine.device)
        with engine.autocast():
            check_model(self.model, seed=config.seed)
        self.sinks = open_sinks(
            config.execution.trackers if engine.is_main else (),
            run.path,
            f"{config.name}-seed-{config.seed}",
            to_dict(config),
        )
        if begun is None:
            engine.on_main(lambda: self._write_manifest(manifest(origin, start), start.ancestor))
        self._make_parts(engine.wrap(self.model))
        self._restore(origin, changes)

    def _make_parts(self, forward: nn.Module) -> None:
        """What takes steps and looks, at step 0."""
        config, moe, training = self.config, self.config.moe, self.config.training
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.balance = BalanceStatistics(moe.balance_window, moe.balance_decay, moe.bias_rate) if moe else None
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            micro_batch_size=training.micro_batch_size,
            clip_norm=config.optimizer.clip_norm,
            engine=self.engine,
            forward=forward,
            balance=self.balance,
            running_counts=moe is not None and moe.balance_counts == "running",
            poll=self.poll,
        )
        self.collapse = CollapseDetector(moe.num_experts, moe.top_k, rule=training.collapse_rule) if moe else None
        self.looks = Looks(config, self.run, self.engine, self.model, self.data, self.sinks, self.poll)
        self.steps_to_look = evaluation_steps(training.steps, training.evaluations)
        self.step = self.updates = self.skipped = 0
        self.best: dict[str, Any] | None = None
        self.inexact = False

    def run_to_end(self) -> None:
        """Look, step, save, look … until the last step, a collapse that may end the run, or a request to stop."""
        training = self.config.training
        self.console.start(self.config.name, training.steps, training.batch_size * self.config.data.block_size)
        self._refuse_stuck("as at the stop before")
        try:
            self._finish_step()
            while self._ending() is None:
                self._take_step()
                self._finish_step()
        except StopAsked:
            self._save()
            raise Interrupted(
                f"{self.config.name}: stopped at step {self.step} of {training.steps}, all of it kept in "
                f"{self.run.path}; the same command continues it (for train: with --resume)"
            ) from None
        ending = self._ending()
        assert ending is not None
        self.run.append(METRICS, {"event": "end", "step": self.step} | ending)
        self.sinks.finish_run()
        self.console.finish(f"{ending['reason']} at step {self.step}")

    # Steps

    def _take_step(self) -> None:
        training = self.config.training
        began = time.perf_counter()
        rate = self._learning_rate()
        set_learning_rate(self.optimizer, rate)
        batch = make_batch(
            self.data.train,
            seed=self.config.seed,
            step=self.step,
            batch_size=training.batch_size,
            device=self.engine.device,
            share=self.share,
        )
        try:
            with self._memory("in the update", self.step + 1):
                metrics = self.stepper.take(batch)
        except NotFinite as fault:
            self._skip(fault)
            return
        self.step, self.updates, self.skipped = self.step + 1, self.updates + 1, 0
        tokens = training.batch_size * batch.tokens.shape[1]
        self._record_step(metrics | {"learning_rate": rate}, tokens, time.perf_counter() - began)

    def _learning_rate(self) -> float:
        optimizer = self.config.optimizer
        return optimizer.learning_rate * learning_rate_factor(self.step, self.config.training.steps, optimizer)

    def _skip(self, fault: NotFinite) -> None:
        """The step took place without an update; too many of them in a row end the run."""
        self.step, self.skipped = self.step + 1, self.skipped + 1
        event = {"cause": fault.cause, "layer": fault.layer, "in_a_row": self.skipped}
        self.run.append(METRICS, {"event": "skipped", "step": self.step} | event)
        self.console.note(f"step {self.step} skipped: {fault.cause}")
        if self.skipped >= self.config.training.max_skipped:
            self._save()
            path = self.run.path / DIAGNOSIS
            self.engine.on_main(lambda: write_json(path, diagnosis(self.config, self.run.read(METRICS), fault)))
            self._refuse_stuck(fault.cause)

    def _refuse_stuck(self, cause: str) -> None:
        """Raises TrainingError once too many steps in a row were skipped, also when such a run is continued."""
        if self.skipped >= self.config.training.max_skipped:
            rate = self.config.optimizer.learning_rate
            raise TrainingError(
                f"{self.skipped} steps in a row, up to step {self.step}, were not finite ({cause}); the weights are "
                f"those of step {self.step - self.skipped}. {self.run.path / DIAGNOSIS} says more. Start another run "
                f"from them (train --from {self.run.path}) with an optimizer.learning_rate below {rate:g}"
            )

    def _record_step(self, metrics: dict[str, Any], tokens: int, seconds: float) -> None:
        self.run.append(METRICS, {"event": "step", "step": self.step} | metrics)
        self.run.append(TIMINGS, {"event": "step", "step": self.step, "seconds": seconds})
        self.sinks.log_step(self.step, metrics)
        loads = [value for name, value in metrics.items() if name.endswith("_load")]
        self.console.update(self.step, metrics["lm_loss"], max(loads, default=None), tokens / seconds)
        self._watch_for_collapse(metrics, tokens)

    def _watch_for_collapse(self, metrics: dict[str, Any], tokens: int) -> None:
        if self.collapse is None:
            return
        slots = tokens * self.collapse.top_k
        for layer in getattr(self.model, "moe_layer_indices", ()):
            loads = [metrics[f"router/layer_{layer}_expert_{e}_load"] for e in range(self.collapse.num_experts)]
            change = self.collapse.add(layer, [round(load * slots) for load in loads])
            if change is not None:
                self.run.append(METRICS, {"event": "collapse", "step": self.step} | change)
                self.console.note(f"step {self.step}: layer {layer} {change['state']}: {change['reason']}")

    def _finish_step(self) -> None:
        """What a step calls for once it is taken: a checkpoint, then a look. At step 0 too."""
        self.poll()
        ends = self._ending() is not None
        if self.step > 0 and (ends or self.step % self.config.training.checkpoint_every == 0):
            self._save()
        if ends or self.step in self.steps_to_look:
            with self._memory("in the evaluation"):
                loss = self.looks.take(self.step, ends=ends or self.step == 0, inexact=self.inexact)
            if self.best is None or loss < self.best["lm_loss_macro"]:
                self.best = {"step": self.step, "lm_loss_macro": loss}

    def _memory(self, doing: str, step: int | None = None) -> AbstractContextManager[None]:
        return memory_advice(self.config, self.step if step is None else step, doing, self.engine.world_size)

    def _ending(self) -> dict[str, Any] | None:
        """Why the run ends at this step, if it does."""
        if self.collapse is not None and self.config.training.stop_on_collapse:
            for layer, watch in self.collapse.layers.items():
                if watch.state == "collapsed":
                    return {"reason": "collapse"} | self._last_collapse(layer)
        return {"reason": "finished"} if self.step >= self.config.training.steps else None

    def _last_collapse(self, layer: int) -> dict[str, Any]:
        if not self.run.recording:
            return {}
        events = [line for line in self.run.read(METRICS) if line["event"] == "collapse" and line["layer"] == layer]
        return {"layer": layer, "expert": events[-1]["expert"], "detail": events[-1]["reason"]}

    # Beginning, saving, going on

    def _prepare(self, tokenizer: Any) -> PreparedData:
        """The first process prepares the data, and the others read what it wrote."""
        config, cache = self.config.data, self.run.data

        def read() -> PreparedData:
            corpus = load_corpus(config.corpus, deal_domains=config.deal_domains)
            return prepared_data(corpus, tokenizer, config, cache)

        if self.engine.is_main:
            prepared: list[PreparedData] = []
            self.engine.on_main(lambda: prepared.append(read()))
            return prepared[0]
        self.engine.on_main(lambda: None)
        with deferred_stops():
            return read()

    def _write_manifest(self, values: dict[str, Any], ancestor: Any) -> None:
        if ancestor is not None:
            save_ancestor(self.run.path, ancestor)
        self.run.write_manifest(values)

    def _state(self) -> dict[str, Any]:
        """What the next step depends on besides weights, moments, data and configuration."""
        return {
            "step": self.step,
            "updates": self.updates,
            "skipped_in_a_row": self.skipped,
            "schedule": {"learning_rate": self._learning_rate()},
            "balance": None if self.balance is None else self.balance.to_state(),
            "collapse": None if self.collapse is None else self.collapse.to_state(),
            "best_evaluation": self.best,
        }

    def _save(self) -> None:
        """A checkpoint of this step; the processes gather it, and the first one writes."""
        with self._memory("while saving"):
            weights = tensors.model_tensors(self.model, self.engine.full)
            moments = tensors.optimizer_tensors(self.optimizer, self.engine.full)
            self.engine.on_main(lambda: self._write_checkpoint(weights, moments))

    def _write_checkpoint(self, weights: dict[str, Any], moments: dict[str, Any]) -> None:
        self.run.sync_records()
        about = checkpoint_origin(self.config, self.run.read_manifest())
        newest = checkpoints.save_checkpoint(
            self.run.checkpoints, self.model.config, weights, moments, self._state(), about
        )
        checkpoints.remove_old_checkpoints(newest, self.config.training.keep_checkpoints)

    def _restore(self, origin: Origin, changes: Sequence[Change]) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        last = self.config.training.steps
        state = restore(self.run, self.engine, self.model, self.optimizer, last, self.console.warn)
        step = 0 if state is None else int(state["step"])
        self.engine.on_main(lambda: record_changes(self.run, self.config, origin, changes, step))
        self.inexact = bool(self.run.read_manifest()["inexact"])
        if state is None:
            return
        self.step, self.updates, self.best = step, int(state["updates"]), state["best_evaluation"]
        self.skipped = int(state["skipped_in_a_row"])
        if self.collapse is not None:
            self.collapse.restore(state["collapse"])
        if self.balance is not None:
            self.balance.restore(state["balance"])
        if not self.inexact and state["schedule"]["learning_rate"] != self._learning_rate():
            raise CheckpointError(
                f"the checkpoint of step {step} goes on at learning rate {state['schedule']['learning_rate']}, this "
                f"version at {self._learning_rate()}: continue with the version that wrote it, or with --allow-inexact"
            )
