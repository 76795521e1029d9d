"""Figures in a notebook: every figure of the page is at hand, and looks as on the page."""

from pathlib import Path

import matplotlib
import pytest
from planted_measures import planted_tables
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.errors import AnalysisError
from moe_emergence.report import figures
from moe_emergence.report.drawings import drawings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Tables]:
    folder = write_suite(tmp_path_factory.mktemp("notebook"), quickstart_like(steps=4, looks=(0, 4)))
    run = folder / "moe_blocks/seed-42"
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]), "utf-8")  # still going: its figures count too
    suite = read_suite(folder)
    return suite, planted_tables(suite)


def test_every_function_that_the_page_draws_with_is_among_the_figures(made: tuple[Suite, Tables]) -> None:
    known = {getattr(vars(figures)[name], "__wrapped__", None) for name in figures.__all__}
    unknown = [drawing.name for drawing in drawings(*made) if drawing.make.func not in known]
    assert unknown == []
    assert all(vars(figures)[name].__doc__ for name in figures.__all__)


def test_a_figure_has_the_style_of_the_page_and_leaves_the_users_alone(made: tuple[Suite, Tables]) -> None:
    _, tables = made
    rows = [row for row in tables.shares if row.arm == "moe"]
    with matplotlib.rc_context({"axes.titlelocation": "center", "font.size": 30}):
        figure = figures.share_heatmaps(rows, tables.routing, figures.colour_limit(rows))
        assert matplotlib.rcParams["font.size"] == 30
    axis = figure.axes[0]
    assert axis.get_title(loc="left") == "layer 2"
    assert axis.get_xticklabels()[0].get_fontsize() < 15


def test_a_figure_of_the_page_by_its_name(made: tuple[Suite, Tables]) -> None:
    assert "specialisation" in figures.names(*made)
    assert figures.made(*made, "specialisation").axes
    with pytest.raises(AnalysisError, match=r"no figure 'x': information, specialisation, "):
        figures.made(*made, "x")


def test_reading_a_folder_takes_the_tables_that_are_there(
    made: tuple[Suite, Tables], tmp_path: Path, monkeypatch
) -> None:
    suite, tables = made
    monkeypatch.setattr(figures, "analysed", lambda suite: tables)
    found, same = figures.read(str(suite.folder), out=tmp_path)
    assert same is tables
    assert (found.folder, found.name) == (tmp_path, "planted")
