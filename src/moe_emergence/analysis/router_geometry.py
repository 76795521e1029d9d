"""Where a router's rows point: at each other, and at the hidden states they are chosen for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.similarity import defined, recorded
from moe_emergence.analysis.traces import Trace


@dataclass(frozen=True, kw_only=True)
class RouterGeometryRow:
    """One row of a router at one trace; d is the width of a hidden state. Cosines are −1..1, and None where undefined.

    A random row has a cosine of 0 ± 1/√d with any direction that it did not help to choose. The tokens that it was
    chosen for it did choose: with their mean even a fresh gate's row has a positive cosine, so the chance level of
    `routed_cosine` and `centred_cosine` is their value at step 0, where the router is a fresh gate, and not 0.

    Attributes:
        norm: ‖row‖.
        row_cosine: with the router's other rows, mean: 0 ± 1/√d for random rows, 1 when all are one row, −1/(E − 1)
            when they cancel; None for a single expert.
        routed_cosine: with the mean hidden state of the tokens whose first choice the expert is; None where it is
            nobody's. Hidden states share a large common part, which all rows see alike.
        centred_cosine: the same less what is common, which no choice depends on: the row less the mean row, the mean
            hidden state less that of all tokens. 1 when a row points exactly to where its own tokens differ.
        chance_spread: 1/√d, the standard deviation of the cosine of a random row with a fixed direction.
        tokens: first choices, of the probe set.
    """

    arm: str
    seed: int
    step: int
    layer: int
    expert: int
    norm: float
    row_cosine: float | None
    routed_cosine: float | None
    centred_cosine: float | None
    chance_spread: float
    tokens: int


def router_geometry_rows(run: Run, trace: Trace) -> Iterator[RouterGeometryRow]:
    """One row a layer and expert of a trace.

    Raises:
        AnalysisError: the trace has no record of the routers.
    """
    for layer in trace.layers:
        record = recorded(run, trace, layer)
        tokens = layer.first_choice.sum(0)
        rows = mean_row_cosine(record.gate)
        plain = cosine(record.gate, record.routed_mean)
        centred = cosine(record.gate - record.gate.mean(0), record.routed_mean - overall(record.routed_mean, tokens))
        for expert in range(len(record.gate)):
            yield RouterGeometryRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=layer.layer,
                expert=expert,
                norm=float(np.linalg.norm(record.gate[expert])),
                row_cosine=defined(rows[expert]),
                routed_cosine=defined(plain[expert]),
                centred_cosine=defined(centred[expert]),
                chance_spread=record.gate.shape[1] ** -0.5,
                tokens=int(tokens[expert]),
            )


def cosine(
    one: Float[np.ndarray, "experts hidden"], other: Float[np.ndarray, "experts hidden"]
) -> Float[np.ndarray, " experts"]:
    """Cosine of each row with the other's same row, −1..1; NaN with a row of zeros or NaN."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.divide((one * other).sum(1), lengths, out=np.full(len(one), np.nan), where=lengths > 0)


def mean_row_cosine(gate: Float[np.ndarray, "experts hidden"]) -> Float[np.ndarray, " experts"]:
    """Mean cosine of each row with every other, −1..1; NaN for a single row, or with a row of zeros."""
    lengths = np.linalg.norm(gate, axis=1)
    if len(gate) == 1 or (lengths == 0).any():
        return np.full(len(gate), np.nan)
    unit = gate / lengths[:, None]
    return (unit @ unit.sum(0) - 1) / (len(gate) - 1)


def overall(
    routed_mean: Float[np.ndarray, "experts hidden"], tokens: Int[np.ndarray, " experts"]
) -> Float[np.ndarray, " hidden"]:
    """The mean hidden state of all tokens, from each expert's mean and number of them."""
    used = tokens > 0
    return tokens[used] @ routed_mean[used] / tokens.sum()
