"""Measures of single experts: a batch worked by hand, and both extremes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moe_emergence.analysis.expert_measures import expert_measure_rows


def measured(experts: list[int], domain: list[int], document: list[int], width: int, **layer: Any) -> dict[Any, Any]:
    """(measure, domain, expert) to value, of one layer."""
    chosen, rows = np.array(experts)[:, None], np.array(document)
    counts = np.zeros((len(domain), width), dtype=np.int64)
    np.add.at(counts, (rows, chosen[:, 0]), 1)
    one = SimpleNamespace(
        layer=3,
        experts=chosen,
        slots=counts,
        first_choice=counts,
        entropy=np.array(layer.get("entropy", np.zeros(len(experts)))),
        margin=np.array(layer.get("margin", np.ones(len(experts)))),
    )
    run: Any = SimpleNamespace(
        arm="moe", seed=1, manifest=SimpleNamespace(data=SimpleNamespace(domains=("code", "math")))
    )
    trace: Any = SimpleNamespace(step=7, domain=np.array(domain), layers=(one,))
    return {(row.measure, row.domain, row.expert): row.value for row in expert_measure_rows(run, trace)}


def test_a_batch_by_hand() -> None:
    # code: 3 of 4 tokens to expert 0; math: 1 of 2
    found = measured(
        [0, 0, 0, 1, 0, 1], [0, 1], [0, 0, 0, 0, 1, 1], 2, entropy=[1, 2, 3, 4, 6, 8], margin=[0.1] * 5 + [0.5]
    )
    assert found["load", None, 0] == pytest.approx((0.75 + 0.5) / 2)
    assert found["share of domain", "code", 0] == 0.75
    assert found["lift of domain", "math", 1] == pytest.approx(0.5 / 0.375)
    assert found["domain lift", None, 1] == pytest.approx(0.5 / 0.375)
    p = np.array([0.75, 0.5]) / 1.25
    assert found["domain concentration", None, 0] == pytest.approx((p * np.log2(p * 2)).sum())
    assert found["entropy", None, 0] == pytest.approx((1 + 2 + 3 + 6) / 4)
    assert found["margin", None, 1] == pytest.approx(0.3)


def test_both_extremes() -> None:
    alike = measured([0, 1, 0, 1], [0, 1], [0, 0, 1, 1], 2)
    assert [alike["domain concentration", None, e] for e in (0, 1)] == [0, 0]
    assert [alike["domain lift", None, e] for e in (0, 1)] == [1, 1]
    apart = measured([0, 0, 1, 1], [0, 1], [0, 0, 1, 1], 2)
    assert [apart["domain concentration", None, e] for e in (0, 1)] == [1, 1]
    assert [apart["domain lift", None, e] for e in (0, 1)] == [2, 2]


def test_an_expert_without_tokens_has_a_load_and_nothing_else() -> None:
    found = measured([0, 0, 0, 0], [0, 1], [0, 0, 1, 1], 2)
    assert found["load", None, 1] == 0
    assert {found[name, None, 1] for name in ("domain lift", "domain concentration", "entropy", "margin")} == {None}
    assert found["lift of domain", "code", 1] is None
