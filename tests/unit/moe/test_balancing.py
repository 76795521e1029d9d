"""Windows: how they are named, and which sequences share one."""

import pytest
import torch

from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.moe.balancing import parse_window, sequence_counts, window_loads
from moe_emergence.moe.router import Router

COUNTS = torch.tensor([[4, 0], [0, 4], [3, 1], [2, 2], [1, 3]])


@pytest.mark.parametrize(
    ("window", "size"), [("sequence", 1), ("blocks:1", 1), ("blocks:12", 12), ("global_batch", None)]
)
def test_window_names(window, size) -> None:
    assert parse_window(window) == size


@pytest.mark.parametrize("window", ["", "batch", "blocks:0", "blocks:-1", "blocks:2x", "blocks"])
def test_other_names_are_refused_with_the_choices(window) -> None:
    with pytest.raises(ConfigError, match="sequence, blocks:n, global_batch or ema"):
        parse_window(window)


@pytest.mark.parametrize(
    ("window", "first_expert"),
    [
        ("sequence", [1, 0, 3 / 4, 2 / 4, 1 / 4]),
        ("blocks:2", [1 / 2, 1 / 2, 5 / 8, 5 / 8, 1 / 4]),
        ("blocks:3", [7 / 12, 7 / 12, 7 / 12, 3 / 8, 3 / 8]),
        ("blocks:99", [10 / 20] * 5),
        ("global_batch", [10 / 20] * 5),
    ],
)
def test_loads_of_each_sequence_s_window(window, first_expert) -> None:
    loads = window_loads(COUNTS, window)
    assert loads[:, 0].tolist() == pytest.approx(first_expert)
    assert loads.sum(-1).tolist() == pytest.approx([1] * 5)


def test_the_denominator_is_accumulated_with_the_counts() -> None:
    uneven = torch.tensor([[8, 0], [0, 1], [0, 1]])
    assert window_loads(uneven, "global_batch")[0].tolist() == pytest.approx([0.8, 0.2])


def test_sequence_counts_leave_padding_out() -> None:
    torch.manual_seed(0)
    route = Router(8, 4, 2)(torch.randn(3, 5, 8))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    counts = sequence_counts(route, 3, 4, mask)
    assert counts.sum(-1).tolist() == [6, 10, 0]
    assert sequence_counts(route, 3, 4).sum(-1).tolist() == [10, 10, 10]
    assert torch.equal(counts[1], sequence_counts(route, 3, 4)[1])


def test_tokens_that_do_not_divide_are_refused() -> None:
    route = Router(8, 4, 2)(torch.randn(7, 8))
    with pytest.raises(ModelError, match="7 routed tokens do not divide into 2 sequences"):
        sequence_counts(route, 2, 4)
