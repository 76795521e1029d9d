"""The step at which domain information emerges: by hand, and where it never does."""

from types import SimpleNamespace
from typing import Any

import pytest

from moe_emergence.analysis.onset import OnsetRow, onset_rows


def curve(values: dict[int, float], first: float | None = 0.3, last: float | None = 0.4, **fields: Any) -> list[Any]:
    ends = {min(values): first, max(values): last}
    known = {"arm": "moe", "seed": 42, "layer": 3, "counted": "first choice", "maximum": 1.6}
    return [
        SimpleNamespace(step=step, plug_in=value, fresh_high=ends.get(step), **known | fields)
        for step, value in values.items()
    ]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ({0: 0.1, 10: 0.39, 60: 0.5, 240: 0.8}, 60),
        ({0: 0.1, 10: 0.5, 60: 0.4, 240: 0.8}, 240),
        ({0: 0.5, 10: 0.5, 60: 0.41, 240: 0.8}, 0),
        ({0: 0.1, 10: 0.5, 60: 0.5, 240: 0.4}, None),
        ({240: 0.8, 60: 0.5, 10: 0.39, 0: 0.1}, 60),
    ],
)
def test_from_which_step_on_it_stays_above(values: dict[int, float], step: int | None) -> None:
    rows = onset_rows(curve(values))
    assert rows == (OnsetRow(arm="moe", seed=42, layer=3, upper=0.4, upper_share=0.4 / 1.6, step=step),)


def test_the_larger_of_both_ends_counts_and_each_run_and_layer_has_its_own() -> None:
    values = {0: 0.1, 10: 0.5, 60: 0.9}
    rows = onset_rows(curve(values, first=0.6) + curve(values, layer=2) + curve(values, counted="slots"))
    assert [(row.layer, row.upper, row.step) for row in rows] == [(3, 0.6, 60), (2, 0.4, 10)]


def test_without_untrained_gates_there_is_nothing_to_pass() -> None:
    assert onset_rows(curve({0: 0.1, 60: 0.9}, first=None)) == onset_rows(()) == ()
