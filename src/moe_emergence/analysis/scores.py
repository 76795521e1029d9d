"""What the scoreboard compares: every measure of an expert that a suite has, and every causal effect of one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.rank_correlation import Cell
from moe_emergence.analysis.scoreboard import Place, ScoreRow, score_rows
from moe_emergence.routing import hot_experts

SIMILARITY = ("drift", "ancestor_output_cosine", "delta_cosine", "output_cosine", "output_cka")
ROUTER = ("norm", "row_cosine", "routed_cosine", "centred_cosine")
PER_AFFECTED, TOTAL = "per affected token", "total"
"""Effects of an intervention: of a token that used the expert, and of all tokens, used or not."""
_Values = dict[str, dict[Cell, float]]


def suite_scores(tables: Mapping[str, Sequence[Any]]) -> tuple[ScoreRow, ...]:
    """The scoreboard of tables by name: expert measures, similarity, router geometry, vocabulary, knock-outs."""
    loads = [row for row in tables.get("expert_measures", ()) if row.measure == "load" and row.value is not None]
    return score_rows(_measures(tables), _effects(tables.get("knockouts", ())), collapsed=_collapsed(loads))


def _collapsed(loads: Iterable[Any]) -> set[Place]:
    """Layers with a hot expert among the first choices of a step."""
    shares: dict[Place, list[float]] = {}
    for row in loads:
        shares.setdefault((row.arm, row.seed, row.step, row.layer), []).append(row.value)
    return {place for place, load in shares.items() if len(load) > 1 and bool(hot_experts(np.array(load), 1).any())}


def _measures(tables: Mapping[str, Sequence[Any]]) -> _Values:
    found: _Values = {}
    for row in tables.get("expert_measures", ()):
        _put(found, row.measure, row, row.value, row.domain)
    for name, fields in (("similarity", SIMILARITY), ("router_geometry", ROUTER)):
        for row in tables.get(name, ()):
            for field in fields:
                _put(found, _readable(name, field), row, getattr(row, field))
    for row in tables.get("vocabulary", ()):
        if row.expert is not None and row.counted == "first choice":
            _put(found, "vocabulary specialisation", row, row.estimate)
    return found


def _readable(table: str, field: str) -> str:
    return f"router row: {field.replace('_', ' ')}" if table == "router_geometry" else field.replace("_", " ")


def _effects(knockouts: Iterable[KnockoutRow]) -> _Values:
    """Total effect, effect a token that used the expert, both of an expert as a whole and in a domain; specificity."""
    found: _Values = {}
    by_expert: dict[tuple[str, Cell], dict[str, float]] = {}
    for row in knockouts:
        where = "" if row.domain is None else " in the domain"
        _put(found, f"{row.intervention}: {TOTAL}{where}", row, row.effect, row.domain)
        _put(found, f"{row.intervention}: {PER_AFFECTED}{where}", row, row.per_affected, row.domain)
        if row.domain is not None:
            by_expert.setdefault((row.intervention, _cell(row, None)), {})[row.domain] = row.effect
    for (intervention, cell), effects in by_expert.items():
        if len(effects) > 1:
            largest = max(effects.values())
            others = (sum(effects.values()) - largest) / (len(effects) - 1)
            found.setdefault(f"{intervention}: specificity", {})[cell] = largest - others
    return found


def _put(found: _Values, name: str, row: Any, value: float | None, domain: str | None = None) -> None:
    if value is not None:
        found.setdefault(name, {})[_cell(row, domain)] = value


def _cell(row: Any, domain: str | None) -> Cell:
    return Cell(row.arm, row.seed, row.step, row.layer, row.expert, domain)
