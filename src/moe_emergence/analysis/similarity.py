"""How far experts have moved from the MLP they were copied from, and how alike they still are: the emergence clock.

At upcycling every value is known: drift at most the perturbation, outputs of all experts alike, directions of movement
unrelated. What is recorded is defined in `training.similarity`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from moe_emergence.analysis.layer_experts import LayerExperts
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.errors import AnalysisError
from moe_emergence.training.trace import trace_name

SOFT_COLLAPSE = 0.99
"""Mean output cosine of a layer's experts above which they still compute one function, whatever their loads."""


@dataclass(frozen=True, kw_only=True)
class SimilarityRow:
    """One expert at one trace. Means over siblings are None for a single expert, or where a value is undefined.

    Attributes:
        drift: ‖W − W_0‖ / ‖W_0‖ over all of the expert's parameters, from the ancestor W_0: 0 for a copy, about the
            perturbation at step 0, unbounded above.
        ancestor_output_cosine: with the ancestor's output on the same tokens, −1..1; 1 for a copy.
        delta_cosine: of W − W_0 with the siblings', mean, −1..1: 0 ± 1/√parameters for movements that have nothing in
            common (step 0), 1 when all experts learn the same; None where it or a sibling has not moved at all.
        output_cosine: with the siblings' outputs on the same tokens, mean, −1..1; 1 for copies.
        output_cka: linear CKA with the siblings' outputs, mean, 0..1; 1 for copies.
        nearest: the sibling of the highest output cosine; the lowest number among equals.
        layer_output_cosine: mean output cosine over all pairs of the layer.
        soft_collapse: whether that is above 0.99: experts that still compute one function.
    """

    arm: str
    seed: int
    step: int
    layer: int
    expert: int
    drift: float
    ancestor_output_cosine: float | None
    delta_cosine: float | None
    output_cosine: float | None
    output_cka: float | None
    nearest: int | None
    layer_output_cosine: float | None
    soft_collapse: bool


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Two experts of a layer, `first` < `second`; values as in `SimilarityRow`, of this pair alone."""

    arm: str
    seed: int
    step: int
    layer: int
    first: int
    second: int
    delta_cosine: float | None
    output_cosine: float | None
    output_cka: float | None


def similarity_rows(run: Run, trace: Trace) -> Iterator[SimilarityRow]:
    """One row a layer and expert of a trace.

    Raises:
        AnalysisError: the trace has no record of the experts.
    """
    for layer in trace.layers:
        record = recorded(run, trace, layer)
        whole = defined(pairs_of(record.output_cosine).mean()) if len(record.drift) > 1 else None
        for expert in range(len(record.drift)):
            yield SimilarityRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=layer.layer,
                expert=expert,
                drift=float(record.drift[expert]),
                ancestor_output_cosine=defined(record.ancestor_cosine[expert]),
                delta_cosine=_with_siblings(record.delta_cosine, expert),
                output_cosine=_with_siblings(record.output_cosine, expert),
                output_cka=_with_siblings(record.output_cka, expert),
                nearest=nearest_sibling(record.output_cosine, expert),
                layer_output_cosine=whole,
                soft_collapse=whole is not None and whole > SOFT_COLLAPSE,
            )


def pair_rows(run: Run, trace: Trace) -> Iterator[PairRow]:
    """One row a layer and pair of experts; none but at the run's last step.

    Raises:
        AnalysisError: the trace has no record of the experts.
    """
    if trace.step != run.last_step:
        return
    for layer in trace.layers:
        record = recorded(run, trace, layer)
        for first, second in zip(*np.triu_indices(len(record.drift), 1), strict=True):
            yield PairRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=layer.layer,
                first=int(first),
                second=int(second),
                **_pair(record, int(first), int(second)),
            )


def recorded(run: Run, trace: Trace, layer: LayerTrace) -> LayerExperts:
    """What was recorded of the layer's gate and experts.

    Raises:
        AnalysisError: nothing was: the trace is of the wide probe set, or another version wrote it.
    """
    if layer.record is None:
        path = run.folder / "traces" / f"{trace_name(trace.step)}.safetensors"
        raise AnalysisError(
            f"{path} holds no drift.{layer.layer}, or the trace given is of the wide probe set, which has no such "
            "record: give that of the probe set, or train the run again"
        )
    return layer.record


def pairs_of(matrix: Float[np.ndarray, "experts experts"]) -> Float[np.ndarray, " pairs"]:
    """The entries above the diagonal."""
    return matrix[np.triu_indices(len(matrix), 1)]


def nearest_sibling(matrix: Float[np.ndarray, "experts experts"], expert: int) -> int | None:
    """The other expert of the highest value; None where there is no other, or no value is defined."""
    row = matrix[expert].copy()
    row[expert] = np.nan
    return None if np.isnan(row).all() else int(np.nanargmax(row))


def defined(value: float | np.floating) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


def _with_siblings(matrix: NDArray[np.float64], expert: int) -> float | None:
    others = np.delete(matrix[expert], expert)
    return defined(others.mean()) if len(others) else None


def _pair(record: LayerExperts, first: int, second: int) -> dict[str, float | None]:
    names = ("delta_cosine", "output_cosine", "output_cka")
    return {name: defined(getattr(record, name)[first, second]) for name in names}
