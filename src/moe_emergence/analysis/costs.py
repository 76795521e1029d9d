"""What a run took: wall time by kind of work, throughput, memory."""

from dataclasses import dataclass

import numpy as np

from moe_emergence.analysis.records import Run, Suite


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One run's wall time in seconds, as its timings record it.

    Attributes:
        training, recording: seconds in optimiser steps, and in everything else (evaluation, traces).
        recording_share: recording ÷ both, 0..1.
        tokens_per_second: tokens of a step ÷ the median step's seconds.
        peak_memory_mib: the largest resident size measured, MiB.
    """

    arm: str
    seed: int
    training: float
    recording: float
    recording_share: float | None
    tokens_per_second: float | None
    peak_memory_mib: float | None


def cost_rows(suite: Suite) -> tuple[CostRow, ...]:
    """One row a run with a result."""
    return tuple(_cost_row(run) for run in suite.runs)


def _cost_row(run: Run) -> CostRow:
    steps = [timing.seconds for timing in run.timings if timing.event == "step"]
    training = sum(steps, 0.0)
    recording = sum((timing.seconds for timing in run.timings if timing.event != "step"), 0.0)
    peaks = [timing.peak_memory_mib for timing in run.timings if timing.peak_memory_mib is not None]
    step_tokens = run.config.training.batch_size * run.config.data.block_size
    return CostRow(
        arm=run.arm,
        seed=run.seed,
        training=training,
        recording=recording,
        recording_share=recording / (training + recording) if training + recording else None,
        tokens_per_second=step_tokens / float(np.median(steps)) if steps and np.median(steps) else None,
        peak_memory_mib=max(peaks, default=None),
    )
