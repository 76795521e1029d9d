"""A look at a run: its evaluations and its trace, at a step of the grid."""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from moe_emergence.config import RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.tracking.sinks import Sinks, memory_mib
from moe_emergence.training.engine import Engine
from moe_emergence.training.evaluation import evaluate
from moe_emergence.training.run_directory import ANCESTOR, METRICS, TIMINGS, RunDirectory
from moe_emergence.training.runtime import peak_memory_mib
from moe_emergence.training.schedule import evaluation_steps, snapshot_steps
from moe_emergence.training.snapshot import save_snapshot
from moe_emergence.training.tensors import model_tensors, read_tensors
from moe_emergence.training.trace import write_trace


class Looks:
    """Takes the looks of one run. Every process computes all of it, the first one writes."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        engine: Engine,
        model: PreTrainedModel,
        data: PreparedData,
        sinks: Sinks,
        poll: Callable[[], None],
    ) -> None:
        self.config, self.run, self.engine = config, run, engine
        self.model, self.data, self.sinks, self.poll = model, data, sinks, poll
        training = config.training
        self.snapshot_steps = snapshot_steps(evaluation_steps(training.steps, training.evaluations), training.snapshots)

    def take(self, step: int, *, ends: bool, inexact: bool) -> float:
        """Evaluate on dev and trace the probe set; at both `ends` also on test, with fresh gates, and the wide probe
        set. At some looks the weights are kept.

        Returns:
            The macro LM loss on dev, nats a token.

        Raises:
            StopAsked: a signal asked to stop; the look is to be taken again.
        """
        loss = self._evaluate(step, "dev", self.config.data.dev_blocks)
        if ends:
            self._evaluate(step, "test", self.config.data.test_blocks)
        began = time.perf_counter()
        informed = ends and self.config.moe is not None and self.config.moe.gate_init == "centroids"
        self._trace(step, inexact, fresh_gates=ends, informed_gates=informed, ancestor=self._ancestor())
        if ends and self.data.wide is not None:
            self._trace(step, inexact, wide=True)
        if step in self.snapshot_steps or (ends and step > 0 and self.snapshot_steps):
            self._snapshot(step)
        self._time(step, "trace", began)
        self.sinks.log_gpu_memory(step)
        return loss

    def _trace(self, step: int, inexact: bool, **options: Any) -> None:
        facts = {"arm": self.config.name, "seed": self.config.seed} | ({"inexact": True} if inexact else {})
        with self.engine.autocast():
            write_trace(
                self.model,
                self.data,
                self.run.traces if self.engine.is_main else None,
                step=step,
                device=self.engine.device,
                facts=facts,
                full=self.engine.full,
                poll=self.poll,
                **options,
            )

    def _snapshot(self, step: int) -> None:
        """The processes gather the weights, and the first one writes."""
        weights = model_tensors(self.model, self.engine.full)
        self.engine.on_main(lambda: save_snapshot(self.run.snapshots, self.model.config, weights, step))

    def _ancestor(self) -> dict[str, Tensor] | None:
        """Read anew for each look: the MLPs of a large model are better not held while it trains."""
        wanted = self.engine.is_main and self.config.moe is not None
        return read_tensors(self.run.path / ANCESTOR) if wanted else None

    def _evaluate(self, step: int, split: Any, blocks: int) -> float:
        began, documents = time.perf_counter(), self.data.split(split)
        with self.engine.autocast():
            scores = evaluate(
                self.model, self.data, documents, device=self.engine.device, per_domain=blocks, poll=self.poll
            )
        self.run.append(METRICS, {"event": "evaluation", "step": step, "split": split} | scores)
        losses = {f"{split}/lm_loss_{domain}": loss for domain, loss in scores["lm_loss"].items()}
        self.sinks.log_step(step, {f"{split}/lm_loss_macro": scores["lm_loss_macro"]} | losses)
        self._time(step, "evaluation", began)
        return float(scores["lm_loss_macro"])

    def _time(self, step: int, event: str, began: float) -> None:
        seconds = time.perf_counter() - began
        memory = {"peak_memory_mib": round(peak_memory_mib(), 1)} | memory_mib()
        self.run.append(TIMINGS, {"event": event, "step": step, "seconds": seconds} | memory)
