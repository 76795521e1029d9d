"""All causal tests of one run: computed once, kept beside the run, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.analysis.causal.effects import (
    DoseRow,
    KnockoutRow,
    Origin,
    dose_rows,
    knockout_rows,
    measurable_documents,
)
from moe_emergence.analysis.causal.forward import Subject
from moe_emergence.analysis.causal.interventions import INTERVENTIONS, NEXT
from moe_emergence.analysis.causal.knockout import DOSES, documents_of
from moe_emergence.analysis.causal.measured import (
    DOSE,
    KNOCKOUT,
    PARTS,
    REGRET,
    RETENTION,
    TRANSPLANT,
    Measured,
    Progress,
    Settings,
)
from moe_emergence.analysis.causal.regret import RegretRow, regret_rows
from moe_emergence.analysis.causal.retention import RetentionRow, retention_rows
from moe_emergence.analysis.causal.specialists import SpecialistRow, specialist_rows
from moe_emergence.analysis.causal.specificity import (
    LEAST_DOCUMENTS,
    SpecificityDraws,
    SpecificityRow,
    measured_specificity,
    specificity_draws,
    specificity_rows,
)
from moe_emergence.analysis.causal.transplant import Gates, TransplantRow, transplant_rows
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.traces import read_neighbour, trace_steps
from moe_emergence.analysis.weights import model_at
from moe_emergence.config import ASSIGNING_ROUTERS
from moe_emergence.data.blocks import PreparedData
from moe_emergence.errors import AnalysisError
from moe_emergence.training.trace import trace_name


@dataclass(frozen=True, kw_only=True)
class CausalTables:
    """What the causal tests of one run at one step found; a part that was not asked for or is impossible is empty."""

    knockouts: tuple[KnockoutRow, ...] = ()
    specificity: tuple[SpecificityRow, ...] = ()
    specificity_draws: tuple[SpecificityDraws, ...] = ()
    specialists: tuple[SpecialistRow, ...] = ()
    doses: tuple[DoseRow, ...] = ()
    regret: tuple[RegretRow, ...] = ()
    retention: tuple[RetentionRow, ...] = ()
    transplants: tuple[TransplantRow, ...] = ()


def causal_tables(
    run: Run,
    data: PreparedData,
    *,
    weights: Path | None = None,
    step: int | None = None,
    interventions: Sequence[str] = INTERVENTIONS,
    parts: Sequence[str] = PARTS,
    gates: Mapping[int, Gates] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CausalTables:
    """Every causal test of a run with experts, on the probe's documents; nothing for a run without, or where a domain
    has fewer than 2 documents (specificity and retention: 4).

    What the model says is kept in `<run>/analysis/causal.safetensors` (`causal-step-NNNNNN.safetensors` for an earlier
    step) and read from there as long as model, probe, ancestor and settings are the same.

    Args:
        weights: a folder of config.json and model.safetensors, of `step`; the run's last checkpoint where not given.
        interventions: some of `INTERVENTIONS`.
        parts: some of `PARTS`.
        gates: step to the gates to transplant; those of the run's traces before the step where not given.
        seed: of the draws of `swap`.

    Raises:
        AnalysisError: data of another run, weights without a step or of another model than that of the step's trace,
            unknown names, an ancestor that is missing.
        ModelError: there is no model to load.
        StopAsked: a signal asked to stop; parts that are finished are kept.
    """
    _refuse_unknown("interventions", interventions, INTERVENTIONS)
    _refuse_unknown("parts", parts, PARTS)
    if (weights is None) != (step is None):
        raise AnalysisError("weights and step go together: give the folder of a model and the step it was saved at")
    if run.manifest.data.digest != data.digest:
        raise AnalysisError(
            f"{run.folder} was made on data {run.manifest.data.digest[:16]}, these are {data.digest[:16]}: give the "
            "prepared data of its suite"
        )
    documents, domains = documents_of(data.probe), len(data.domains)
    if not run.manifest.moe_layers or not measurable_documents(documents.domain, domains):
        return CausalTables()
    at = run.last_step if step is None else step
    name = "causal" if at == run.last_step else f"causal-step-{at:06d}"
    subject = Subject(model_at(run, at, weights))
    settings = Settings(
        interventions=tuple(interventions),
        parts=_possible_parts(parts, subject, measurable_documents(documents.domain, domains, LEAST_DOCUMENTS)),
        gates=trace_gates(run, before=at) if gates is None else gates,
        seed=seed,
    )
    origin = Origin(
        arm=run.arm,
        seed=run.seed,
        step=at,
        domains=data.domains,
        domain=documents.domain,
        predicted=documents.predicted,
    )
    file = run.folder / "analysis" / f"{name}.safetensors"
    return _tables(origin, Measured(run.folder, file, subject, documents, settings, progress))


def trace_gates(run: Run, *, before: int) -> dict[int, Gates]:
    """Step to the gates that a trace recorded, for every step before `before`; none of traces that hold no gates.

    Raises:
        AnalysisError: a file cannot be read, or the neighbour of a trace is that of another.
    """
    found: dict[int, Gates] = {}
    for step in trace_steps(run):
        if step < before:
            tensors = read_neighbour(run.folder / "traces" / f"{trace_name(step)}.parquet")
            gates = {layer: tensors[f"gate.{layer}"] for layer in run.manifest.moe_layers if f"gate.{layer}" in tensors}
            if gates:
                found[step] = gates
    return found


def _tables(origin: Origin, measured: Measured) -> CausalTables:
    subject, settings = measured.subject, measured.settings
    layers, found = tuple(subject.layers), dict[str, Any]()
    if KNOCKOUT in settings.parts:
        arrays = measured.knockout()
        found["knockouts"] = tuple(knockout_rows(origin, layers, settings.interventions, **arrays))
        if measurable_documents(origin.domain, len(origin.domains), LEAST_DOCUMENTS):
            found |= _specific(origin, layers, dict(zip(settings.interventions, arrays["change"], strict=True)))
    if DOSE in settings.parts:
        found["doses"] = tuple(dose_rows(origin, layers, DOSES, **measured.dose()))
    if REGRET in settings.parts:
        chance = 1 / (subject.experts - subject.top_k + 1)
        found["regret"] = tuple(regret_rows(origin, layers, measured.regret()["regret"], chance))
    if RETENTION in settings.parts:
        found["retention"] = tuple(retention_rows(origin, subject.experts, **measured.retention()))
    if TRANSPLANT in settings.parts:
        arrays = measured.transplant()
        found["transplants"] = tuple(
            transplant_rows(origin, tuple(settings.gates), arrays["transplant"], arrays["changed"])
        )
    return CausalTables(**found)


def _specific(origin: Origin, layers: Sequence[int], change: Mapping[str, Any]) -> dict[str, Any]:
    """Whether experts matter to one domain more than to others, of interventions to their [layers, experts, docs]."""
    tested = measured_specificity(origin, change)
    found: dict[str, Any] = {"specificity": tuple(specificity_rows(origin, layers, tested))}
    if NEXT in tested:
        found["specificity_draws"] = tuple(specificity_draws(origin, layers, tested[NEXT]))
        found["specialists"] = tuple(specialist_rows(origin, layers, change[NEXT]))
    return found


def _possible_parts(parts: Sequence[str], subject: Subject, halves: bool) -> tuple[str, ...]:
    """In the order of `PARTS`; those that the model or the documents do not allow are left out."""
    assigns = any(moe.router.kind in ASSIGNING_ROUTERS for moe in subject.layers.values())
    impossible = {
        REGRET: subject.top_k == subject.experts,
        RETENTION: not halves,
        TRANSPLANT: assigns,
    }
    return tuple(part for part in PARTS if part in parts and not impossible.get(part, False))


def _refuse_unknown(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise AnalysisError(f"{what} must be some of {', '.join(known)}; got {', '.join(unknown) or 'none'}")
