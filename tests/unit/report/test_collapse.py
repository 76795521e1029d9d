"""Load maps, counts of experts and the words of collapse: what the loads and the detector's events are."""

import dataclasses
import math

import numpy as np
import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.equivalence import EquivalenceRow
from moe_emergence.analysis.evolution import LoadPoint
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import CollapseEvent, Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import style
from moe_emergence.report.collapse import collapse_sentences, collapsed_layers, count_finding
from moe_emergence.report.collapse_drawings import collapse_drawings
from moe_emergence.report.curves import Legend
from moe_emergence.report.load_maps import expert_count_curves, expert_counts, hot_ratio, load_maps

GAP = "\u00a0"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=100, looks=(0, 100))
    return read_suite(write_suite(tmp_path_factory.mktemp("collapse"), planted))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return planted_tables(suite)


@pytest.fixture(autouse=True)
def _styled():
    with style.styled():
        yield


def points_of(*loads: tuple[float, ...], layer: int = 2, steps: tuple[int, ...] = ()) -> list[LoadPoint]:
    """One row a load; the steps that each is the mean of, by default 1."""
    widths = steps or (1,) * len(loads)
    return [
        LoadPoint(
            arm="a", seed=1, layer=layer, step=sum(widths[: place + 1]), steps=widths[place], expert=expert, load=load,
            uniform=1 / len(row),
        )
        for place, row in enumerate(loads)
        for expert, load in enumerate(row)
    ]  # fmt: skip


def test_a_cell_is_log2_of_load_over_uniform_and_lies_over_the_steps_it_is_of() -> None:
    points = points_of((0.25, 0.25, 0.25, 0.25), (0.5, 0.125, 0.375, 0.0), steps=(3, 2))
    figure = load_maps(points, 1, {})
    mesh = figure.axes[0].collections[0]
    limit = 1 + math.log2(10)
    expected = [[0, 1], [0, -1], [0, math.log2(1.5)], [0, -limit]]  # nothing: the lower end
    assert np.array(mesh.get_array()).reshape(4, 2).tolist() == [pytest.approx(row) for row in expected]
    edges = mesh.get_coordinates()[0, :, 0].tolist()
    assert edges == [0, 3, 5]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-limit, limit)


def test_the_scale_names_dead_uniform_and_hot() -> None:
    figure = load_maps(points_of((0.125,) * 8), 1, {})
    ticks = {tick.get_text(): place for tick, place in
             zip(figure.axes[-1].get_xticklabels(), figure.axes[-1].get_xticks(), strict=True)}  # fmt: skip
    assert ticks == {
        "dead": pytest.approx(math.log2(0.1)),
        "1/E": 0,
        "hot": pytest.approx(math.log2(0.5 * 8)),  # half of all tokens at 8 experts, one a token
        "8×": 3,
    }
    assert hot_ratio(4, 4) is None
    assert "hot" not in [
        tick.get_text() for tick in load_maps(points_of((0.25,) * 4), 4, {}).axes[-1].get_xticklabels()
    ]


def test_the_moment_of_collapse_is_a_line_with_its_step_in_its_own_layer() -> None:
    points = points_of((0.5, 0.5), (0.9, 0.1)) + points_of((0.5, 0.5), (0.5, 0.5), layer=3)
    collapsed, healthy = load_maps(points, 1, {2: 1}).axes[:2]
    (line,) = collapsed.lines
    assert set(line.get_xdata()) == {1}
    assert [text.get_text() for text in collapsed.texts] == ["collapsed at step 1"]
    assert len(healthy.lines) == len(healthy.texts) == 0


def test_counts_are_of_each_steps_load() -> None:
    loads = [(0.25,) * 4, (1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0), (0.48, 0.48, 0.02, 0.02)]
    one = list(expert_counts(points_of(*loads), {"a": 1}))
    assert [row.effective for row in one] == pytest.approx([4, 1, 2, math.exp(-2 * (0.48 * math.log(0.48) + 0.02 * math.log(0.02)))])  # fmt: skip # noqa: E501
    assert [row.dead for row in one] == [0, 3, 2, 2]
    assert [row.hot for row in one] == [0, 1, 0, 0]  # hot at k = 1: above 1/4 + 3/7 · 3/4 = 0.571
    two = list(expert_counts(points_of(*loads), {"a": 2}))
    assert [row.hot for row in two] == [0, 1, 2, 2]  # at k = 2: above 1/4 + 3/7 · 1/4 = 0.357


def test_count_lines_and_titles_are_the_counts() -> None:
    counts = list(expert_counts(points_of((0.25,) * 4, (1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0)), {"a": 1}))
    figure = expert_count_curves(counts, Legend(["a"], None), "dead")
    assert list(figure.axes[0].lines[0].get_ydata()) == [0, 3, 2]
    effective = expert_count_curves(counts, Legend(["a"], None), "effective")
    assert set(effective.axes[0].lines[1].get_ydata()) == {4}  # balance
    assert count_finding(counts, "dead") == "Most dead experts at a time: 3 of 4 in a, layer 2, at step 2"
    assert count_finding(counts, "effective") == ("Training ends with as few as 2.00 of 4 experts in use in a, layer 2")


def test_of_equal_counts_the_one_that_lasts_longest_is_named_then_the_earliest() -> None:
    even, one = (0.25,) * 4, (1.0, 0.0, 0.0, 0.0)
    passing = points_of(one, even, even, even)
    lasting = points_of(even, even, one, one, layer=3)
    again = points_of(even, one, even, one, layer=4)

    def said(*layers: list[LoadPoint]) -> str:
        return count_finding(
            list(expert_counts([point for layer in layers for point in layer], {"a": 1})), "hot"
        ).partition(" in ")[2]

    assert said(passing, lasting) == "a, layer 3, from step 3 on"
    assert said(passing, lasting, again) == f"a, layer 4, at 2 of 4{GAP}recorded steps, first at step 2"
    assert said(passing) == "a, layer 2, at step 1"


def test_every_arm_has_a_map_with_its_collapse_and_data(suite: Suite, tables: Tables) -> None:
    made = {drawing.name: drawing for drawing in collapse_drawings(suite, tables)}
    assert [name for name in made if name.startswith("load-map")] == [
        "load-map-moe", "load-map-no_lb", "load-map-top2", "load-map-moe_blocks",
    ]  # fmt: skip
    assert made["load-map-no_lb"].title.startswith("no_lb: layer 2 collapsed at step 96; expert 5 of layer 2 takes")
    assert made["load-map-moe"].title.startswith("moe: no collapse found in training; ")
    assert made["load-map-no_lb"].tables[0] == "load_over_steps"
    axes = made["load-map-no_lb"].make().axes
    assert [set(line.get_xdata()) for line in axes[0].lines] == [{96}]


def test_an_expert_that_collapsed_twice_counts_from_the_first_time(suite: Suite) -> None:
    states = [(9, 3, "warning"), (12, 3, "collapsed"), (20, 3, "healthy"), (30, 3, "collapsed"), (15, 2, "collapsed")]
    events = tuple(CollapseEvent(step=step, layer=layer, state=state, reason="") for step, layer, state in states)
    assert collapsed_layers(dataclasses.replace(suite.runs[1], collapses=events)) == {2: 15, 3: 12}


def test_the_cost_of_collapse_is_the_difference_to_each_arm_it_is_compared_with(suite: Suite, tables: Tables) -> None:
    said = {sentence.partition(":")[0]: sentence.replace(GAP, " ") for sentence in collapse_sentences(suite, tables)}
    assert list(said) == ["moe", "no_lb", "top2", "moe_blocks"]
    assert "collapse found in training at step 96 (layer 2). LM loss on test, nats a token" in said["no_lb"]
    assert said["no_lb"].endswith("+0.0070 [0.0030, 0.0110] against dense and +0.0220 [0.0180, 0.0260] against moe.")
    equal = row_of(EquivalenceRow, arm="no_lb", against="moe", domain=None, margin=0.01, equivalent=False)
    tested = (equal, dataclasses.replace(equal, against="dense", equivalent=True))
    (told,) = [s for s in collapse_sentences(suite, dataclasses.replace(tables, equivalence=tested)) if "96" in s]
    assert told.endswith("as no difference that matters: against dense; not shown to be: against moe.")
    alone = list(collapse_sentences(suite, dataclasses.replace(tables, loss_differences=())))
    assert all(sentence.endswith("There is no arm to say what that cost.") for sentence in alone)
