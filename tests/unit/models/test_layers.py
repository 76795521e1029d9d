"""Which blocks get experts."""

import pytest

from moe_emergence.errors import ConfigError
from moe_emergence.models.upcycle import resolve_layers


@pytest.mark.parametrize(
    ("n_layer", "expected"), [(12, (8, 9, 10, 11)), (4, (2, 3)), (3, (2,)), (1, (0,)), (24, tuple(range(16, 24)))]
)
def test_default_is_the_last_third(n_layer, expected) -> None:
    assert resolve_layers(None, n_layer) == expected


def test_any_subset_in_ascending_order() -> None:
    assert resolve_layers([3, 0], 4) == (0, 3)


@pytest.mark.parametrize("layer", [-1, 4])
def test_out_of_range_names_both_values(layer) -> None:
    with pytest.raises(ConfigError, match=rf"between 0 and 3 \(the model has 4 blocks\); got {layer}"):
        resolve_layers([1, layer], 4)


@pytest.mark.parametrize("layers", [[], [1, 1]])
def test_none_or_repeated_layers_are_refused(layers) -> None:
    with pytest.raises(ConfigError, match="at least one block, and each once"):
        resolve_layers(layers, 4)
