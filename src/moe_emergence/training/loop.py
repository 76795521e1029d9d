"""A run, from its first evaluation to its last."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.data.blocks import PreparedData, prepared_data
from moe_emergence.data.corpora import load_corpus
from moe_emergence.errors import Interrupted, MoEEmergenceError, RunDirectoryError, TrainingError
from moe_emergence.interrupt import StopAsked, stop_if_asked, stop_requests
from moe_emergence.models.base import load_base
from moe_emergence.moe.balancing import BalanceStatistics
from moe_emergence.tracking.console import RunConsole
from moe_emergence.tracking.sinks import memory_mib, open_sinks
from moe_emergence.training import checkpoint as checkpoints
from moe_emergence.training.collapse import CollapseDetector
from moe_emergence.training.engine import Engine
from moe_emergence.training.evaluation import evaluate
from moe_emergence.training.fault import memory_advice
from moe_emergence.training.optimizer import make_optimizer, set_learning_rate
from moe_emergence.training.resume import checkpoint_origin, has_begun, open_run, record_changes, restore, run_origin
from moe_emergence.training.run_directory import DIAGNOSIS, METRICS, TIMINGS, RunDirectory, write_json
from moe_emergence.training.runtime import environment, peak_memory_mib, prepare_process
from moe_emergence.training.schedule import evaluation_steps, learning_rate_factor
from moe_emergence.training.selfcheck import check_model
from moe_emergence.training.start import Change, Origin, check_fits, manifest, save_ancestor, starting_model
from moe_emergence.training.step import NotFinite, Stepper, make_batch
from moe_emergence.training.trace import write_trace


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
                _Training(config, run, changes, engine, data, fork, console, allow_inexact).run_to_end()
        return engine.on_main(lambda: summary(run))
    except Interrupted:
        raise
    except MoEEmergenceError:
        run.clear_unbegun()
        raise
    finally:
        run.close()


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
        base = load_base(config.base)
        check_fits(config, base.model.config)
        self.data = data or self._prepare(base.tokenizer)
        self.poll()
        surroundings = environment(config.execution, engine.device, engine.world_size)
        origin = Origin(base=base, data=self.data, environment=surroundings, fork=fork)
        begun = engine.on_main(lambda: has_begun(run))  # asked once: the first process is about to change it
        if begun:
            origin, changes = run_origin(run, engine, origin, changes, allow_inexact=allow_inexact)
        start = starting_model(config, base, self.data, origin.fork)
        if not begun:
            engine.on_main(lambda: self._begin(manifest(origin, start), start.ancestor))
        self.model = start.model.to(engine.device)
        with engine.autocast():
            check_model(self.model, seed=config.seed)
        forward = engine.wrap(self.model)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.balance = self._balance()
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            micro_batch_size=config.training.micro_batch_size,
            clip_norm=config.optimizer.clip_norm,
            engine=engine,
            forward=forward,
            balance=self.balance,
            running_counts=config.moe is not None and config.moe.balance_counts == "running",
            poll=self.poll,
        )
        self.collapse = self._detector()
        self.looks = evaluation_steps(config.training.steps, config.training.evaluations)
        self.step = self.updates = self.skipped = 0
        self.share = engine.slice_of(config.training.batch_size)
        self.sinks = open_sinks(
            config.execution.trackers if engine.is_main else (),
            run.path,
            f"{config.name}-seed-{config.seed}",
            to_dict(config),
        )
        self._restore(origin, changes)

    def run_to_end(self) -> None:
        """Look, step, save, look … until the last step, a collapse that may end the run, or a request to stop."""
        training = self.config.training
        self.console.start(self.config.name, training.steps, training.batch_size * self.config.data.block_size)
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
            with memory_advice(self.config, self.step + 1, "in the update"):
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
        if self.skipped < self.config.training.max_skipped:
            return
        path = self.run.path / DIAGNOSIS
        self.engine.on_main(lambda: write_json(path, self._diagnosis(fault)))
        raise TrainingError(
            f"{self.skipped} steps in a row, up to step {self.step}, were not finite ({fault.cause}); the weights are "
            f"those of step {self.step - self.skipped}. {path} says more. Start another run with a lower "
            f"optimizer.learning_rate (it was {self._learning_rate():.3g} here), from the last checkpoint with --from"
        )

    def _diagnosis(self, fault: NotFinite) -> dict[str, Any]:
        lines = list(self.run.read(METRICS))
        return {
            "step": self.step,
            "cause": fault.cause,
            "layer": fault.layer,
            "skipped": [line for line in lines if line["event"] == "skipped"],
            "last_metrics": next((line for line in reversed(lines) if line["event"] == "step"), None),
            "config": to_dict(self.config),
        }

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
        if ends or self.step in self.looks:
            with memory_advice(self.config, self.step, "in the evaluation"):
                self._look()

    # Looks

    def _look(self) -> None:
        """Evaluate on dev and trace the probe set; at both ends also on test, with fresh gates."""
        ends = self.step == 0 or self._ending() is not None
        self._evaluate("dev", self.config.data.dev_blocks)
        if ends:
            self._evaluate("test", self.config.data.test_blocks)
        began = time.perf_counter()
        with self.engine.autocast():
            write_trace(
                self.model,
                self.data,
                self.run.traces if self.engine.is_main else None,
                step=self.step,
                device=self.engine.device,
                fresh_gates=ends,
                inexact=self.inexact,
                full=self.engine.full,
                poll=self.poll,
            )
        self._time("trace", began)
        self.sinks.log_gpu_memory(self.step)

    def _evaluate(self, split: Any, blocks: int) -> None:
        began, documents = time.perf_counter(), self.data.split(split)
        with self.engine.autocast():
            scores = evaluate(
                self.model, self.data, documents, device=self.engine.device, per_domain=blocks, poll=self.poll
            )
        self.run.append(METRICS, {"event": "evaluation", "step": self.step, "split": split} | scores)
        losses = {f"{split}/lm_loss_{domain}": loss for domain, loss in scores["lm_loss"].items()}
        self.sinks.log_step(self.step, {f"{split}/lm_loss_macro": scores["lm_loss_macro"]} | losses)
        self._time("evaluation", began)

    def _time(self, event: str, began: float) -> None:
        seconds = time.perf_counter() - began
        memory = {"peak_memory_mib": round(peak_memory_mib(), 1)} | memory_mib()
        self.run.append(TIMINGS, {"event": event, "step": self.step, "seconds": seconds} | memory)

    def _ending(self) -> dict[str, Any] | None:
        """Why the run ends at this step, if it does."""
        if self.collapse is not None and self.config.training.stop_on_collapse:
            for layer, watch in self.collapse.layers.items():
                if watch.state == "collapsed":
                    return {"reason": "collapse"} | self._last_collapse(layer)
        return {"reason": "finished"} if self.step == self.config.training.steps else None

    def _last_collapse(self, layer: int) -> dict[str, Any]:
        if not self.run.recording:
            return {}
        events = [line for line in self.run.read(METRICS) if line["event"] == "collapse" and line["layer"] == layer]
        return {"layer": layer, "expert": events[-1]["expert"], "detail": events[-1]["reason"]}

    def _detector(self) -> CollapseDetector | None:
        moe = self.config.moe
        if moe is None:
            return None
        return CollapseDetector(moe.num_experts, moe.top_k, rule=self.config.training.collapse_rule)

    def _balance(self) -> BalanceStatistics | None:
        moe = self.config.moe
        return None if moe is None else BalanceStatistics(moe.balance_window, moe.balance_decay, moe.bias_rate)

    # Beginning, saving, going on

    def _prepare(self, tokenizer: Any) -> PreparedData:
        """The first process prepares the data, and the others read what it wrote."""
        config, cache = self.config.data, self.run.data

        def read() -> PreparedData:
            return prepared_data(load_corpus(config.corpus), tokenizer, config, cache)

        if self.engine.is_main:
            prepared: list[PreparedData] = []
            self.engine.on_main(lambda: prepared.append(read()))
            return prepared[0]
        self.engine.on_main(lambda: None)
        return read()

    def _begin(self, values: dict[str, Any], ancestor: Any) -> None:
        if ancestor is not None:
            save_ancestor(self.run.path, ancestor)
        self.run.write_manifest(values)

    def _state(self) -> dict[str, Any]:
        """What the next step depends on besides weights, moments, data and configuration."""
        ended = self._ending() is not None
        return {
            "step": self.step,
            "updates": self.updates,
            "skipped_in_a_row": self.skipped,
            "schedule": {"learning_rate": 0.0 if ended else self._learning_rate()},
            "balance": None if self.balance is None else self.balance.to_state(),
            "collapse": None if self.collapse is None else self.collapse.to_state(),
            "best_evaluation": self._best_evaluation(),
        }

    def _best_evaluation(self) -> dict[str, Any] | None:
        """The lowest macro LM loss on dev, in nats a token, of the looks before this step."""
        looks = [
            {"step": line["step"], "lm_loss_macro": line["lm_loss_macro"]}
            for line in self.run.read(METRICS)
            if line["event"] == "evaluation" and line["split"] == "dev" and line["step"] < self.step
        ]
        return min(looks, key=lambda look: look["lm_loss_macro"], default=None)

    def _save(self) -> None:
        """A checkpoint of this step; the processes gather it, and the first one writes."""
        with memory_advice(self.config, self.step, "while saving"):
            weights = checkpoints.model_tensors(self.model, self.engine.full)
            moments = checkpoints.optimizer_tensors(self.optimizer, self.engine.full)
            self.engine.on_main(lambda: self._write_checkpoint(weights, moments))

    def _write_checkpoint(self, weights: dict[str, Any], moments: dict[str, Any]) -> None:
        self.run.sync_records()
        folder, values = self.run.checkpoints, self.run.read_manifest()
        newest = checkpoints.save_checkpoint(
            folder, self.model.config, weights, moments, self._state(), checkpoint_origin(self.config, values)
        )
        checkpoints.remove_old_checkpoints(newest, self.config.training.keep_checkpoints)

    def _restore(self, origin: Origin, changes: Sequence[Change]) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        state = restore(self.run, self.engine, self.model, self.optimizer, self.looks, self.console.warn)
        step = 0 if state is None else state["step"]
        self.engine.on_main(lambda: record_changes(self.run, self.config, origin, changes, step))
        self.inexact = bool(self.run.read_manifest()["inexact"])
        if state is None:
            return
        self.step, self.updates = int(state["step"]), int(state["updates"])
        self.skipped = int(state["skipped_in_a_row"])
        if self.collapse is not None:
            self.collapse.restore(state["collapse"])
        if self.balance is not None:
            self.balance.restore(state["balance"])
