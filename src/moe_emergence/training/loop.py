"""A run, from its first evaluation to its last."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.data.blocks import PreparedData, prepared_data
from moe_emergence.data.corpora import load_corpus
from moe_emergence.errors import Interrupted, MoEEmergenceError
from moe_emergence.models.base import load_base
from moe_emergence.tracking.console import RunConsole
from moe_emergence.tracking.sinks import memory_mib, open_sinks
from moe_emergence.training import checkpoint as checkpoints
from moe_emergence.training.collapse import CollapseDetector
from moe_emergence.training.evaluation import evaluate
from moe_emergence.training.interrupt import StopRequest, stop_requests
from moe_emergence.training.optimizer import make_optimizer, set_learning_rate
from moe_emergence.training.run_directory import METRICS, TIMINGS, RunDirectory
from moe_emergence.training.runtime import peak_memory_mib, prepare_process
from moe_emergence.training.schedule import evaluation_steps, learning_rate_factor
from moe_emergence.training.start import check_fits, check_unchanged, manifest, save_ancestor, starting_model
from moe_emergence.training.step import make_batch, train_step
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
) -> RunSummary:
    """Train one run in `folder`, or with `resume` continue the one that is there; a finished one is left as it is.

    Args:
        data: what `config.data` describes, where the caller has prepared it.
        fork: a run whose last weights this one starts from.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    resuming = resume and folder.is_dir() and any(folder.iterdir())
    run = RunDirectory.reopen(folder, config) if resuming else RunDirectory.create(folder, config)
    try:
        if not run.finished:
            _Training(run, data, fork, console or RunConsole()).run_to_end()
        return summary(run)
    except MoEEmergenceError:
        if not resuming:
            run.clear_unbegun()
        raise
    finally:
        run.close()


def summary(run: RunDirectory) -> RunSummary:
    """What the records of a finished run say."""
    lines = list(run.read(METRICS))
    end = next(line for line in lines if line["event"] == "end")
    last = [line for line in lines if line["event"] == "evaluation" and line["split"] == "test"][-1]
    return RunSummary(folder=run.path, steps=end["step"], reason=end["reason"], lm_loss_macro=last["lm_loss_macro"])


class _Training:
    """Everything a run holds while it trains."""

    def __init__(self, run: RunDirectory, data: PreparedData | None, fork: Path | None, console: RunConsole) -> None:
        config = run.config
        self.run, self.config, self.console = run, config, console
        self.device = prepare_process(config.execution)
        self.sinks = open_sinks(
            config.execution.trackers, run.path, f"{config.name}-seed-{config.seed}", to_dict(config)
        )
        base = load_base(config.base)
        check_fits(config, base.model.config)
        self.data = data or prepared_data(load_corpus(config.data.corpus), base.tokenizer, config.data, run.data)
        if run.begun:
            fork = check_unchanged(run, base, self.data, fork)
        start = starting_model(config, base, self.data, fork)
        if not run.begun:
            run.write_manifest(manifest(config, base, self.data, start, self.device, fork))
            if start.ancestor is not None:
                save_ancestor(run.path, start.ancestor)
        self.model = start.model.to(self.device)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.collapse = self._detector()
        self.looks = evaluation_steps(config.training.steps, config.training.evaluations)
        self.step = self._restore()

    def run_to_end(self) -> None:
        """Look, step, look … until the last step, a collapse that may end the run, or a request to stop."""
        training = self.config.training
        self.console.start(self.config.name, training.steps, training.batch_size * self.config.data.block_size)
        with stop_requests() as stop:
            if self.step == 0:
                self._look()
            ending = self._ending()
            while ending is None:
                self._take_step()
                ending = self._ending()
                if self.step in self.looks or ending is not None:
                    self._look()
                if self.step % training.checkpoint_every == 0 or ending is not None or stop:
                    self._save()
                self._give_way(stop, ending)
        self.run.append(METRICS, {"event": "end", "step": self.step} | ending)
        self.sinks.finish_run()
        self.console.finish(f"{ending['reason']} at step {self.step}")

    def _take_step(self) -> None:
        training, optimizer = self.config.training, self.config.optimizer
        began = time.perf_counter()
        rate = optimizer.learning_rate * learning_rate_factor(self.step, training.steps, optimizer)
        set_learning_rate(self.optimizer, rate)
        batch = make_batch(
            self.data.train, seed=self.config.seed, step=self.step, batch_size=training.batch_size, device=self.device
        )
        metrics = train_step(
            self.model,
            self.optimizer,
            batch,
            micro_batch_size=training.micro_batch_size,
            clip_norm=optimizer.clip_norm,
        )
        self.step += 1
        self._record_step(metrics | {"learning_rate": rate}, batch.tokens.numel(), time.perf_counter() - began)

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

    def _look(self) -> None:
        """Evaluate on dev and trace the probe set; at both ends also on test, with fresh gates."""
        ends = self.step == 0 or self._ending() is not None
        self._evaluate("dev", self.config.data.dev_blocks)
        if ends:
            self._evaluate("test", self.config.data.test_blocks)
        began = time.perf_counter()
        write_trace(self.model, self.data, self.run.traces, step=self.step, device=self.device, fresh_gates=ends)
        self._time("trace", began)
        self.sinks.log_gpu_memory(self.step)

    def _evaluate(self, split: Any, blocks: int) -> None:
        began = time.perf_counter()
        scores = evaluate(self.model, self.data, self.data.split(split), device=self.device, per_domain=blocks)
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
        events = [line for line in self.run.read(METRICS) if line["event"] == "collapse" and line["layer"] == layer]
        return {"layer": layer, "expert": events[-1]["expert"], "detail": events[-1]["reason"]}

    def _detector(self) -> CollapseDetector | None:
        moe = self.config.moe
        if moe is None:
            return None
        return CollapseDetector(moe.num_experts, moe.top_k, rule=self.config.training.collapse_rule)

    def _save(self) -> None:
        state = {"step": self.step, "collapse": None if self.collapse is None else self.collapse.to_state()}
        checkpoints.save_checkpoint(self.run.checkpoints, self.model, self.optimizer, state)
        checkpoints.remove_old_checkpoints(self.run.checkpoints, self.config.training.keep_checkpoints)

    def _restore(self) -> int:
        """The step to go on from: that of the newest checkpoint, or 0."""
        newest = checkpoints.newest_checkpoint(self.run.checkpoints)
        if newest is None:
            self.run.cut_back(-1)
            return 0
        state = checkpoints.read_checkpoint(newest)
        checkpoints.load_weights(newest, self.model)
        checkpoints.load_optimizer(newest, self.optimizer)
        if self.collapse is not None:
            self.collapse.restore(state["collapse"])
        self.run.cut_back(state["step"])
        return int(state["step"])

    def _give_way(self, stop: StopRequest, ending: dict[str, Any] | None) -> None:
        if stop and ending is None:
            raise Interrupted(
                f"{self.config.name}: stopped at step {self.step} of {self.config.training.steps}, all of it kept in "
                f"{self.run.path}; the same command continues it (for train: with --resume)"
            )
