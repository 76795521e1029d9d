"""What was expected of five seeds: each expectation can hold and can fail, by the rows alone."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_emergence.analysis.specialisation import LEARNED, NOT_LEARNED

ROOT = Path(__file__).parents[3]
SEEDS = (42, 43, 44, 45, 46)


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "scripts" / "quickstart_criteria.py"
    specification = importlib.util.spec_from_file_location("quickstart_criteria", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["quickstart_criteria"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def rows(verdict: str, high: float, specialists: dict[str, int], dead: dict[int, int]) -> tuple[Any, Any]:
    """A suite and its tables: in how many seeds a domain has a specialist, how many experts of no_lb die in a seed."""
    runs = [SimpleNamespace(arm=arm, seed=seed, last_step=9) for arm in ("moe", "no_lb") for seed in SEEDS]
    chosen = [
        SimpleNamespace(arm="moe", seed=seed, step=9, domain=domain, is_specialist=place < times)
        for domain, times in specialists.items()
        for place, seed in enumerate(SEEDS)
    ]
    loads = [
        SimpleNamespace(arm="no_lb", seed=seed, step=9, layer=layer, dead=tuple(range(count if layer == 3 else 0)))
        for seed, count in dead.items()
        for layer in (2, 3)
    ]
    difference = SimpleNamespace(arm="moe", against="dense", domain=None, difference=high - 0.01, low=-0.05, high=high)
    tables = SimpleNamespace(
        arm_verdicts=[SimpleNamespace(arm="moe", layer=3, verdict=verdict)],
        loss_differences=[difference],
        specialists=chosen,
        routing=loads,
    )
    return SimpleNamespace(runs=runs), tables


def test_all_hold(script: Any) -> None:
    found = list(script.outcomes(*rows(LEARNED, -0.001, {"code": 4, "math": 5, "prose": 0}, dict.fromkeys(SEEDS, 3))))
    assert [outcome.holds for outcome in found] == [True] * 4
    assert found[0].found == "layer 3"
    assert found[2].found == "code 4 of 5, math 5 of 5 and prose 0 of 5"
    assert found[3].found == "5 of 5 seeds; up to 3 dead in a layer"


def test_none_hold(script: Any) -> None:
    dead = {42: 3, 43: 3, 44: 3, 45: 2, 46: 2}
    found = list(script.outcomes(*rows(NOT_LEARNED, 0.001, {"code": 5, "math": 3, "prose": 3}, dead)))
    assert [outcome.holds for outcome in found] == [False] * 4


def test_what_was_not_measured_does_not_hold(script: Any) -> None:
    suite, tables = rows(NOT_LEARNED, 0.0, {}, {})
    tables.loss_differences, tables.arm_verdicts = [], []
    assert [outcome.holds for outcome in script.outcomes(suite, tables)] == [False] * 4
