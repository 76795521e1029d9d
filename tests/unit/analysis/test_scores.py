"""What the scoreboard is given: names, cells, and a planted order."""

from types import SimpleNamespace
from typing import Any

import pytest

from moe_emergence.analysis.scores import _effects, _measures, suite_scores


def row(expert: int, **fields: Any) -> Any:
    return SimpleNamespace(arm="moe", seed=42, step=240, layer=3, expert=expert, **fields)


def knocked(expert: int, domain: str | None, effect: float, per_affected: float | None = None) -> Any:
    return row(expert, domain=domain, intervention="next", effect=effect, per_affected=per_affected)


def test_effects_by_hand() -> None:
    found = _effects([knocked(0, None, 0.2, 0.5), knocked(0, "code", 0.5), knocked(0, "math", 0.1)])
    assert set(found) == {
        "next: total",
        "next: per affected token",
        "next: total in the domain",
        "next: specificity",
    }
    (cell,) = found["next: total"]
    assert (cell.expert, cell.domain) == (0, None)
    assert found["next: specificity"][cell] == pytest.approx(0.4)
    assert {cell.domain: value for cell, value in found["next: total in the domain"].items()} == {
        "code": 0.5,
        "math": 0.1,
    }


def test_measures_of_an_expert_and_of_an_expert_in_a_domain_keep_their_names_apart() -> None:
    similar = row(0, drift=0.1, ancestor_output_cosine=None, delta_cosine=0.0, output_cosine=0.9, output_cka=0.8)
    found = _measures(
        {
            "expert_measures": [
                row(0, measure="load", domain=None, value=0.5),
                row(0, measure="share of domain", domain="code", value=0.7),
                row(0, measure="entropy", domain=None, value=None),
            ],
            "similarity": [similar],
            "vocabulary": [row(0, counted="slots", estimate=9.0), row(0, counted="first choice", estimate=0.3)],
        }
    )
    assert set(found) == {
        "load",
        "share of domain",
        "drift",
        "delta cosine",
        "output cosine",
        "output cka",
        "vocabulary specialisation",
    }
    assert list(found["vocabulary specialisation"].values()) == [0.3]


def test_a_layer_with_a_hot_expert_is_not_among_all_arms() -> None:
    """Its arm has it; the two arms together have the other's layer alone."""
    loads = {"moe": [0.1, 0.2, 0.3, 0.4], "no_lb": [0.01, 0.02, 0.03, 0.94]}
    tables = {
        "expert_measures": [
            SimpleNamespace(arm=arm, seed=42, step=9, layer=3, expert=e, measure="load", domain=None, value=value)
            for arm, load in loads.items()
            for e, value in enumerate(load)
        ],
        "knockouts": [
            SimpleNamespace(arm=arm, seed=42, step=9, layer=3, expert=e, domain=None, intervention="next",
                            effect=float(e), per_affected=None)
            for arm in loads for e in range(4)
        ],
    }  # fmt: skip
    found = {score.arm: score.cells for score in suite_scores(tables)}
    assert found == {"moe": 4, "no_lb": 4, "all": 4}


def test_a_measure_in_the_order_of_the_effect_scores_one() -> None:
    tables = {
        "expert_measures": [row(e, measure="load", domain=None, value=float(e)) for e in range(6)],
        "knockouts": [knocked(e, None, 0.01 * e**2) for e in range(6)],
    }
    (score,) = (found for found in suite_scores(tables) if found.arm == "moe")
    assert (score.measure, score.effect, score.rho) == ("load", "next: total", pytest.approx(1.0))
