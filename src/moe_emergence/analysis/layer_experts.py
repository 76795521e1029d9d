"""What the neighbour of a trace tells of a layer's gate and experts; recorded by `training.neighbour`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_emergence.analysis.records import Floats
from moe_emergence.errors import AnalysisError


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerExperts:
    """What was recorded of one layer's weights at one step; d is the width of a hidden state, E the number of experts.

    Attributes:
        gate: [E, d] the router's rows.
        routed_mean: [E, d] mean input of the tokens whose first choice an expert is; NaN where it is nobody's.
        drift: [E] ‖W − W_0‖ / ‖W_0‖ from the ancestor.
        delta_cosine: [E, E] of W_i − W_0 and W_j − W_0; NaN for an expert that has not moved.
        output_cosine, output_cka: [E, E] of the experts' outputs on the same tokens.
        ancestor_cosine: [E] of the expert's and the ancestor's outputs.
    """

    gate: Floats
    routed_mean: Floats
    drift: Floats
    delta_cosine: Floats
    output_cosine: Floats
    output_cka: Floats
    ancestor_cosine: Floats


_RECORDED = tuple(field.name for field in fields(LayerExperts))


def layer_experts(beside: Mapping[str, NDArray[Any]], layer: int, experts: int, path: Path) -> LayerExperts | None:
    """What a trace's neighbour holds of a layer's gate and experts; None for nothing.

    Raises:
        AnalysisError: it holds a part, or of another number of experts.
    """
    found = {name: beside[f"{name}.{layer}"] for name in _RECORDED if f"{name}.{layer}" in beside}
    if not found:
        return None
    for name in _RECORDED:
        if name not in found or found[name].shape[0] != experts:
            shape = list(found[name].shape) if name in found else "nothing"
            raise AnalysisError(
                f"{path.with_suffix('.safetensors')}: '{name}.{layer}' must be of {experts} experts; found {shape}"
            )
    return LayerExperts(**{name: value.astype(np.float64) for name, value in found.items()})
