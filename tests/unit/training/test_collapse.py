"""The collapse rule: when a window is bad, two in and two out, and that a restored watch goes on as if not stopped."""

import json
import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.training.collapse import WINDOW, CollapseDetector

BALANCED = [25, 25, 25, 25]
HOT = [60, 14, 13, 13]  # excess (0.60 − 0.25) / 0.75 = 0.47 > 3/7; no load below 0.025
DEAD = [34, 32, 32, 2]  # excess 0.12; expert 3 below 0.1 / 4
REFERENCE_BAD = [61, 13, 13, 13]


def detector(rule: Literal["excess", "reference"] = "excess", top_k: int = 1, window: int = 100) -> CollapseDetector:
    return CollapseDetector(4, top_k, rule=rule, window=window)


def states(watch: CollapseDetector, windows: list[list[int]], layer: int = 2) -> list[str]:
    """The layer's state after each window; every change is announced, and nothing else is."""
    seen, before = [], "healthy"
    for counts in windows:
        event = watch.add(layer, counts)
        state = watch.layers[layer].state
        assert (event is not None) == (state != before)
        assert event is None or (event["state"], event["layer"]) == (state, layer)
        seen.append(before := state)
    return seen


@pytest.mark.parametrize("bad", [HOT, DEAD], ids=["hot", "dead"])
def test_two_in_two_out(bad: list[float]) -> None:
    windows = [BALANCED, bad, bad, BALANCED, BALANCED, BALANCED]
    assert states(detector(), windows) == ["healthy", "warning", "collapsed", "collapsed", "healthy", "healthy"]


def test_one_bad_window_is_a_warning_that_two_good_ones_end() -> None:
    assert states(detector(), [HOT, BALANCED, BALANCED]) == ["warning", "warning", "healthy"]


def test_bad_windows_must_follow_each_other() -> None:
    assert states(detector(), [HOT, BALANCED, HOT, BALANCED, HOT]) == ["warning"] * 5


def test_good_windows_must_follow_each_other_to_end_a_collapse() -> None:
    windows = [HOT, DEAD, BALANCED, HOT, BALANCED, BALANCED]
    assert states(detector(), windows) == ["warning", "collapsed", "collapsed", "collapsed", "collapsed", "healthy"]


def test_limits() -> None:
    """Hot above an excess of 3/7, dead below 0.1/E: the limits themselves are neither."""
    share, rest = 57_142, 14_286  # of 100,000: 1/4 + 3/7 · 3/4 is 57,142.86
    assert states(detector(), [[share, rest, rest, rest]]) == ["healthy"]
    assert states(detector(), [[share + 1, rest - 1, rest, rest]]) == ["warning"]
    assert states(detector(), [[3250, 3250, 3250, 250]]) == ["healthy"]
    assert states(detector(), [[3250, 3250, 3251, 249]]) == ["warning"]


def test_excess_is_measured_against_1_over_k() -> None:
    """With two slots a share of 0.45 is an excess of 0.8; the same share with one slot is 0.27."""
    counts = [45, 20, 20, 15]
    assert states(detector(top_k=2), [counts]) == ["warning"]
    assert states(detector(top_k=1), [counts]) == ["healthy"]


def test_all_experts_chosen_can_not_be_hot() -> None:
    assert states(detector(top_k=4), [BALANCED, BALANCED]) == ["healthy", "healthy"]


def test_steps_are_gathered_into_windows() -> None:
    """A window closes with the step that fills it, and takes the whole step."""
    watch = detector()
    assert [watch.add(0, [30, 3, 3, 3]) for _ in range(2)] == [None, None]
    event = watch.add(0, [30, 3, 3, 3])
    assert event is not None
    assert event["excess"] == pytest.approx((90 / 117 - 0.25) / 0.75)
    assert watch.layers[0].counts == [0] * 4
    assert [watch.add(0, [30, 3, 3, 3]) for _ in range(2)] == [None, None], "the next window starts anew"


def test_layers_are_watched_apart() -> None:
    watch = detector()
    assert watch.add(1, HOT)["state"] == "warning"  # type: ignore[index]
    assert watch.add(3, BALANCED) is None
    assert watch.add(1, HOT)["state"] == "collapsed"  # type: ignore[index]
    assert {layer: w.state for layer, w in watch.layers.items()} == {1: "collapsed", 3: "healthy"}


def test_an_event_says_what_happened() -> None:
    watch = detector()
    event: dict[str, Any] = watch.add(7, [1, 97, 1, 1])  # type: ignore[assignment]
    excess = (0.97 - 0.25) / 0.75
    assert event["excess"] == pytest.approx(excess)
    assert {name: event[name] for name in ("layer", "state", "expert", "dead")} == {
        "layer": 7,
        "state": "warning",
        "expert": 1,
        "dead": [0, 2, 3],
    }
    assert event["reason"] == f"expert 1 takes 97% of the assignments (excess {excess:.2f}); dead: 0, 2, 3"
    assert json.loads(json.dumps(event)) == event


# The reference rule


def test_reference_rule_takes_three_checks_in_a_row() -> None:
    windows = [REFERENCE_BAD, REFERENCE_BAD, REFERENCE_BAD]
    assert states(detector("reference"), windows) == ["warning", "warning", "collapsed"]
    windows = [REFERENCE_BAD, REFERENCE_BAD, BALANCED, REFERENCE_BAD, REFERENCE_BAD]
    assert states(detector("reference"), windows) == ["warning"] * 5


def test_reference_rule_looks_at_the_largest_share_alone() -> None:
    assert states(detector("reference"), [DEAD] * 3) == ["healthy"] * 3
    assert states(detector("reference"), [[60, 40, 0, 0]] * 3) == ["healthy"] * 3, "60 % is not above 60 %"


# Restored


@given(
    st.lists(st.lists(st.integers(0, 60), min_size=4, max_size=4), min_size=1, max_size=30),
    st.data(),
    st.sampled_from(["excess", "reference"]),
)
@settings(max_examples=60, deadline=None)
def test_restored_is_as_if_not_interrupted(steps: list[list[int]], data: st.DataObject, rule: Any) -> None:
    cut = data.draw(st.integers(0, len(steps)))
    whole, first, second = detector(rule), detector(rule), detector(rule)
    expected = [whole.add(0, counts) for counts in steps]
    found = [first.add(0, counts) for counts in steps[:cut]]
    second.restore(json.loads(json.dumps(first.to_state())))
    found += [second.add(0, counts) for counts in steps[cut:]]
    assert found == expected
    assert second.to_state() == whole.to_state()


def test_a_state_is_not_the_watch_itself() -> None:
    watch = detector()
    watch.add(0, [1, 2, 3, 4])
    kept = watch.to_state()
    watch.add(0, [1, 2, 3, 4])
    assert kept["0"]["counts"] == [1, 2, 3, 4]


def test_the_window_is_at_least_64k_assignments() -> None:
    assert WINDOW >= 64_000
    watch = CollapseDetector(4, 1)
    steps = math.ceil(WINDOW / 4096)
    events = [watch.add(0, [4093, 1, 1, 1]) for _ in range(2 * steps)]
    assert [n for n, event in enumerate(events, 1) if event is not None] == [steps, 2 * steps]
