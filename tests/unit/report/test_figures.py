"""Figures are functions of a table: what is drawn is what the table holds."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from synthetic_suite import HOSTILE, PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import Tables, make_tables
from moe_emergence.config import MoEConfig
from moe_emergence.report import style
from moe_emergence.report.curves import Legend, domain_loss_curves, entropy_curves, load_curves, loss_curves
from moe_emergence.report.drawings import drawings
from moe_emergence.report.heatmaps import colour_limit, share_heatmaps
from moe_emergence.report.pictures import keep

LEGEND = Legend(["dense", "moe", "no_lb", "top2", "moe_blocks"], "dense")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    planted = quickstart_like(steps=12, looks=(0, 3, 12))
    return make_tables(read_suite(write_suite(tmp_path_factory.mktemp("figures"), planted)))


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
    tables = make_tables(read_suite(write_suite(tmp_path, planted)))
    figure = share_heatmaps(tables.shares, tables.routing, colour_limit(tables.shares))
    assert np.array(figure.axes[0].images[0].get_array()).tolist() == [[1, -1], [1, -1]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "0", "100", "0"]


def test_hot_and_dead_experts_are_named_under_the_heatmap(tables: Tables) -> None:
    figure = share_heatmaps(rows_of(tables.shares, "no_lb"), rows_of(tables.routing, "no_lb"), limit=3.0)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["0", "1", "2\ndead", "3\ndead", "4\ndead", "5\nhot", "6\ndead", "7\ndead"]


def test_load_lines_are_the_loads_and_coloured_by_what_became_of_them(tables: Tables) -> None:
    points = rows_of(tables.load_over_steps, "no_lb")
    figure = load_curves(points, rows_of(tables.routing, "no_lb"), top=1.0)
    lines = figure.axes[0].lines
    colours = [to_hex(line.get_color()).upper() for line in lines[:8]]
    assert colours.count(style.HOT.upper()) == 1
    assert colours.count(style.DEAD.upper()) == 5
    hot = next(line for line in lines if to_hex(line.get_color()).upper() == style.HOT.upper())
    expected = [point.load for point in points if (point.layer, point.expert) == (2, 5)]
    assert list(hot.get_ydata()) == expected
    assert set(lines[8].get_ydata()) == {1 / 8}
    assert figure.axes[0].get_ylim() == (0, 1)


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
    tables = make_tables(
        read_suite(write_suite(tmp_path, quickstart_like(arms=planted.arms[1:3], steps=4, looks=(0, 4))))
    )
    assert len(loss_curves(tables.loss_over_steps, Legend(["moe", "no_lb"], None)).axes) == 1


def test_several_seeds_are_thin_lines_behind_their_mean(tmp_path: Path) -> None:
    planted = quickstart_like(seeds=(42, 44), steps=4, looks=(0, 4))
    tables = make_tables(read_suite(write_suite(tmp_path, planted)))
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
    for drawing in drawings(suite, make_tables(suite)):
        picture = keep(drawing, tmp_path / "figures")
        assert picture.source.startswith("data:image/svg+xml;base64,")
        assert (tmp_path / f"figures/{drawing.name}.png").read_bytes().startswith(b"\x89PNG")


def test_hostile_names_make_whole_svg_files_that_hold_no_script(tmp_path: Path) -> None:
    arm = PlantedArm(name="a", moe=MoEConfig(num_experts=2), shares={0: np.full((len(HOSTILE), 2), 0.5)})
    planted = PlantedSuite(arms=(arm,), domains=HOSTILE, steps=2, looks=(0, 2))
    suite = read_suite(write_suite(tmp_path, planted))
    for drawing in drawings(suite, make_tables(suite)):
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
    drawing = next(drawing for drawing in drawings(suite, make_tables(suite)) if drawing.name == "loss")
    first, second = keep(drawing, tmp_path / "1"), keep(drawing, tmp_path / "2")
    assert first == second
    for kind in ("svg", "png"):
        assert (tmp_path / f"1/loss.{kind}").read_bytes() == (tmp_path / f"2/loss.{kind}").read_bytes()
