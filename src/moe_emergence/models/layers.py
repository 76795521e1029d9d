"""Which blocks of a model get experts."""

import math
from collections.abc import Sequence

from moe_emergence.errors import ConfigError


def resolve_layers(layers: Sequence[int] | None, n_layer: int) -> tuple[int, ...]:
    """The blocks to upcycle, in ascending order; None takes the last third, rounded up (12 → 8, 9, 10, 11)."""
    if layers is None:
        return tuple(range(n_layer - math.ceil(n_layer / 3), n_layer))
    outside = [layer for layer in layers if not 0 <= layer < n_layer]
    if outside:
        raise ConfigError(
            f"moe.layers must lie between 0 and {n_layer - 1} (the model has {n_layer} blocks); got {outside[0]}"
        )
    if len(set(layers)) < len(layers) or not layers:
        raise ConfigError(f"moe.layers must name at least one block, and each once; got {list(layers)}")
    return tuple(sorted(layers))
