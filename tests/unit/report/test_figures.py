"""Figures are functions of a table: what is drawn is what the table holds."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from planted_measures import CLASSES, FRESH, planted_tables
from synthetic_suite import HOSTILE, PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.config import MoEConfig
from moe_emergence.report import style
from moe_emergence.report.curves import Legend, domain_loss_curves, entropy_curves, loss_curves
from moe_emergence.report.drawings import drawings
from moe_emergence.report.estimates import (
    information_difference_forest,
    loss_difference_forest,
    specialisation_marks,
)
from moe_emergence.report.heatmaps import class_heatmaps, colour_limit, share_heatmaps, write_cell
from moe_emergence.report.information_curves import information_curves
from moe_emergence.report.passages import CONTRAST, contrast
from moe_emergence.report.pictures import keep
from moe_emergence.report.verdicts import final_information

LEGEND = Legend(["dense", "moe", "no_lb", "top2", "moe_blocks"], "dense")
SHARES = {("moe", 42, 3): 0.084}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    planted = quickstart_like(steps=12, looks=(0, 3, 12))
    return planted_tables(read_suite(write_suite(tmp_path_factory.mktemp("figures"), planted)), SHARES)


@pytest.fixture(autouse=True)
def _styled():
    with style.styled():
        yield


def rows_of(rows, arm: str):
    return [row for row in rows if row.arm == arm]


def test_heatmap_cells_are_log2_of_share_over_uniform(tables: Tables) -> None:
    shares = rows_of(tables.shares, "moe")
    figure = share_heatmaps(shares, rows_of(tables.routing, "moe"), limit=3.0)
    image = figure.axes[0].images[0]
    expected = [math.log2(row.share * 8) for row in shares if row.layer == 2]
    assert np.ravel(image.get_array()).tolist() == pytest.approx(expected)
    assert (image.norm.vmin, image.norm.vmax) == (-3.0, 3.0)
    assert [text.get_text() for text in figure.axes[0].texts][:2] == ["8.2", "31.0"]


def test_the_uniform_share_is_white_and_the_scale_comes_from_the_table(tables: Tables) -> None:
    red, green, blue, _ = style.DIVERGING(0.5)
    assert min(red, green, blue) > 0.95
    assert colour_limit(tables.shares) == pytest.approx(math.log2(0.93 * 8))
    assert colour_limit(rows_of(tables.shares, "moe_blocks")) == 1.0  # nothing far from uniform: colours stay pale


def test_a_cell_without_tokens_has_the_colour_of_the_lower_end(tmp_path: Path) -> None:
    arm = PlantedArm(name="a", moe=MoEConfig(num_experts=2), shares={0: np.array([[1.0, 0.0]] * 2)})
    planted = PlantedSuite(arms=(arm,), domains=("x", "y"), steps=2, looks=(0, 2))
    tables = planted_tables(read_suite(write_suite(tmp_path, planted)))
    figure = share_heatmaps(tables.shares, tables.routing, colour_limit(tables.shares))
    assert np.array(figure.axes[0].images[0].get_array()).tolist() == [[1, -1], [1, -1]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "0", "100", "0"]


def test_hot_and_dead_experts_are_named_under_the_heatmap(tables: Tables) -> None:
    figure = share_heatmaps(rows_of(tables.shares, "no_lb"), rows_of(tables.routing, "no_lb"), limit=3.0)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["0", "1", "2\ndead", "3\ndead", "4\ndead", "5\nhot", "6\ndead", "7\ndead"]


def test_marks_stand_at_their_estimates_and_are_filled_where_both_nulls_are_beaten(tables: Tables) -> None:
    first = [row for row in tables.information if row.step == 0]
    figure = specialisation_marks(final_information(tables), first, tables.verdicts, LEGEND)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["layer 2", "layer 3"]
    lines = figure.axes[1].lines
    interval, mark = lines[0], lines[1]
    assert list(interval.get_xdata()) == pytest.approx([0.078, 0.09])
    assert list(mark.get_xdata()) == pytest.approx([0.084])
    assert to_hex(mark.get_markerfacecolor()) == to_hex(mark.get_color()) == style.ARM_COLOURS[0].lower()
    assert [line.get_markerfacecolor() for line in lines[3::2]] == ["white"] * 3
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == LEGEND.arms[1:]


def test_beside_each_mark_stand_both_nulls_on_the_scale_of_the_mark(tables: Tables) -> None:
    first = [row for row in tables.information if row.step == 0]
    figure = specialisation_marks(final_information(tables), first, tables.verdicts, LEGEND)
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[0].patches[:3]]
    assert bars == [pytest.approx(FRESH), pytest.approx(FRESH), pytest.approx((-0.001, 0.002))]


def test_without_fresh_gates_there_are_no_bars_of_them(tables: Tables) -> None:
    bare = [replace(row, fresh_low=None, fresh_high=None) for row in final_information(tables)]
    figure = specialisation_marks(bare, bare, tables.verdicts, LEGEND)
    assert len(figure.axes[0].patches) == 4  # permuted documents, an arm each
    assert "fresh gates, first step" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_seed_has_its_own_row(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path, quickstart_like(seeds=(42, 43), steps=4, looks=(0, 4))))
    tables = planted_tables(suite)
    figure = specialisation_marks(final_information(tables), [], tables.verdicts, LEGEND)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["moe · 42", "moe · 43", "no_lb · 42"]


def test_information_runs_over_the_traces_between_untrained_gates_and_the_oracle(tables: Tables) -> None:
    figure = information_curves(tables.information, LEGEND)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["layer 2", "layer 3"]
    oracle, moe = figure.axes[1].lines[:2]
    assert set(oracle.get_ydata()) == {1}
    assert list(moe.get_xdata()) == [0, 3, 12]
    assert moe.get_ydata()[-1] == pytest.approx(0.084)
    (band,) = figure.axes[1].patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx(FRESH)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[-2:] == ["untrained gates", "routing by domain"]
    low, high = figure.axes[0].get_ylim()
    assert low < 0 < 1 < high


def test_the_band_is_of_arms_that_learn_mean_over_seeds_and_the_larger_end(tables: Tables) -> None:
    rows = [row for row in tables.information if row.arm in ("moe", "no_lb") and row.layer == 2]
    shift = {("moe", 0): 0.02, ("moe", 12): 0.1, ("no_lb", 12): 0.5}
    moved = [
        replace(
            row, fresh_high=None if row.fresh_high is None else row.fresh_high + shift.get((row.arm, row.step), 0.0)
        )
        for row in rows
    ]
    twin = [replace(row, seed=43) for row in rows]
    (band,) = information_curves([*moved, *twin], LEGEND, ["moe"]).axes[0].patches
    top = FRESH[1] + 0.5 * 0.1 / rows[0].maximum
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((FRESH[0], top))
    bare = [replace(row, fresh_low=None, fresh_high=None) for row in rows]
    assert not information_curves(bare, LEGEND).axes[0].patches


def test_differences_stand_at_their_values_hollow_where_nothing_is_shown(tables: Tables) -> None:
    rows = [row for row in tables.loss_differences if row.against == "dense"]
    figure = loss_difference_forest(
        [replace(row, high=0.001, p_holm=0.06) if row.arm == "moe" else row for row in rows], LEGEND
    )
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["all domains, each weighing the same", "code", "math", "prose"]
    zero, moe, moe_mark, no_lb, no_lb_mark = figure.axes[0].lines[:5]
    assert set(zero.get_xdata()) == {0}
    assert list(moe.get_xdata()) == pytest.approx([-0.019, 0.001])
    assert moe_mark.get_markerfacecolor() == "white"
    assert list(no_lb.get_xdata()) == pytest.approx([0.003, 0.011])
    assert no_lb_mark.get_markerfacecolor() == no_lb_mark.get_color()
    assert figure.axes[-1].get_xlabel().startswith("LM loss minus dense")


def test_differences_to_several_arms_name_both(tables: Tables) -> None:
    figure = loss_difference_forest(tables.loss_differences, LEGEND)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["moe − dense", "no_lb − dense", "no_lb − moe"]


def test_information_differences_are_percentage_points_a_layer(tables: Tables) -> None:
    figure = information_difference_forest(tables.information_differences, LEGEND)
    assert len(figure.axes) == 2
    assert list(figure.axes[1].lines[1].get_xdata()) == pytest.approx([-0.054, -0.034])


def test_token_classes_are_rows_with_their_numbers_and_empty_ones_are_left_out(tables: Tables) -> None:
    rows = rows_of(tables.token_classes, "moe")
    figure = class_heatmaps(rows, limit=1.0)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == [f"{name} (1,920)" for name in CLASSES[:-1]]
    image = figure.axes[0].images[0]
    expected = [max(-1.0, math.log2(row.share * 8)) for row in rows if row.layer == 2 and row.assignments]
    assert np.ravel(image.get_array()).tolist() == pytest.approx(expected)


def test_entropy_lines_are_shares_of_the_maximum(tables: Tables) -> None:
    figure = entropy_curves(tables.entropy_over_steps, LEGEND, "entropy_per_token")
    assert len(figure.axes) == 2
    assert len(figure.axes[0].lines) == 4 + 4  # arms with experts, and their samples for the legend
    assert figure.axes[0].lines[0].get_ydata()[-1] == pytest.approx(0.31)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["moe", "no_lb", "top2", "moe_blocks"]


def test_loss_lines_and_differences_to_dense(tables: Tables) -> None:
    figure = loss_curves(tables.loss_over_steps, LEGEND)
    macro, gap = figure.axes
    assert macro.lines[0].get_ydata()[-1] == pytest.approx(3.62)
    assert list(macro.lines[0].get_xdata()) == [0, 3, 12]
    assert gap.lines[0].get_ydata() == pytest.approx([-0.015] * 3)
    assert len(domain_loss_curves(tables.loss_over_steps, LEGEND).axes) == 3


def test_without_a_dense_arm_there_is_no_panel_of_differences(tmp_path: Path) -> None:
    planted = quickstart_like(steps=4, looks=(0, 4))
    tables = planted_tables(
        read_suite(write_suite(tmp_path, quickstart_like(arms=planted.arms[1:3], steps=4, looks=(0, 4))))
    )
    assert len(loss_curves(tables.loss_over_steps, Legend(["moe", "no_lb"], None)).axes) == 1


def test_several_seeds_are_thin_lines_behind_their_mean(tmp_path: Path) -> None:
    planted = quickstart_like(seeds=(42, 44), steps=4, looks=(0, 4))
    tables = planted_tables(read_suite(write_suite(tmp_path, planted)))
    lines = loss_curves(tables.loss_over_steps, LEGEND).axes[0].lines
    assert lines[0].get_ydata()[-1] == pytest.approx(3.621)
    assert [line.get_ydata()[-1] for line in lines[1:3]] == pytest.approx([3.62, 3.622])
    assert lines[1].get_linewidth() < lines[0].get_linewidth()


@pytest.mark.parametrize(
    ("domains", "experts", "top_k", "layers"), [(2, 1, 1, (0,)), (6, 64, 4, (1, 9)), (2, 17, 17, (3,))]
)
def test_any_number_of_domains_experts_slots_and_layers(
    tmp_path: Path, domains: int, experts: int, top_k: int, layers: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    shares = {layer: random.dirichlet(np.full(experts, 0.3), size=domains).clip(0, 1 / top_k) for layer in layers}
    arm = PlantedArm(name="a", moe=MoEConfig(num_experts=experts, top_k=top_k), shares=shares)
    arm = replace(arm, shares={n: s / s.sum(1, keepdims=True) for n, s in shares.items()})
    names = tuple(f"domain {number}" for number in range(domains))
    suite = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), domains=names, steps=3, looks=(0, 3))))
    for drawing in drawings(suite, planted_tables(suite)):
        if drawing.section in ("routing", "loss", "collapse"):
            assert drawing.make().axes
        else:
            picture = keep(drawing, tmp_path / "figures")
            assert picture.source.startswith("data:image/svg+xml,%3C?xml ")
            assert (tmp_path / f"figures/{drawing.name}.png").read_bytes().startswith(b"\x89PNG")


def test_hostile_names_make_whole_svg_files_that_hold_no_script(tmp_path: Path) -> None:
    arm = PlantedArm(name="a", moe=MoEConfig(num_experts=2), shares={0: np.full((len(HOSTILE), 2), 0.5)})
    planted = PlantedSuite(arms=(arm,), domains=HOSTILE, steps=2, looks=(0, 2))
    suite = read_suite(write_suite(tmp_path, planted))
    for drawing in drawings(suite, planted_tables(suite)):
        keep(drawing, tmp_path)
        tree = ET.fromstring((tmp_path / f"{drawing.name}.svg").read_bytes())
        names = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert not names & {"script", "foreignObject", "a", "iframe", "img"}
        assert not [key for element in tree.iter() for key in element.attrib if key.lower().startswith("on")]


def test_a_label_is_one_printable_line_of_limited_length() -> None:
    assert style.label("code") == "code"
    assert style.label("a\nb\u2028c\x00d") == "a b c\ufffdd"
    assert style.label("x" * 40, 10) == "x" * 9 + "…"
    assert style.label("71\u00a0%") == "71\u00a0%"


def test_no_two_arms_look_alike_and_dense_is_black() -> None:
    arms = [f"arm {number}" for number in range(20)] + ["dense"]
    looks = [tuple(sorted(look.items())) for look in style.arm_styles(arms, "dense").values()]
    assert len(set(looks)) == len(arms)
    assert style.arm_styles(arms, "dense")["dense"]["color"] == style.DENSE_COLOUR


def test_the_users_own_matplotlib_settings_change_nothing_and_stay(tmp_path: Path, tables: Tables) -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.grid": False}):
        with style.styled():
            assert matplotlib.rcParams["font.size"] == 9
        assert matplotlib.rcParams["font.size"] == 31


def test_the_same_table_makes_the_same_bytes(tmp_path: Path, tables: Tables) -> None:
    suite = read_suite(write_suite(tmp_path / "s", quickstart_like(steps=4, looks=(0, 4))))
    drawing = next(drawing for drawing in drawings(suite, planted_tables(suite)) if drawing.name == "loss")
    first, second = keep(drawing, tmp_path / "1"), keep(drawing, tmp_path / "2")
    assert first == second
    for kind in ("svg", "png"):
        assert (tmp_path / f"1/loss.{kind}").read_bytes() == (tmp_path / f"2/loss.{kind}").read_bytes()


def test_every_number_on_a_cell_can_be_read(tables: Tables) -> None:
    image = share_heatmaps(tables.shares, tables.routing, limit=3.0).axes[0].images[0]
    values = np.linspace(-3, 3, 257)[np.newaxis]
    with style.styled():
        axis = style.new_figure(1).subplots()
        for column, colour in enumerate(image.to_rgba(values)[0]):
            write_cell(axis, 0, column, "0", on=colour)
    inks = [text.get_color() for text in axis.texts]
    assert set(inks) == {"#000000", "#FFFFFF"}
    grounds = [to_hex(colour) for colour in image.to_rgba(values)[0]]
    assert min(map(contrast, inks, grounds)) >= CONTRAST


def test_numbers_on_a_heatmap_stand_out_from_their_own_cells(tables: Tables) -> None:
    for axis in share_heatmaps(tables.shares, tables.routing, limit=3.0).axes[:-1]:
        cells = axis.images[0].to_rgba(axis.images[0].get_array())
        for text in axis.texts:
            column, row = text.get_position()
            assert contrast(to_hex(text.get_color()), to_hex(cells[int(row), int(column)])) >= CONTRAST
