"""The parts of a run's causal tests, each computed by the model or read from what was kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moe_emergence.analysis.causal.forward import Subject
from moe_emergence.analysis.causal.interventions import ANCESTOR, ancestors_of
from moe_emergence.analysis.causal.kept import Kept, Made, digest_of
from moe_emergence.analysis.causal.knockout import (
    DOSES,
    Ancestors,
    Arrays,
    Documents,
    Survey,
    dose_response,
    knockout_matrix,
    number_of_batches,
    survey,
)
from moe_emergence.analysis.causal.regret import regret_sums
from moe_emergence.analysis.causal.retention import RANDOM_SUBSETS, kept_counts, measured_half, retained_losses
from moe_emergence.analysis.causal.transplant import Gates, transplanted_losses
from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.models.base import weights_digest
from moe_emergence.training.run_directory import ANCESTOR as ANCESTOR_FILE
from moe_emergence.training.tensors import model_tensors, read_tensors
from moe_emergence.training.trace import probe_digest

KNOCKOUT, DOSE, REGRET, RETENTION, TRANSPLANT = "knockout", "dose", "regret", "retention", "transplant"
PARTS = (KNOCKOUT, DOSE, REGRET, RETENTION, TRANSPLANT)
Progress = Callable[[int, int], None]
"""Told of (passes done, passes in all); a pass is one batch through part of the model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What to measure: interventions, parts, step to gates, and the seed of what is drawn."""

    interventions: tuple[str, ...]
    parts: tuple[str, ...]
    gates: Mapping[int, Gates]
    seed: int


class Measured:
    """One model on the probe. Arrays are those of the functions of the same names."""

    def __init__(
        self,
        folder: Path,
        file: Path,
        subject: Subject,
        documents: Documents,
        settings: Settings,
        progress: Progress | None = None,
    ) -> None:
        self.folder, self.subject, self.documents, self.settings = folder, subject, documents, settings
        self._kept, self._progress = Kept(file), progress
        self._passes = {part: self._passes_of(part) for part in settings.parts}
        self._done = 0
        self._made = {
            "model": weights_digest(model_tensors(subject.model).items()),
            "probe": probe_digest(documents.probe),
        }

    def knockout(self) -> Mapping[str, Any]:
        """Each intervention is kept for itself: fewer leave the others there, more are made without those."""
        seed, after = self.settings.seed, self._done + self._passes[KNOCKOUT]
        names = {f"{KNOCKOUT}-{intervention}": intervention for intervention in self.settings.interventions}
        ancestors = self._ancestors if ANCESTOR in names.values() else None
        digest = _digest(ancestors)
        made = {
            name: {**self._made, "seed": seed, "ancestor": digest if intervention == ANCESTOR else None}
            for name, intervention in names.items()
        }

        def compute(missing: Sequence[str]) -> dict[str, Arrays]:
            wanted = [names[name] for name in missing]
            arrays = knockout_matrix(self.subject, self.documents, self._survey, wanted, ancestors, seed, self._count)
            return {
                name: {"change": change, "affected": arrays["affected"]}
                for name, change in zip(missing, arrays["change"], strict=True)
            }

        parts = list(self._kept.parts(made, compute).values())
        self._count(after - self._done)
        return {"change": np.stack([part["change"] for part in parts]), "affected": parts[0]["affected"]}

    def dose(self) -> Mapping[str, Any]:
        made = {"doses": list(DOSES), "ancestor": _digest(self._ancestors)}
        return self._part(
            DOSE, made, lambda: dose_response(self.subject, self.documents, self._ancestors, DOSES, self._count)
        )

    def regret(self) -> Mapping[str, Any]:
        return self._part(REGRET, {}, lambda: regret_sums(self.subject, self.documents, self._count))

    def retention(self) -> Mapping[str, Any]:
        made = {"random_subsets": RANDOM_SUBSETS, "kept": list(kept_counts(self.subject.experts))}

        def compute() -> Arrays:
            return retained_losses(self.subject, self.documents, self._survey, RANDOM_SUBSETS, self._count)

        return self._part(RETENTION, made, compute)

    def transplant(self) -> Mapping[str, Any]:
        gates = self.settings.gates
        named = {f"{step}.{layer}": gate for step, given in gates.items() for layer, gate in given.items()}
        made = {"steps": list(gates), "gates": digest_of(named)}
        return self._part(
            TRANSPLANT, made, lambda: transplanted_losses(self.subject, self.documents, gates, self._count)
        )

    @cached_property
    def _survey(self) -> Survey:
        return survey(self.subject, self.documents)

    @cached_property
    def _ancestors(self) -> Ancestors:
        path = self.folder / ANCESTOR_FILE
        if not path.exists():
            raise AnalysisError(
                f"{path} is missing, the MLPs that experts are reverted to: put it back, or leave out the intervention "
                f"{ANCESTOR!r} and the part {DOSE!r}"
            )
        return ancestors_of(self.subject, read_tensors(path))

    def _part(self, name: str, made: Made, compute: Callable[[], Arrays]) -> Mapping[str, Any]:
        after = self._done + self._passes[name]
        arrays = self._kept.part(name, self._made | dict(made), compute)
        self._count(after - self._done)  # those of a part that was only read
        return arrays

    def _count(self, passes: int) -> None:
        stop_if_asked()
        self._done += passes
        if self._progress is not None and passes:
            self._progress(self._done, sum(self._passes.values()))

    def _passes_of(self, part: str) -> int:
        layers, experts = len(self.subject.layers), self.subject.experts
        everything = number_of_batches(self.documents)
        if part == RETENTION:
            orders = int(self.documents.domain.max()) + 1 + RANDOM_SUBSETS
            tested = number_of_batches(self.documents.of(measured_half(self.documents.domain)))
            return tested * orders * len(kept_counts(experts))
        a_batch = {
            KNOCKOUT: layers * experts * len(self.settings.interventions),
            DOSE: layers * len(DOSES),
            REGRET: layers * experts,
            TRANSPLANT: len(self.settings.gates),
        }
        return everything * a_batch[part]


def _digest(ancestors: Ancestors | None) -> str | None:
    if ancestors is None:
        return None
    named = {f"{layer}.{name}": t.cpu().numpy() for layer, given in ancestors.items() for name, t in given.items()}
    return digest_of(named)
