"""Windows: how they are named, which sequences share one, and what is kept from step to step."""

import json

import pytest
import torch

from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.moe.balancing import BalanceStatistics, parse_window, sequence_counts, window_loads
from moe_emergence.moe.router import Router

COUNTS = torch.tensor([[4, 0], [0, 4], [3, 1], [2, 2], [1, 3]])


@pytest.mark.parametrize(
    ("window", "size"), [("sequence", 1), ("blocks:1", 1), ("blocks:12", 12), ("global_batch", None), ("ema", None)]
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
        ("ema", [10 / 20] * 5),
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


# Moving averages


def step_counts(*loads: tuple[int, int]) -> list[torch.Tensor]:
    """One layer's counts of a step, a row a sequence."""
    return [torch.tensor(loads)]


def test_the_first_average_is_the_first_load_and_later_ones_are_blended() -> None:
    """By hand, d = 0.75: f = (1, 0), then 0.75·(1, 0) + 0.25·(0, 1), then 0.75·(0.75, 0.25) + 0.25·(0.4, 0.6)."""
    statistics = BalanceStatistics("ema", 0.75, 0.0)
    steps = [step_counts((4, 0), (4, 0)), step_counts((0, 4), (0, 4)), step_counts((1, 3), (1, 0))]
    for counts, expected in zip(steps, ([1, 0], [0.75, 0.25], [0.6625, 0.3375]), strict=True):
        for _ in range(2):  # asking twice moves nothing
            (loads,) = statistics.loads(counts, torch.float64)
            assert loads.tolist() == [pytest.approx(expected, abs=1e-15)] * 2
        statistics.advance(counts, [])


def test_each_layer_has_an_average_of_its_own() -> None:
    statistics = BalanceStatistics("ema", 0.5, 0.0)
    statistics.advance([torch.tensor([[4, 0]]), torch.tensor([[0, 4]])], [])
    one, other = statistics.loads([torch.tensor([[0, 4]]), torch.tensor([[0, 4]])], torch.float32)
    assert one.tolist() == [[0.5, 0.5]]
    assert other.tolist() == [[0.0, 1.0]]
    assert one.dtype == torch.float32


def test_a_decay_of_0_is_the_global_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    statistics = BalanceStatistics("ema", 0.0, 0.0)
    for _ in range(50):
        counts = [torch.randint(0, 200, (6, 8), generator=draw) for _ in range(2)]
        for dtype in (torch.float32, torch.float64):
            for ours, layer in zip(statistics.loads(counts, dtype), counts, strict=True):
                assert torch.equal(ours, window_loads(layer, "global_batch", dtype))
        statistics.advance(counts, [])


@pytest.mark.parametrize("window", ["sequence", "blocks:2", "global_batch"])
def test_other_windows_have_no_past(window) -> None:
    statistics = BalanceStatistics(window, 0.9, 0.0)
    statistics.advance([COUNTS.flip(1)], [])
    assert statistics.to_state() == {"load_average": None}
    assert torch.equal(statistics.loads([COUNTS], torch.float32)[0], window_loads(COUNTS, window, torch.float32))


def test_state_is_json_and_restores_every_bit() -> None:
    draw = torch.Generator().manual_seed(1)
    one, other = BalanceStatistics("ema", 0.9, 0.0), BalanceStatistics("ema", 0.9, 0.0)
    for _ in range(30):
        one.advance([torch.randint(0, 1000, (4, 8), generator=draw) for _ in range(3)], [])
    other.restore(json.loads(json.dumps(one.to_state())))
    assert other.to_state() == one.to_state()
    counts = [torch.randint(0, 1000, (4, 8), generator=draw) for _ in range(3)]
    pairs = zip(one.loads(counts, torch.float64), other.loads(counts, torch.float64), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    fresh = BalanceStatistics("ema", 0.9, 0.0)
    other.restore(fresh.to_state())
    assert other.to_state() == fresh.to_state() == {"load_average": None}


def test_advance_moves_each_router_by_its_own_layer() -> None:
    routers = [Router(8, 2, 1, loss_free_bias=True) for _ in range(2)]
    statistics = BalanceStatistics("global_batch", 0.9, 0.25)
    statistics.advance([torch.tensor([[3, 0], [1, 2]]), torch.tensor([[1, 2], [1, 2]])], routers)
    assert [router.expert_bias.tolist() for router in routers] == [[-0.25, 0.25], [0.25, -0.25]]


def test_statistics_refuse_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="at least 0 and below 1; got 1"):
        BalanceStatistics("ema", 1.0, 0.0)
    with pytest.raises(ConfigError, match="got 'batch'"):
        BalanceStatistics("batch", 0.9, 0.0)
    statistics = BalanceStatistics("ema", 0.9, 1e-3)
    statistics.restore({"load_average": [[0.5, 0.5]]})
    with pytest.raises(ModelError, match="counts of 2 layers do not fit 1 load averages"):
        statistics.loads([COUNTS, COUNTS], torch.float32)
    with pytest.raises(ModelError, match="counts of 1 layers do not fit 0 routers"):
        statistics.advance([COUNTS], [])
    with pytest.raises(ModelError, match="no bias to update"):
        statistics.advance([COUNTS], [Router(8, 2, 1)])


# Running counts


def test_earlier_counts_are_added_with_their_denominator() -> None:
    loads = window_loads(torch.tensor([[1, 0], [1, 0]]), "global_batch", earlier=torch.tensor([0, 6]))
    assert loads.tolist() == [[0.25, 0.75]] * 2
    assert torch.equal(
        window_loads(COUNTS[3:], "global_batch", earlier=COUNTS[:3].sum(0)), window_loads(COUNTS, "global_batch")[3:]
    )


@pytest.mark.parametrize("window", ["sequence", "blocks:2", "ema"])
def test_earlier_counts_need_the_global_batch(window) -> None:
    with pytest.raises(ModelError, match=f"global_batch; got '{window}'"):
        window_loads(COUNTS, window, earlier=COUNTS[0])
