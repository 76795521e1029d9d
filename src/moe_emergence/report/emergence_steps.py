"""One traced step as the page's script reads it: routes of the shown tokens, measures of the whole probe set."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from moe_emergence import routing
from moe_emergence.analysis.records import Counts, Run
from moe_emergence.analysis.specialisation import InformationRow
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.report import numbers
from moe_emergence.report.verdicts import corrected_share, fresh_range, null_range, share_with_interval

HUNDREDTHS = 100
"""Weights, margins, entropies and losses are kept to what the page prints, two decimals: nothing is rounded twice."""
ABSENT = 0xFFFF


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A quantity in full and as it reads."""

    value: float
    text: str


def bytes_a_token(run: Run, layers: int) -> int:
    """How many bytes `step_payload` takes for each shown token."""
    slots = 1 if run.config.moe is None else run.config.moe.top_k
    return 2 + layers * (2 * slots + 2)


def step_payload(
    run: Run, trace: Trace, tokens: Int[np.ndarray, " tokens"], information: Sequence[InformationRow | None]
) -> dict[str, Any]:
    """One traced step: the loss after each shown token, and of every layer what `_layer` says.

    Args:
        tokens: places of the shown tokens in the trace.
        information: of each layer of the trace; None where it could not be measured.
    """
    layers = zip(trace.layers, information, strict=True)
    return {
        "step": trace.step,
        "loss": packed(hundredths(trace.loss[tokens]), "<u2"),
        "layers": [_layer(run, trace, layer, tokens, row) for layer, row in layers],
    }


def hundredths(values: NDArray[Any]) -> NDArray[np.int64]:
    """Whole hundredths; `ABSENT` for NaN."""
    whole = np.rint(HUNDREDTHS * np.nan_to_num(np.asarray(values, dtype=np.float64)))
    return np.where(np.isnan(values), ABSENT, np.clip(whole, 0, ABSENT - 1)).astype(np.int64)


def packed(values: NDArray[Any], kind: str) -> str:
    """Base64 of the values' bytes."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _layer(
    run: Run, trace: Trace, layer: LayerTrace, tokens: Int[np.ndarray, " tokens"], row: InformationRow | None
) -> dict[str, Any]:
    """[tokens, k] experts, `_certainty`, [tokens] entropies; [domains, experts] assignments; loads; measures."""
    counts = domain_counts(trace, layer, len(run.manifest.data.domains))
    load = routing.load_of_counts(torch.from_numpy(counts.sum(0)), torch.float64)
    slots = layer.experts.shape[1]
    return {
        "experts": packed(layer.experts[tokens], "u1"),
        **_certainty(layer, tokens),
        "entropy": packed(hundredths(layer.entropy[tokens]), "<u2"),
        "counts": counts.tolist(),
        "hot": routing.hot_experts(load, slots).nonzero().flatten().tolist(),
        "dead": routing.dead_experts(load).nonzero().flatten().tolist(),
        "effective": _effective(load),
        "drift": _drift(layer),
        "information": None if row is None else _information(row),
    }


def _certainty(layer: LayerTrace, tokens: Int[np.ndarray, " tokens"]) -> dict[str, str | None]:
    """[tokens, k] weights; where each token has one expert with a weight of 1, which says nothing, [tokens] margins."""
    weights = hundredths(layer.weights[tokens])
    if weights.shape[1] == 1 and (weights == HUNDREDTHS).all():
        return {"weights": None, "margins": packed(hundredths(layer.margin[tokens]), "u1")}
    return {"weights": packed(np.minimum(weights, 0xFF), "u1"), "margins": None}


def domain_counts(trace: Trace, layer: LayerTrace, domains: int) -> Counts:
    """[domains, experts] assignments over all slots: what `tables.shares` counts; a domain without documents has 0."""
    counts = np.zeros((domains, layer.slots.shape[1]), dtype=np.int64)
    np.add.at(counts, trace.domain, layer.slots)
    return counts


def _effective(load: torch.Tensor) -> dict[str, Any]:
    value = float(routing.effective_experts(load))
    return vars(Shown(value=value, text=f"{numbers.decimal(value)} of {len(load)}"))


def _drift(layer: LayerTrace) -> dict[str, Any] | None:
    """Mean over experts of the relative distance from the ancestor, as text with the smallest and the largest."""
    if layer.record is None:
        return None
    drift = layer.record.drift
    text = (
        f"{numbers.tiny(float(drift.mean()))} ({numbers.span([float(drift.min()), float(drift.max())], numbers.tiny)})"
    )
    return vars(Shown(value=float(drift.mean()), text=text))


def _information(row: InformationRow) -> dict[str, Any]:
    """Shares of H(D): the value freed of bias with its interval, and both nulls less the same bias."""
    null, fresh = null_range(row), fresh_range(row)
    return {
        **vars(Shown(value=corrected_share(row), text=share_with_interval(row))),
        "low": row.low_share,
        "high": row.high_share,
        "null": {"ends": null, "text": numbers.percent_range(*null)},
        "fresh": None if fresh is None else {"ends": fresh, "text": numbers.percent_range(*fresh)},
    }
