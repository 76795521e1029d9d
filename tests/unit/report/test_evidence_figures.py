"""Figures of the evidence: what is drawn and said is what the rows hold; what was not measured has no figure."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.causal.regret import RegretRow
from moe_emergence.analysis.coactivation import CoactivationRow
from moe_emergence.analysis.format_swaps import FormatSwapRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.saturation import SaturationRow
from moe_emergence.analysis.scoreboard import ScoreRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report import style
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.drawings import drawings
from moe_emergence.report.evidence_drawings import evidence_drawings

GAP = "\u00a0"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=4, looks=(0, 4), seeds=(42, 43))
    return read_suite(write_suite(tmp_path_factory.mktemp("evidence"), planted))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return planted_tables(suite)


@pytest.fixture(autouse=True)
def _styled():
    with style.styled():
        yield


def made(suite: Suite, tables: Tables, **rows: Any) -> dict[str, Drawing]:
    full = dataclasses.replace(tables, **{name: tuple(found) for name, found in rows.items()})
    return {drawing.name: drawing for drawing in evidence_drawings(suite, full)}


def title(drawing: Drawing) -> str:
    return drawing.title.replace(GAP, " ")


def test_nothing_measured_nothing_drawn(suite: Suite, tables: Tables) -> None:
    assert made(suite, tables) == {}


def test_every_figure_names_tables_that_there_are(suite: Suite, tables: Tables) -> None:
    names = {field.name for field in dataclasses.fields(Tables)}
    for drawing in drawings(suite, tables):
        assert drawing.tables
        assert set(drawing.tables) <= names


def split(step: int, value: float, p: float, seed: int = 42) -> TokenSplitRow:
    return row_of(
        TokenSplitRow, arm="moe", seed=seed, layer=3, step=step, counted="first choice", x="token id", tokens=900,
        token_information=value, token_low=value - 0.1, token_high=value + 0.1, token_plug_in=value + 0.02,
        token_null_low=0.03, token_null_high=0.05, token_p=p, token_share=value / 2.5,
        domain_given_token=value / 4, domain_given_token_low=0.01, domain_given_token_high=0.4,
        domain_given_token_plug_in=value / 4, domain_given_token_p=p,
    )  # fmt: skip


def test_the_split_stands_beside_its_null_less_the_same_bias_at_both_ends(suite: Suite, tables: Tables) -> None:
    rows = [split(0, 0.5, 0.3), split(4, 0.8, 0.005), split(2, 9.9, 0.005), split(4, 9.9, 0.005, seed=43)]
    found = made(suite, tables, token_split=rows)
    axis = found["token-information"].make().axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["moe, step 4", "moe, step 0"]
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axis.patches]
    assert bars == [pytest.approx((0.01, 0.03))] * 2
    marks = axis.lines[2::2]
    assert [mark.get_xdata()[0] for mark in marks] == [0.8, 0.5]
    assert marks[1].get_markerfacecolor() == "white" != marks[0].get_markerfacecolor()
    assert title(found["token-information"]) == (
        "A token's id tells most of its expert in moe, layer 3: 0.800 [0.700, 0.900] bits, 32 % of H(E), from 0.500 "
        "[0.400, 0.600] bits, 20 % of H(E) at step 0"
    )
    assert (
        "in 1 of 1 layer (p < 0.05, Benjamini–Hochberg over layers); most in moe, layer 3: 0.200 [0.010, 0.400] "
        in title(found["domain-given-token"])
    )
    assert "Seed 42;" in found["token-information"].reading


def effect(
    expert: int, domain: str | None, value: float, way: str = "next", arm: str = "moe", p: float = 0.5
) -> KnockoutRow:
    return row_of(
        KnockoutRow, arm=arm, seed=42, step=4, layer=3, expert=expert, domain=domain, intervention=way, effect=value,
        low=value - 0.001, high=value + 0.001, p=p, documents=12,
    )  # fmt: skip


def test_the_knockout_matrix_is_domains_by_experts_in_milli_nats_on_one_scale(suite: Suite, tables: Tables) -> None:
    values = {"code": ((0.004, 0.001), (-0.002, 0.002)), "math": ((0.0015, 0.04), (0.0, 1.0)), None: ((0.0, 1.0),) * 2}
    rows = [
        effect(expert, domain, value, p=p) for domain, pair in values.items() for expert, (value, p) in enumerate(pair)
    ]
    other = [effect(0, "code", 0.008, arm="no_lb"), effect(0, "code", 0.003, way="ancestor")]
    found = made(suite, tables, knockouts=[*rows, *other, effect(0, "code", 9, "zero")])
    assert list(found) == ["knockouts-rerouted-moe", "knockouts-ancestor-moe", "knockouts-rerouted-no_lb"]
    axis = found["knockouts-rerouted-moe"].make().axes[0]
    image = axis.images[0]
    assert np.array(image.get_array()).tolist() == [pytest.approx(row) for row in ([4, -2], [1.5, 0], [0, 0])]
    assert (image.norm.vmin, image.norm.vmax) == (-8, 8)
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["code", "math", "all domains"]
    assert [(text.get_text(), text.get_fontweight()) for text in axis.texts[:3]] == [
        ("4.0", "bold"), ("−2.0", "bold"), ("1.5", "normal"),
    ]  # fmt: skip
    assert title(found["knockouts-rerouted-moe"]) == (
        "moe: when an expert's tokens are rerouted, loss rises beyond chance in 1 and falls in 1 of 6 cells; most for "
        "expert 0 of layer 3 on code: +0.0040 [0.0030, 0.0050] nats a token"
    )
    reading = found["knockouts-rerouted-moe"].reading.replace(GAP, " ")
    assert "Bold: differs from 0 after adjusting for the figure's 6 cells (Benjamini–Hochberg, 5 %)" in reading
    bold = [text for text in axis.texts if text.get_fontweight() == "bold"]
    assert len(bold) == 2


def test_a_cost_that_chance_would_show_among_so_many_cells_is_not_said_to_be_found(
    suite: Suite, tables: Tables
) -> None:
    rows = [effect(expert, domain, 0.0) for domain in ("code", "math", None) for expert in range(8)]
    rows[3] = effect(3, "code", 0.0012, p=0.03)
    drawing = made(suite, tables, knockouts=rows)["knockouts-rerouted-moe"]
    assert title(drawing) == (
        "moe: when an expert's tokens are rerouted, no domain's loss changes beyond chance in any of 24 cells"
    )
    assert not [text for text in drawing.make().axes[0].texts if text.get_fontweight() == "bold"]


def test_a_loss_that_only_falls_is_told_as_a_fall(suite: Suite, tables: Tables) -> None:
    rows = [effect(0, "code", 0.0), effect(1, "code", -0.004, p=0.001)]
    assert title(made(suite, tables, knockouts=rows)["knockouts-rerouted-moe"]) == (
        "moe: when an expert's tokens are rerouted, loss falls beyond chance in 1 of 2 cells; most for expert 1 of "
        "layer 3 on code: −0.0040 [−0.0050, −0.0030] nats a token"
    )


def test_regret_stands_against_0_and_the_best_choice_against_chance(suite: Suite, tables: Tables) -> None:
    rows = [
        row_of(
            RegretRow, arm=arm, seed=42, step=4, layer=layer, domain=domain, regret=value, low=value - 0.1,
            high=value + 0.1, p=p, best_share=best, best_low=best - 0.01, best_high=best + 0.01, worst_share=0.15,
            worst_low=0.14, worst_high=0.16, chance_share=0.125,
        )
        for arm, layer, domain, value, p, best in (
            ("moe", 2, None, 0.3, 0.01, 0.2), ("top2", 2, None, -0.2, 0.01, 0.13), ("moe", 2, "code", 9.0, 0.01, 0.9),
            ("no_lb", 2, None, 0.8, 0.01, 0.8),
        )
    ]  # fmt: skip
    found = made(suite, tables, regret=rows)
    axis = found["regret"].make().axes[0]
    assert set(axis.lines[0].get_xdata()) == {0}
    assert [line.get_xdata()[0] for line in axis.lines[2::2]] == [0.3, 0.8, -0.2]
    said = (
        "The router's choice saves loss, beyond chance, in 1 of 2 layers (p < 0.05, Benjamini–Hochberg over layers); "
        "most in moe, layer 2: +0.3000"
    )
    assert title(found["regret"]).startswith(said)
    for drawing in found.values():  # no_lb is planted with a hot expert: drawn, not counted
        assert "The title leaves out 1 layer with a hot expert" in drawing.reading.replace(GAP, " ")
    best = found["best-choice"].make().axes[0]
    assert set(best.lines[0].get_xdata()) == {0.125}
    marks = [line for line in best.lines if line.get_marker() == "o"]
    assert [mark.get_xdata()[0] for mark in marks] == [0.2, 0.8, 0.13]
    assert marks[2].get_markerfacecolor() == "white"  # it is the worst as often
    assert marks[0].get_markerfacecolor() != "white"
    assert title(found["best-choice"]) == (
        "The chosen expert is a token's best more often than its worst in 1 of 2 layers (intervals apart); most in "
        "moe, layer 2: best for 20.0 % [19.0, 21.0] of tokens, worst for 15.0 % [14.0, 16.0], each by chance for 12.5 %"
    )


def score(measure: str, rho: float | None, p: float, effect: str = "next: per affected token") -> ScoreRow:
    return row_of(
        ScoreRow, arm="all", step=4, measure=measure, effect=effect, level="expert", rho=rho, low=-0.1, high=0.6,
        p_adjusted=p, cells=64, resampled="experts",
    )  # fmt: skip


def test_the_scoreboard_runs_from_the_highest_rho_down(suite: Suite, tables: Tables) -> None:
    rows = [score("drift", -0.3, 0.5), score("load", 0.4, 0.01), score("entropy", None, 1.0),
            score("load", 0.9, 0.01, "zero: total")]  # fmt: skip
    (drawing,) = made(suite, tables, scores=rows).values()
    axis = drawing.make().axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [
        "its load", "distance from its ancestor",
    ]  # fmt: skip
    assert set(axis.lines[0].get_xdata()) == {0}
    assert title(drawing) == (
        "By what a token that used the expert loses, 1 of 2 measures orders experts beyond chance (most: its load, rho "
        "0.40 [−0.10, 0.60])"
    )
    (none,) = made(suite, tables, scores=rows[:1]).values()
    assert title(none) == "By what a token that used the expert loses, none of 1 measure orders experts beyond chance"
    both = [*rows, score("margin", 0.7, 0.001, "next: total")]
    (drawing,) = made(suite, tables, scores=both).values()
    assert "; by the loss of all tokens, which contains the load, 1 of 1 measure orders" in title(drawing)
    figure = drawing.make()
    assert [axis.get_title(loc="left").replace("\n", " ") for axis in figure.axes] == [
        "rerouted to the next best: a token that used it, nats",
        "rerouted to the next best: all tokens, nats a token (contains the load)",
    ]
    figure.draw_without_rendering()
    for axis in figure.axes:
        titles = [
            text for text in axis.get_children() if getattr(text, "get_text", str)() == axis.get_title(loc="left")
        ]
        assert titles[0].get_window_extent().x1 <= figure.bbox.x1


def overlap(
    arm: str, step: int, value: float, counted: str = "first choice", loads: float | None = None, seed: int = 42
) -> SaturationRow:
    chance = 0.25 if counted == "slots" else 0.125
    return row_of(
        SaturationRow, arm=arm, seed=seed, step=step, layer=2, counted=counted, against="final", overlap=value,
        low=value - 0.1, high=value + 0.1, chance=chance, chance_loads=chance if loads is None else loads, tokens=80,
    )  # fmt: skip


def test_saturation_is_of_all_slots_where_there_are_several_with_chance_drawn(suite: Suite, tables: Tables) -> None:
    rows = [overlap(arm, step, value, counted) for arm, counted, values in (
                ("moe", "first choice", (0.3, 0.6, 1.0)), ("top2", "slots", (0.5, 0.7, 1.0)),
                ("top2", "first choice", (0.0, 0.0, 1.0)))
            for step, value in zip((0, 2, 4), values, strict=True)]  # fmt: skip
    (drawing,) = made(suite, tables, saturation=rows).values()
    axis = drawing.make().axes[0]
    solid = [list(line.get_ydata()) for line in axis.lines if line.get_linestyle() == "-" and len(line.get_ydata())]
    assert solid == [[0.3, 0.6, 1.0], [0.5, 0.7, 1.0]]
    assert {line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"} == {0.125, 0.25}
    assert title(drawing) == (
        "Beyond what loads alone give, routing agrees with the last step's by 17.5 (moe, layer 2) to 25.0 (top2, layer "
        "2) percentage points at step 0 and by 45.0 (top2, layer 2) to 47.5 (moe, layer 2) at step 2"
    )


def test_a_collapsed_layer_is_drawn_with_what_its_loads_give_and_never_called_saturated(
    suite: Suite, tables: Tables
) -> None:
    collapsed = [overlap("no_lb", step, value, loads=value) for step, value in ((0, 0.15), (2, 0.99), (4, 1.0))]
    rows = [*(overlap("moe", step, value) for step, value in ((0, 0.3), (2, 0.6), (4, 1.0))), *collapsed]
    (drawing,) = made(suite, tables, saturation=rows).values()
    dashed = [list(line.get_ydata()) for line in drawing.make().axes[0].lines if line.get_linestyle() == "--"]
    assert [0.15, 0.99, 1.0] in dashed
    assert "by 17.5 (moe, layer 2) percentage points at step 0 and by 47.5 (moe, layer 2) at step 2" in title(drawing)
    assert "The title leaves out 1 layer with a hot expert" in drawing.reading.replace(GAP, " ")
    (only,) = made(suite, tables, saturation=collapsed).values()
    assert title(only) == "Saturation cannot be judged: every layer has a hot expert"


def test_saturation_tells_means_of_seeds_and_names_bands_only_where_there_are(suite: Suite, tables: Tables) -> None:
    one = [overlap("moe", step, value) for step, value in ((0, 0.3), (4, 1.0))]
    (drawing,) = made(suite, tables, saturation=one).values()
    assert "Bands: 95 % intervals" in drawing.reading.replace(GAP, " ")
    two = [*one, *(overlap("moe", step, value, seed=43) for step, value in ((0, 0.5), (4, 1.0)))]
    (drawing,) = made(suite, tables, saturation=two).values()
    assert "Bands" not in drawing.reading
    assert "27.5 (moe, layer 2) percentage points at step 0" in title(drawing)


def test_coactivation_is_against_independent_choice_and_only_where_k_is_2(suite: Suite, tables: Tables) -> None:
    rows = [
        row_of(
            CoactivationRow, arm="top2", seed=42, step=4, layer=2, expert=first, other=second, lift=lift,
            lift_chance=0.5,
        )
        for first, second, lift in ((0, 1, 1.0), (1, 0, 1.0), (0, 2, 0.25), (2, 0, 0.0))
    ]  # fmt: skip
    (drawing,) = made(suite, tables, coactivation=rows).values()
    assert drawing.name == "coactivation-top2"
    drawn = np.ma.filled(drawing.make().axes[0].images[0].get_array(), math.nan)
    assert drawn.shape == (8, 8)
    assert [drawn[0, 1], drawn[0, 2], drawn[2, 0]] == [1, -1, -1]  # twice, half, and never, at the scale's end
    assert np.isnan(drawn[3]).all()
    assert title(drawing).startswith(
        "top2: experts 0 and 1 of layer 2 serve tokens together 2.00 times as often as independent choice"
    )
    assert "lift" not in title(drawing)
    assert "Grey: an expert with itself, or one without tokens." in drawing.reading
    pairs = [(first, other) for first in range(8) for other in range(8) if first != other]
    every = [dataclasses.replace(rows[0], expert=first, other=other) for first, other in pairs]
    (drawing,) = made(suite, tables, coactivation=every).values()
    assert "Grey: an expert with itself. " in drawing.reading


def test_a_swap_stands_beside_as_much_content(suite: Suite, tables: Tables) -> None:
    rows = [
        row_of(
            FormatSwapRow, arm="moe", seed=42, step=4, layer=2, counted="first choice", domain="math", swap=swap,
            format_divergence=0.05, content_divergence=0.02, difference=0.03, low=0.01, high=0.05, p=p, documents=12,
        )
        for swap, p in (("closed up", 0.01), ("spaced out", 0.2))
    ]  # fmt: skip
    (drawing,) = made(suite, tables, format_swaps=rows).values()
    axis = drawing.make().axes[0]
    line, tick, mark = axis.lines[1:4]
    assert list(line.get_xdata()) == pytest.approx([0.03, 0.07])
    assert (list(tick.get_xdata()), tick.get_marker()) == ([0.02], "|")
    assert list(mark.get_xdata()) == [0.05]
    assert axis.lines[6].get_markerfacecolor() == "white"
    assert (
        "in 1 of 2 layers × swaps (p < 0.05, Benjamini–Hochberg over them); most math closed up, layer 2: +0.0300 bits"
        in title(drawing)
    )
