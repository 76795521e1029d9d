"""Do observational measures of experts predict what happens when the expert is taken away? Rank correlations of every
measure with every causal effect, at each checkpoint, published whatever they show.

Cells are ranked within a run's layer (and domain, where cells are of one domain), and the ranks are pooled: later
layers matter more to the loss and show more of nearly every measure, so ranks over all layers at once would credit a
measure with knowing the layer; and a domain that is harder has larger effects of every expert.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from moe_emergence.analysis.rank_correlation import (
    Cell,
    Resampled,
    Values,
    interval_of,
    layer_blocks,
    permuted_correlations,
    pooled_correlation,
    ranked_cells,
    varies,
)
from moe_emergence.analysis.statistics import PERMUTATIONS, REPLICATES, benjamini_hochberg, null_p_value
from moe_emergence.errors import AnalysisError

ALL_ARMS = "all"
Level = Literal["expert", "expert x domain"]
Place = tuple[str, int, int, int]
"""Arm, seed, step and layer."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Spearman's correlation of one measure with one causal effect at one step.

    Attributes:
        arm: or "all", every arm's runs together, without their collapsed layers.
        level: whether cells are experts or experts in one domain.
        rho: of ranks within each run's layer (and domain), pooled, −1..1: 1 when a layer's experts have the same order
            in both, 0 when the measure does not tell their order, in every layer alike. None where there is none.
        low, high: its 95 % interval; None without rho, and where there is too little to resample.
        resampled: what the interval is over. "seeds", from 5 of them on: it speaks of other seeds of these arms.
            "experts", within their layers, each in all arms at once: it speaks of these runs alone.
        cells, runs, seeds: how many rho is of. Runs of one seed begin as the same model, so seeds are what is
            independent; layers in which either is constant have no order and are not among them.
        p: two-sided, how often |rho| is as large when effects are dealt anew to the experts of each seed's layer,
            in all arms alike.
        p_adjusted: Benjamini and Hochberg's, over the measures of the same effect, arm, step and level.
        reason: why rho is None; empty otherwise.
    """

    arm: str
    step: int
    measure: str
    effect: str
    level: Level
    rho: float | None
    low: float | None
    high: float | None
    resampled: Resampled | None
    cells: int
    runs: int
    seeds: int
    p: float | None
    p_adjusted: float | None
    reason: str


def score_rows(
    measures: Mapping[str, Values],
    effects: Mapping[str, Values],
    permutations: int = PERMUTATIONS,
    replicates: int = REPLICATES,
    collapsed: Collection[Place] = (),
) -> tuple[ScoreRow, ...]:
    """One row a step, effect and measure of the same level, for each arm and, with several, for all arms together.

    `measures` and `effects` map a name to values of cells; only cells that both have are scored, and a measure that
    shares none with an effect has no row. `collapsed` layers count for their own arm alone: where one expert has nearly
    every token, any measure that goes with load orders experts.

    Raises:
        AnalysisError: a value is not finite, or one name has cells of experts and of experts in domains; names it.
    """
    levels = {name: _level(name, values) for group in (measures, effects) for name, values in group.items() if values}
    rows: list[ScoreRow] = []
    for effect, caused in effects.items():
        for arm, step in _arms_and_steps(caused):
            left_out = set(collapsed) if arm == ALL_ARMS else set()
            kept = {cell: value for cell, value in caused.items() if cell[:4] not in left_out}
            family = [
                _score_row(arm, step, levels[effect], measure, (effect, kept), permutations, replicates)
                for measure in measures.items()
            ]
            rows.extend(_adjusted([row for row in family if row is not None]))
    return tuple(rows)


def _score_row(
    arm: str,
    step: int,
    level: Level,
    measure: tuple[str, Values],
    effect: tuple[str, Values],
    permutations: int,
    replicates: int,
) -> ScoreRow | None:
    """None where the two have no cell in common."""
    cells = sorted(
        cell for cell in measure[1] if cell in effect[1] and cell.step == step and arm in (cell.arm, ALL_ARMS)
    )
    if not cells:
        return None
    empty = ScoreRow(
        arm=arm,
        step=step,
        measure=measure[0],
        effect=effect[0],
        level=level,
        rho=None,
        low=None,
        high=None,
        resampled=None,
        cells=0,
        runs=0,
        seeds=0,
        p=None,
        p_adjusted=None,
        reason=_no_order(cells, measure[1], effect[1]),
    )
    if empty.reason:
        return empty
    ranked = ranked_cells(cells, measure[1], effect[1])
    rho = float(pooled_correlation(ranked, np.ones(len(ranked.block))))
    interval = interval_of(ranked, replicates)
    return replace(
        empty,
        rho=rho,
        low=None if interval is None else interval[0].low,
        high=None if interval is None else interval[0].high,
        resampled=None if interval is None else interval[1],
        cells=len(ranked.block),
        runs=int(ranked.run.max()) + 1,
        seeds=int(ranked.seed.max()) + 1,
        p=null_p_value(abs(rho), np.abs(permuted_correlations(ranked, permutations))),
    )


def _adjusted(family: list[ScoreRow]) -> Iterator[ScoreRow]:
    adjusted = iter(benjamini_hochberg(np.array([row.p for row in family if row.p is not None])).tolist())
    return (row if row.p is None else replace(row, p_adjusted=next(adjusted)) for row in family)


def _level(name: str, values: Values) -> Level:
    kinds = {cell.domain is None for cell in values}
    if len(kinds) > 1:
        raise AnalysisError(f"{name} has cells with a domain and cells without: give them two names")
    for cell, value in values.items():
        if not np.isfinite(value):
            raise AnalysisError(f"{name} of {cell} must be a finite number; got {value}: leave out cells without one")
    return "expert" if kinds == {True} else "expert x domain"


def _arms_and_steps(values: Values) -> list[tuple[str, int]]:
    """Every arm's steps, and "all" at steps that several arms have."""
    found = sorted({(cell.arm, cell.step) for cell in values})
    steps = [step for _, step in found]
    return found + [(ALL_ARMS, step) for step in sorted(set(steps)) if steps.count(step) > 1]


def _no_order(cells: list[Cell], measure: Values, effect: Values) -> str:
    """Why there is no rank correlation; empty where there is one."""
    blocks = layer_blocks(cells)
    for name, values in (("measure", measure), ("effect", effect)):
        if not any(varies(block, values) for block in blocks):
            return f"the {name} is the same for all experts of every layer"
    both = any(varies(block, measure) and varies(block, effect) for block in blocks)
    return "" if both else "in no layer do both differ between experts"
