"""Untrained gates that a trained router is compared with, on the hidden states of one step.

Small random gates, of every run: what hidden states give away to a gate that knows nothing of them. Informed gates, of
a run whose own gate started from k-means: what the representation gives away to a gate that knows where it clusters;
only what goes beyond them was added by training. A router must be beyond every set of them; the chance level of all is
that of permuted documents.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from moe_emergence.analysis.information import fresh_gate_values
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.statistics import Interval, central_range
from moe_emergence.analysis.traces import Trace
from moe_emergence.errors import AnalysisError

Gates = Float[np.ndarray, "gates layers"]
"""Plug-in I(E;D) of every gate on every layer's hidden states, bits."""


def fresh_sets(run: Run, trace: Trace) -> tuple[Gates, ...]:
    """The small random gates, and after them the informed ones where the run's own gate started so.

    Raises:
        AnalysisError: the trace lacks one of them.
    """
    informed = run.config.moe is not None and run.config.moe.gate_init == "centroids"
    found = [_gates(trace, "fresh_gates", [layer.fresh for layer in trace.layers])]
    if informed:
        found.append(_gates(trace, "informed_gates", [layer.informed for layer in trace.layers]))
    return tuple(found)


def strictest_range(sets: Sequence[Gates], place: int) -> Interval:
    """Central 95 % of the set of gates that reaches highest in the layer at `place`."""
    return max((central_range(gates[:, place]) for gates in sets), key=lambda found: found.high)


def _gates(trace: Trace, name: str, counts: Sequence[NDArray[np.int32] | None]) -> Gates:
    found: list[NDArray[np.float64]] = []
    for layer, gates in zip(trace.layers, counts, strict=True):
        if gates is None:
            raise AnalysisError(
                f"the trace of step {trace.step} holds no {name}.{layer.layer} in its .safetensors, which a run "
                "records at its first and last step: train the run again"
            )
        found.append(fresh_gate_values(gates, trace.domain))
    return np.stack(found, axis=1)
