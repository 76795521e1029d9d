"""Rank correlation of values of experts, within the layers of runs, with its interval and its null."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, rankdata, t

from moe_emergence.analysis.statistics import ROUNDING, TAIL, Interval, generator, resampled_weights

FEWEST_SEEDS = 5
"""Seeds are resampled from as many on; with fewer, experts within layers. Arms of one seed begin as the same model, and
at step 0 their experts do the same: they are no runs of their own."""
Resampled = Literal["seeds", "experts"]


class Cell(NamedTuple):
    """What a value is of; domain is None where it is of an expert as a whole."""

    arm: str
    seed: int
    step: int
    layer: int
    expert: int
    domain: str | None = None


Values = Mapping[Cell, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """Cells as ranks within their blocks.

    Attributes:
        measure, effect: [cells] ranks less their block's mean, ÷ the block's size.
        block: [cells] the cell's run, layer and domain; run: its run; seed: its seed; layer: its seed and layer; all
            numbered from 0.
        expert: [cells] its seed, layer and expert, whatever the arm.
    """

    measure: Float[np.ndarray, " cells"]
    effect: Float[np.ndarray, " cells"]
    block: Int[np.ndarray, " cells"]
    layer: Int[np.ndarray, " cells"]
    run: Int[np.ndarray, " cells"]
    seed: Int[np.ndarray, " cells"]
    expert: Int[np.ndarray, " cells"]


def pooled_correlation(ranked: Ranked, weights: Float[np.ndarray, "*draws cells"]) -> Float[np.ndarray, "*draws"]:
    """Σ w x y / √(Σ w x² Σ w y²) of centred ranks, centred anew in each block under the weights; 0 without spread."""
    measure, effect = (_centred(values, ranked.block, weights) for values in (ranked.measure, ranked.effect))
    spread = np.sqrt((weights * measure**2).sum(-1) * (weights * effect**2).sum(-1))
    shared = (weights * measure * effect).sum(-1)
    return np.clip(shared / np.where(spread > ROUNDING, spread, 1), -1, 1)


def ranked_cells(cells: Sequence[Cell], measure: Values, effect: Values) -> Ranked:
    """Ranks within blocks, of the blocks in which both vary."""
    kept = [cell for block in layer_blocks(cells) if varies(block, measure) and varies(block, effect) for cell in block]
    blocks = [(cell.arm, cell.seed, cell.layer, cell.domain) for cell in kept]
    numbers = _numbered(blocks)
    return Ranked(
        measure=_ranks(np.array([measure[cell] for cell in kept]), numbers),
        effect=_ranks(np.array([effect[cell] for cell in kept]), numbers),
        block=numbers,
        layer=_numbered([(cell.seed, cell.layer) for cell in kept]),
        run=_numbered([(cell.arm, cell.seed) for cell in kept]),
        seed=_numbered([cell.seed for cell in kept]),
        expert=_numbered([(cell.seed, cell.layer, cell.expert) for cell in kept]),
    )


def interval_of(ranked: Ranked, replicates: int, seed: int = 0) -> tuple[Interval, Resampled] | None:
    """The interval of the pooled correlation, atanh(rho) ± t·s turned back; None where a layer has one expert alone,
    or rho is ±1.

    Over n seeds, s is the standard deviation over resamples × √(n/(n − 1)), and t has n − 1 degrees of freedom. Where
    seeds are few, experts are resampled within their seed's layers, in all arms alike, t is the normal's, and s takes
    √(1 + rho²/2), as Spearman's correlation varies more than that of fixed ranks [Bonett and Wright 2000].
    """
    over_seeds = int(ranked.seed.max()) + 1 >= FEWEST_SEEDS
    unit = ranked.seed if over_seeds else ranked.expert
    first = np.unique(unit, return_index=True)[1]
    stratum = np.zeros(len(first), dtype=np.int64) if over_seeds else ranked.layer[first]
    sizes = np.bincount(stratum)
    rho = float(pooled_correlation(ranked, np.ones(len(unit))))
    if sizes.min() < 2 or abs(rho) > 1 - ROUNDING:
        return None
    weights = resampled_weights(stratum, replicates, generator(seed))[:, unit].astype(np.float64)
    resampled = np.clip(pooled_correlation(ranked, weights), -1 + 1e-3, 1 - 1e-3)
    units = len(stratum)
    inflation = units / (units - 1) if over_seeds else 1 + rho**2 / 2
    quantile = t.ppf(1 - TAIL, units - 1) if over_seeds else norm.ppf(1 - TAIL)
    spread = float(quantile * np.arctanh(resampled).std() * np.sqrt(inflation))
    low, high = np.tanh(np.arctanh(rho) - spread), np.tanh(np.arctanh(rho) + spread)
    return Interval(float(low), float(high)), "seeds" if over_seeds else "experts"


def permuted_correlations(ranked: Ranked, permutations: int, seed: int = 0) -> Float[np.ndarray, " permutations"]:
    """The pooled correlation with effects dealt anew to the experts of each seed's layer, an expert's domains and arms
    together (among experts that have the same ones, where some lack one)."""
    rng = generator(seed)
    sources = np.tile(np.arange(len(ranked.block)), (permutations, 1))
    for cells in _exchangeable(ranked):
        order = rng.permuted(np.tile(np.arange(len(cells)), (permutations, 1)), axis=1)
        sources[:, cells.reshape(-1)] = cells[order].reshape(permutations, -1)
    spread = np.sqrt((ranked.measure**2).sum() * (ranked.effect**2).sum())
    return np.asarray((ranked.effect[sources] @ ranked.measure) / spread)


def layer_blocks(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one run, layer and domain each."""
    blocks: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        blocks.setdefault((cell.arm, cell.seed, cell.layer, cell.domain), []).append(cell)
    return list(blocks.values())


def varies(block: Sequence[Cell], values: Values) -> bool:
    found = [values[cell] for cell in block]
    return max(found) - min(found) > ROUNDING


def _numbered(keys: Sequence[object]) -> Int[np.ndarray, " cells"]:
    """Each key's number, in the order in which they appear."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def _ranks(values: Float[np.ndarray, " cells"], block: Int[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    ranks = np.empty(len(values))
    for number in range(int(block.max()) + 1):
        own = rankdata(values[block == number])
        ranks[block == number] = (own - own.mean()) / len(own)
    return ranks


def _centred(
    values: Float[np.ndarray, " cells"], block: Int[np.ndarray, " cells"], weights: Float[np.ndarray, "*draws cells"]
) -> Float[np.ndarray, "*draws cells"]:
    """Values less the weighted mean of their block, whose cells lie together."""
    first = np.flatnonzero(np.diff(block, prepend=-1))
    total = np.add.reduceat(weights, first, axis=-1)
    mean = np.add.reduceat(weights * values, first, axis=-1) / np.where(total > 0, total, 1)
    return values - mean[..., block]


def _exchangeable(ranked: Ranked) -> list[Int[np.ndarray, "experts blocks"]]:
    """Cells of the experts of one seed's layer that are in the same blocks, an expert a row."""
    cells: dict[int, list[int]] = {}
    for place, expert in enumerate(ranked.expert.tolist()):
        cells.setdefault(expert, []).append(place)
    alike: dict[tuple[int, ...], list[list[int]]] = {}
    for places in cells.values():
        alike.setdefault(tuple(ranked.block[places].tolist()), []).append(places)
    return [np.array(group) for group in alike.values()]
