"""What a suite left on disk, as values: arms, finished runs with their records, and the runs that are missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_emergence.config import RunConfig
from moe_emergence.errors import AnalysisError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One condition of a suite.

    Attributes:
        changes: dotted field to (the baseline arm's value, this arm's).
        baseline: the arm it is compared with; None for the first.
    """

    name: str
    question: str
    changes: Mapping[str, tuple[Any, Any]]
    baseline: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRouting:
    """Where one layer sent an evaluation's tokens.

    Attributes:
        assignments: [domains, experts] counts over all slots.
        first_choice: [domains, experts] counts of the most probable expert.
        mean_probabilities: [domains, experts] mean clean probabilities, each row summing to 1.
        entropy_per_token: mean entropy of a token's clean probabilities, nats, 0..ln E.
    """

    layer: int
    assignments: Counts
    first_choice: Counts
    mean_probabilities: Floats
    entropy_per_token: float


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentSums:
    """What an evaluation summed over each document of one domain: [documents] place in the corpus, loss in nats,
    predicted tokens, and bytes of text."""

    index: Counts
    loss: Floats
    tokens: Counts
    bytes: Counts


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A look at held-out blocks after `step` updates.

    Attributes:
        split: dev (while training) or test (first and last step).
        lm_loss: domain to LM loss, nats a token; `lm_loss_macro` weighs domains equally, `lm_loss_tokens` tokens.
        bits_per_byte: domain to LM loss in bits a byte of text.
        predicted_tokens: domain to the number of tokens the losses are means over.
        documents: domain to the sums of its documents.
        routing: one record a layer with experts, in order; none for a dense run.
    """

    step: int
    split: str
    lm_loss: Mapping[str, float]
    lm_loss_macro: float
    lm_loss_tokens: float
    bits_per_byte: Mapping[str, float]
    predicted_tokens: Mapping[str, int]
    documents: Mapping[str, DocumentSums]
    routing: tuple[LayerRouting, ...]


@dataclass(frozen=True, kw_only=True)
class CollapseEvent:
    """A layer's router changed its state (healthy, warning, collapsed) at `step`."""

    step: int
    layer: int
    state: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Wall time of one event; `peak_memory_mib` where it was measured."""

    event: str
    step: int
    seconds: float
    peak_memory_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """How far the upcycled model was from the dense one at step 0, and what it costs in parameters; losses in nats."""

    relative_logit_difference: float
    kl_nats: float
    dense_lm_loss: float
    upcycled_lm_loss: float
    lm_loss_difference: float
    parameters_total: int
    parameters_dense: int
    parameters_active: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents of one origin in the corpus."""

    domain: str
    source: str
    licence: str
    documents: int


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """What the run was trained and tested on.

    Attributes:
        domains: names, in the order of the rows of every count.
        blocks_per_domain, tokens, record: as written by the data pipeline (splits, cleaning, duplicates, format audit).
    """

    digest: str
    corpus: str
    corpus_digest: str
    tokenizer_digest: str
    domains: tuple[str, ...]
    blocks_per_domain: Any
    tokens: Any
    sources: tuple[Source, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A run went on from `step` under other conditions than it was started with; `changes` are (name, then, now)."""

    step: int
    changes: tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A step without an update, since its loss or gradient was not finite."""

    step: int
    cause: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run's results are to be traced to; `software` is the package's own version and commit where recorded."""

    environment: Mapping[str, Any]
    software: Mapping[str, Any]
    data: DataRecord
    base: Mapping[str, Any]
    receipt: Receipt | None
    moe_layers: tuple[int, ...]
    parameters: int
    inexact: tuple["Continuation", ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run that reached its end, or one of `Suite.going` that has not yet.

    Attributes:
        steps: [n] the steps recorded while training; `scalars` has a row of n values a name.
        reason: `finished`, or why it stopped before.
    """

    arm: str
    seed: int
    folder: Path
    config: RunConfig
    manifest: Manifest
    steps: Counts
    scalars: Mapping[str, Floats]
    evaluations: tuple[Evaluation, ...]
    collapses: tuple[CollapseEvent, ...]
    skipped: tuple[SkippedStep, ...]
    timings: tuple[Timing, ...]
    last_step: int
    reason: str

    @property
    def tokens_trained(self) -> int:
        return self.last_step * self.config.training.batch_size * self.config.data.block_size

    def evaluation(self, split: str, step: int) -> Evaluation:
        for found in self.evaluations:
            if (found.split, found.step) == (split, step):
                return found
        raise AnalysisError(f"{self.folder}: metrics.jsonl has no evaluation with split {split!r} at step {step}")

    @property
    def last_test(self) -> Evaluation:
        """The evaluation that reports quote."""
        return self.evaluation("test", self.last_step)

    def scalar(self, name: str) -> Floats:
        """[n] values of one training metric."""
        if name not in self.scalars:
            raise AnalysisError(f"{self.folder}: the step lines of metrics.jsonl have no key {name!r}")
        return self.scalars[name]


@dataclass(frozen=True, kw_only=True)
class MissingRun:
    """A run that the suite promises and that has no result; `reason` says how far it came."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """Arms that answer one question, with the runs there are and those there are not.

    Attributes:
        conclusive: False when the runs are too short for conclusions; `note` says why.
        runs: finished ones, by arm in the suite's order, then by seed.
        going: those still going, as far as their records go: `last_step` is their last trace's. They are in `missing`
            too, and measures leave them out.
    """

    folder: Path
    name: str
    question: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    command: str
    conclusive: bool
    note: str
    runs: tuple[Run, ...]
    missing: tuple[MissingRun, ...]
    going: tuple[Run, ...] = ()

    def runs_of(self, arm: str) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.arm == arm)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains all runs share; none when no run has finished."""
        return self.runs[0].manifest.data.domains if self.runs else ()

    @property
    def dense(self) -> str | None:
        """The first arm whose runs have no experts: what the others' LM loss is compared with."""
        return next((run.arm for run in self.runs if run.config.moe is None), None)
