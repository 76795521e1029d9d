"""Measures against effects: ranks within layers, by hand and against scipy, and nothing found where nothing is."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from moe_emergence.analysis.rank_correlation import (
    Cell,
    interval_of,
    permuted_correlations,
    pooled_correlation,
    ranked_cells,
)
from moe_emergence.analysis.scoreboard import score_rows
from moe_emergence.analysis.statistics import benjamini_hochberg, generator, resampled_weights
from moe_emergence.errors import AnalysisError

FEW = {"permutations": 99, "replicates": 200}


def cells(
    seeds: tuple[int, ...] = (42,),
    layers: tuple[int, ...] = (2, 3),
    experts: int = 8,
    domains: tuple[str | None, ...] = (None,),
    arm: str = "moe",
    step: int = 9,
) -> list[Cell]:
    return [Cell(arm, *key[:1], step, *key[1:]) for key in product(seeds, layers, range(experts), domains)]


def noise(of: list[Cell], seed: int = 0) -> dict[Cell, float]:
    return dict(zip(of, generator(seed).normal(size=len(of)).tolist(), strict=True))


def one_row(measure: dict[Cell, float], effect: dict[Cell, float]):
    (row,) = score_rows({"m": measure}, {"e": effect}, **FEW)
    return row


def test_one_layer_is_spearman_s() -> None:
    for seed in range(3):
        measure, effect = noise(cells(layers=(2,)), seed), noise(cells(layers=(2,)), seed + 50)
        measure[cells(layers=(2,))[0]] = measure[cells(layers=(2,))[1]]
        row = one_row(measure, effect)
        assert row.rho == pytest.approx(spearmanr(list(measure.values()), list(effect.values()))[0], abs=1e-10)
        assert (row.cells, row.runs, row.level, row.resampled, row.reason) == (8, 1, "expert", "experts", "")


def test_two_layers_by_hand() -> None:
    """Ranks 1 2 3 against 1 3 2 in one layer, 1 2 3 against 3 2 1 in the other: Σ xy is 1 and −2, of 2 and 2."""
    of = cells(experts=3)
    measure = dict(zip(of, [1, 2, 3, 10, 20, 30], strict=True))
    effect = dict(zip(of, [0.1, 0.9, 0.5, 7, 5, -6], strict=True))
    assert one_row(measure, effect).rho == pytest.approx((1 - 2) / 4)


def test_layers_levels_do_not_count() -> None:
    """Later layers have more of both; within layers the order is the opposite."""
    of = cells(layers=(2, 3, 4))
    measure = {cell: 100 * cell.layer + cell.expert for cell in of}
    effect = {cell: 100 * cell.layer - cell.expert for cell in of}
    row = one_row(measure, effect)
    assert spearmanr(list(measure.values()), list(effect.values()))[0] > 0.7
    assert row.rho == pytest.approx(-1)
    assert row.p == 1 / 100
    assert (row.low, row.high, row.resampled) == (None, None, None), "no spread to be had from an order without fault"


def test_domains_levels_do_not_count_either() -> None:
    of = cells(domains=("code", "math"))
    high = {"code": 50, "math": 0}
    measure = {cell: high[cell.domain] + cell.expert for cell in of}
    effect = {cell: high[cell.domain] - cell.expert for cell in of}
    row = one_row(measure, effect)
    assert row.rho == pytest.approx(-1)
    assert (row.level, row.cells) == ("expert x domain", 32)


def test_only_cells_that_both_have_are_scored() -> None:
    of = cells()
    measure, effect = noise(of), noise(of, 1)
    fewer = {cell: value for cell, value in effect.items() if cell.layer == 3 and cell.expert > 2}
    row = one_row(measure, fewer)
    assert row.cells == 5
    assert row.rho == pytest.approx(spearmanr([measure[cell] for cell in fewer], list(fewer.values()))[0])
    other_step = {cell._replace(step=0): value for cell, value in measure.items()}
    assert score_rows({"m": other_step}, {"e": effect}, **FEW) == ()


def test_levels_are_not_mixed() -> None:
    rows = score_rows(
        {"of experts": noise(cells()), "of cells": noise(cells(domains=("code", "math")))},
        {"total": noise(cells(), 3), "in a domain": noise(cells(domains=("code", "math")), 4)},
        **FEW,
    )
    assert [(row.measure, row.effect, row.level) for row in rows] == [
        ("of experts", "total", "expert"), ("of cells", "in a domain", "expert x domain"),
    ]  # fmt: skip


def test_arms_alone_and_together() -> None:
    both = cells(seeds=(1, 2)) + cells(seeds=(1, 2, 3), arm="other") + cells(arm="early", step=4)
    rows = score_rows({"m": noise(both)}, {"e": noise(both, 5)}, **FEW)
    assert [(row.arm, row.step, row.runs, row.cells, row.resampled) for row in rows] == [
        ("early", 4, 1, 16, "experts"),
        ("moe", 9, 2, 32, "experts"),
        ("other", 9, 3, 48, "experts"),
        ("all", 9, 5, 80, "experts"),
    ]
    assert rows[-1].seeds == 3


def test_arms_that_begin_as_one_model_are_one_run() -> None:
    """Four arms whose experts are still the same say no more than one of them."""
    one = cells(seeds=(1, 2, 3))
    measure, effect = noise(one), noise(one, 1)
    arms = [one, *(cells(seeds=(1, 2, 3), arm=arm) for arm in ("b", "c", "d"))]
    many = [{cell: values[cell._replace(arm="moe")] for of in arms for cell in of} for values in (measure, effect)]
    rows = {row.arm: row for row in score_rows({"m": many[0]}, {"e": many[1]}, **FEW)}
    together, alone = rows["all"], rows["moe"]
    assert together.rho == pytest.approx(alone.rho)
    assert together.p == alone.p
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert (together.runs, together.seeds, alone.runs) == (12, 3, 3)


def test_seeds_are_resampled_whatever_the_number_of_arms() -> None:
    seeds = (1, 2, 3, 4, 5)
    of = [cell for arm in ("a", "b") for cell in cells(seeds=seeds, arm=arm)]
    rows = {row.arm: row for row in score_rows({"m": noise(of)}, {"e": noise(of, 1)}, **FEW)}
    assert {row.resampled for row in rows.values()} == {"seeds"}
    few = [cell for arm in "abcdef" for cell in cells(seeds=(1, 2), arm=arm)]
    rows = {row.arm: row for row in score_rows({"m": noise(few)}, {"e": noise(few, 1)}, **FEW)}
    assert rows["all"].resampled == "experts"


def test_collapsed_layers_are_their_own_arm_s_alone() -> None:
    of = cells() + cells(arm="no_lb")
    collapsed = {("no_lb", 42, 9, 3)}
    rows = {row.arm: row for row in score_rows({"m": noise(of)}, {"e": noise(of, 1)}, **FEW, collapsed=collapsed)}
    assert {arm: row.cells for arm, row in rows.items()} == {"moe": 16, "no_lb": 16, "all": 24}


def test_constant_measures_have_no_rho_and_a_reason() -> None:
    of = cells()
    flat, effect = dict.fromkeys(of, 0.3), noise(of)
    row = one_row(flat, effect)
    assert (row.rho, row.low, row.p, row.p_adjusted, row.cells) == (None, None, None, None, 0)
    assert row.reason == "the measure is the same for all experts of every layer"
    assert one_row(effect, flat).reason == "the effect is the same for all experts of every layer"
    halves = [{cell: float(cell.expert * (cell.layer == layer)) for cell in of} for layer in (2, 3)]
    assert one_row(*halves).reason == "in no layer do both differ between experts"
    levels = {cell: float(cell.layer) for cell in of}
    assert one_row(levels, effect).rho is None, "a measure that knows the layer alone"


def test_layers_without_an_order_do_not_dilute() -> None:
    of = cells()
    measure = {cell: float(cell.expert * (cell.layer == 2)) for cell in of}
    row = one_row(measure, {cell: float(cell.expert) for cell in of})
    assert (row.rho, row.cells) == (pytest.approx(1), 8)
    row = one_row({cell: float(cell.expert) for cell in of}, measure)
    assert (row.rho, row.cells) == (pytest.approx(1), 8)


def test_p_is_that_of_all_orders() -> None:
    """5 experts: p of 119 random draws is about the share of all 120 orders."""
    of = cells(layers=(2,), experts=5)
    measure = {cell: float(cell.expert) for cell in of}
    effect = dict(zip(of, [0.0, 2.0, 1.0, 4.0, 3.0], strict=True))
    ranked = ranked_cells(of, measure, effect)
    rho = abs(float(pooled_correlation(ranked, np.ones(5))))
    exact = np.mean([abs(spearmanr(range(5), order)[0]) >= rho - 1e-12 for order in permutations(range(5))])
    null = np.abs(permuted_correlations(ranked, 20_000))
    assert np.mean(null >= rho - 1e-12) == pytest.approx(exact, abs=0.01)


def test_permuting_keeps_an_expert_s_domains_together() -> None:
    """Effects are equal in both domains: dealt together, a draw's correlations are equal too."""
    of = cells(layers=(2,), domains=("code", "math"))
    measure = {cell: float(cell.expert) for cell in of}
    effect = {cell: float((3 * cell.expert) % 8) for cell in of}
    together = ranked_cells(of, measure, effect)
    alone = ranked_cells([c for c in of if c.domain == "code"], measure, effect)
    assert permuted_correlations(together, 4000).std() == pytest.approx(
        permuted_correlations(alone, 4000).std(), rel=0.05
    )
    gap = [cell for cell in of if (cell.expert, cell.domain) != (5, "math")]
    assert len(permuted_correlations(ranked_cells(gap, measure, effect), 10)) == 10


def test_interval_over_runs_is_wider_where_runs_disagree() -> None:
    of = cells(seeds=(1, 2, 3, 4, 5, 6))
    measure = {cell: float(cell.expert) for cell in of}
    rng = generator(2)
    mild = {cell: cell.expert + rng.normal(0, 4) for cell in of}
    split = {cell: cell.expert * (1 if cell.seed % 2 else -1) + rng.normal(0, 1) for cell in of}
    (agree, over), (disagree, _) = (interval_of(ranked_cells(of, measure, effect), 500) for effect in (mild, split))
    assert over == "seeds"
    assert disagree.high - disagree.low > 2 * (agree.high - agree.low)
    row = one_row(measure, mild)
    assert row.low < row.rho < row.high
    assert -1 <= row.low <= row.high <= 1


def test_interval_over_experts_draws_them_within_their_layers() -> None:
    of = cells()
    measure, effect = noise(of), noise(of, 1)
    ranked = ranked_cells(of, measure, effect)
    found, over = interval_of(ranked, 300, seed=4)
    layers = np.repeat([0, 1], 8)
    drawn = [
        float(pooled_correlation(ranked, row.astype(float))) for row in resampled_weights(layers, 300, generator(4))
    ]
    rho = float(pooled_correlation(ranked, np.ones(16)))
    centre, spread = math.atanh(rho), norm.ppf(0.975) * np.arctanh(drawn).std() * math.sqrt(1 + rho**2 / 2)
    assert over == "experts"
    assert (found.low, found.high) == pytest.approx((math.tanh(centre - spread), math.tanh(centre + spread)), abs=1e-9)


def test_interval_over_experts_draws_an_expert_s_domains_together() -> None:
    of = cells(domains=("code", "math"))
    alone = [cell for cell in of if cell.domain == "code"]
    measure, effect = (
        {cell: values[cell._replace(domain="code")] for cell in of} for values in (noise(alone), noise(alone, 1))
    )
    both, one = (interval_of(ranked_cells(some, measure, effect), 300)[0] for some in (of, alone))
    assert (both.low, both.high) == pytest.approx((one.low, one.high), abs=1e-9)


def test_weights_are_cells_drawn_so_often() -> None:
    """Repeated cells, centred in their blocks, are a plain correlation."""
    of = cells(seeds=(1, 2))
    ranked = ranked_cells(of, noise(of), noise(of, 1))
    weights = generator(3).integers(0, 4, size=(2, len(of)))
    for row, found in zip(weights, pooled_correlation(ranked, weights.astype(float)), strict=True):
        drawn = [np.repeat(values, row) for values in (ranked.measure, ranked.effect, ranked.block)]
        for values in drawn[:2]:
            for block in range(4):
                values[drawn[2] == block] -= values[drawn[2] == block].mean()
        assert found == pytest.approx(
            np.sum(drawn[0] * drawn[1]) / math.sqrt(np.sum(drawn[0] ** 2) * np.sum(drawn[1] ** 2))
        )
    assert pooled_correlation(ranked, np.zeros(len(of))) == 0


def test_adjusted_over_the_measures_of_one_effect() -> None:
    of = cells(seeds=(1, 2, 3))
    effect = noise(of)
    measures = {f"m{seed}": noise(of, seed) for seed in range(1, 5)} | {"flat": dict.fromkeys(of, 1.0)}
    measures["same"] = effect
    rows = score_rows(measures, {"e": effect, "other": noise(of, 9)}, **FEW)
    mine = [row for row in rows if row.effect == "e" and row.p is not None]
    assert len(mine) == 5
    assert [row.p_adjusted for row in mine] == pytest.approx(benjamini_hochberg(np.array([r.p for r in mine])).tolist())
    assert next(row for row in mine if row.measure == "same").p_adjusted == pytest.approx(5 / 100)


def test_what_cannot_be_ranked_is_named() -> None:
    of = cells()
    with pytest.raises(AnalysisError, match=r"m has cells with a domain and cells without"):
        score_rows({"m": noise(of) | noise(cells(domains=("code",)))}, {"e": noise(of)})
    with pytest.raises(AnalysisError, match=r"e of Cell\(arm='moe', seed=42.*finite number; got nan: leave out"):
        score_rows({"m": noise(of)}, {"e": noise(of) | {of[3]: math.nan}})
    assert score_rows({}, {"e": noise(of)}) == score_rows({"m": {}}, {"e": noise(of)}) == ()
