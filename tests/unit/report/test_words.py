"""Numbers, findings and the answer box: every sentence on planted figures."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import PlantedArm, PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.equivalence import EquivalenceRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import CollapseEvent, Suite
from moe_emergence.analysis.specialisation import NOT_LEARNED, UNTESTED
from moe_emergence.analysis.tables import Tables
from moe_emergence.config import MoEConfig
from moe_emergence.report import findings, numbers
from moe_emergence.report.answer import answers, too_short
from moe_emergence.report.drawings import drawings
from moe_emergence.report.summary import suite_summary
from moe_emergence.report.verdicts import is_learned

GAP = numbers.GAP
SMALL = {"steps": 4, "looks": (0, 4)}
LEARNED_IN_3 = {("moe", 42, 3): 0.084}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=96, looks=(0, 5, 96))
    return read_suite(write_suite(tmp_path_factory.mktemp("words") / "planted", planted))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return planted_tables(suite, LEARNED_IN_3)


def box_of(suite: Suite, tables: Tables) -> dict[str, str]:
    """Heading to its sentences."""
    return {answer.heading: " ".join(answer.sentences).replace(GAP, " ") for answer in answers(suite, tables)}


def small(folder: Path, *arms: int, **changes: object) -> Suite:
    planted = quickstart_like(**SMALL)
    chosen = {"arms": tuple(planted.arms[number] for number in arms)} if arms else {}
    return read_suite(write_suite(folder, quickstart_like(**SMALL | chosen | changes)))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.loss(3.8164), "3.816"),
        (numbers.difference(0.0041), "+0.0041"),
        (numbers.difference(-0.0041), "−0.0041"),
        (numbers.difference(-0.00001), "0.0000"),
        (numbers.percent(0.125), "12.5\u00a0%"),
        (numbers.percent(0.7104), "71\u00a0%"),
        (numbers.percent(0.00123), "0.123\u00a0%"),
        (numbers.percent(0.9996), "100\u00a0%"),
        (numbers.percent(0), "0\u00a0%"),
        (numbers.count(983040), "983,040"),
        (numbers.tiny(4.5e-7), "4.5e−07"),
        (numbers.seconds(8.44), "8.4\u00a0s"),
        (numbers.seconds(724), "12\u00a0min 4\u00a0s"),
        (numbers.seconds(3599.9), "1\u00a0h 0\u00a0min"),
        (numbers.number_list((0, 3)), "0, 3"),
        (numbers.number_list(()), "none"),
        (numbers.listed(["a", "b", "c"]), "a, b and c"),
        (numbers.listed(["a"]), "a"),
        (numbers.interval(0.1334, 0.11, -0.0004), "0.133 [0.110, 0.000]"),
        (numbers.difference_interval(-0.003, -0.0061, 0.0002), "−0.0030 [−0.0061, 0.0002]"),
        (numbers.difference_interval(0.003, -0.0011, 0.0062), "+0.0030 [−0.0011, 0.0062]"),
        (numbers.percent_interval(0.084, 0.0713, 0.0959), "8.4\u00a0% [7.1, 9.6]"),
        (numbers.percent_interval(0.0004, -0.0002, 0.0011), "0.04\u00a0% [−0.02, 0.11]"),
        (numbers.points_interval(-0.031, -0.043, -0.0204), "−3.1 [−4.3, −2.0]"),
        (numbers.points_interval(0.031, -0.001, 0.0204), "+3.1 [−0.1, 2.0]"),
        (numbers.percent_range(0.031, 0.052), "3.1 to 5.2\u00a0%"),
        (numbers.percent_range(0.031, 0.0312), "3.1\u00a0%"),
        (numbers.span([0.5, 0.41, 0.52], numbers.decimal), "0.41 to 0.52"),
        (numbers.percent(-0.031), "−3.1\u00a0%"),
        (numbers.signed_percent(0.031), "+3.1\u00a0%"),
        (numbers.signed(-0.0001), "0.000"),
        (numbers.p_value(0.0324), "0.032"),
        (numbers.p_value(0.0004), "<\u00a00.001"),
        (numbers.yes_no(True), "yes"),
        (numbers.yes_no(False), "no"),
        (numbers.plural(1, "seed"), "1\u00a0seed"),
        (numbers.plural(3, "seed"), "3\u00a0seeds"),
    ],
)
def test_numbers_read_as_a_reader_would_write_them(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("show", [numbers.loss, numbers.difference, numbers.percent, numbers.count, numbers.seconds])
def test_an_absent_number_is_a_dash(show) -> None:
    assert show(None) == "–"


def test_titles_say_the_planted_findings(suite: Suite, tables: Tables) -> None:
    titles = {drawing.name: drawing.title.replace(GAP, " ") for drawing in drawings(suite, tables)}
    equal = ", where an equal share is 12.5 %"
    none = "no collapse found in training"
    classes = (
        "in layer 3, experts tell 0.500 [0.480, 0.520] bits of a code token's class, 20.8 % of all there is to tell; "
        "untrained they told 0.333"
    )
    assert titles == {
        "specialisation": (
            "Learned specialisation in 1 of 8 arms × layers: moe layer 3; none in no_lb, top2 and moe_blocks"
        ),
        "information": (
            "moe, layer 3: a token's expert tells 3.5 % of its domain at step 0, 8.4 % at the last; above untrained "
            "gates from step 96 on"
        ),
        "information-differences": (
            "3 of 6 differences to the baseline are beyond chance; largest: no_lb against moe, layer 3: −4.4 [−5.4, "
            "−3.4] points"
        ),
        "heatmap-moe": (
            "moe: in layer 3, 36.0 % [32.4, 39.6] of code assignments go to expert 5, 2.88 times the uniform 12.5 %"
        ),
        "heatmap-no_lb": (
            "no_lb: in layer 2, 93.0 % [83.7, 102.3] of math assignments go to expert 5, 7.44 times the uniform 12.5 %"
        ),
        "heatmap-top2": (
            "top2: in layer 2, 21.0 % [18.9, 23.1] of prose assignments go to expert 0, 1.68 times the uniform 12.5 %"
        ),
        "heatmap-top2-first-choice": (
            "top2: in layer 2, 21.0 % [18.9, 23.1] of prose first choices go to expert 0, 1.68 times the uniform 12.5 %"
        ),
        "heatmap-moe_blocks": (
            "moe_blocks: in layer 3, 15.0 % [13.5, 16.5] of code assignments go to expert 4, 1.20 times the uniform "
            "12.5 %"
        ),
        **{f"token-classes-{arm}": f"{arm}: {classes}" for arm in ("moe", "no_lb", "top2", "moe_blocks")},
        "load-map-moe": f"moe: {none}; expert 5 of layer 3 takes 18.7 % of the tokens{equal}",
        "load-map-no_lb": (
            f"no_lb: layer 2 collapsed at step 96; expert 5 of layer 2 takes 72.3 % of the tokens{equal}"
        ),
        "load-map-top2": f"top2: {none}; expert 0 of layer 2 takes 14.7 % of the assignments{equal}",
        "load-map-moe_blocks": f"moe_blocks: {none}; expert 4 of layer 3 takes 15 % of the tokens{equal}",
        **{f"experts-{kind}": titles[f"experts-{kind}"] for kind in ("effective", "dead", "hot")},  # drawn at random
        "entropy-per-token": (
            "Most certain router: no_lb, layer 2, at 18 % of ln E; least certain: moe_blocks, layer 3, at 93 %"
        ),
        "entropy-of-load": (
            "Least even load: no_lb, layer 2, as if 2.49 of 8 experts shared it; most even: moe_blocks, layer 2, 8.00"
        ),
        "loss-differences": (
            "4 of 4 arms differ in LM loss beyond their intervals; largest: top2 against dense, −0.0192 [−0.0232, "
            "−0.0152] nats a token"
        ),
        "loss": titles["loss"],  # of dev, below
        "loss-domains": titles["loss-domains"],  # the planted arms differ by the same in every domain
    }


@pytest.mark.parametrize(
    ("shares", "half", "expected"),
    [
        ({}, 0.004, "No evidence of learned specialisation in any of 8 arms × layers"),
        (
            {(arm, 42, layer): 0.1 for arm in ("moe", "no_lb", "top2", "moe_blocks") for layer in (2, 3)},
            0.004,
            "Learned specialisation in 8 of 8 arms × layers: moe layers 2 and 3; no_lb layers 2 and 3; top2 layers 2 "
            "and 3; moe_blocks layers 2 and 3",
        ),
        ({}, 0.1, "No arm's LM loss is shown to differ: all 4 intervals include 0"),
        ({}, 0.01, "2 of 4 arms differ in LM loss beyond their intervals; largest: top2 against dense"),
        ({}, 0.004, "No arm's domain information is shown to differ from its baseline's"),
    ],
)
def test_a_title_follows_the_data(
    suite: Suite, shares: Mapping[tuple[str, int, int], float], half: float, expected: str
) -> None:
    titles = [drawing.title.replace(GAP, " ") for drawing in drawings(suite, planted_tables(suite, shares, half))]
    assert any(title.startswith(expected) for title in titles), titles


def test_with_several_seeds_a_title_names_the_seed(tmp_path: Path) -> None:
    suite = small(tmp_path, seeds=(42, 43))
    tables = planted_tables(suite, {("moe", 43, 3): 0.084})
    titles = {drawing.name: drawing.title.replace(GAP, " ") for drawing in drawings(suite, tables)}
    assert titles["specialisation"].startswith(
        "Learned specialisation in 1 of 8 arms × layers on average over 2 seeds: moe layer 3; none in"
    )
    assert titles["information"] == (
        "moe, layer 3: a token's expert tells 3.5 % of its domain at step 0, 6.2 % at the last, mean of 2 seeds; above "
        "untrained gates from step 4 on in 1 of 2 seeds"
    )


def test_layers_whose_experts_were_not_tested_are_named_as_such(suite: Suite, tables: Tables) -> None:
    rows = tuple(
        replace(row, p_specific=None, p_specific_arms=None, verdict=UNTESTED if is_learned(row) else NOT_LEARNED)
        for row in tables.arm_verdicts
    )
    untested = replace(tables, arm_verdicts=rows)
    titles = {drawing.name: drawing.title.replace(GAP, " ") for drawing in drawings(suite, untested)}
    assert titles["specialisation"] == (
        "No evidence of learned specialisation in any of 8 arms × layers; domain information without a test of its "
        "experts: moe layer 3"
    )
    said = box_of(suite, untested)["Specialisation"]
    assert said.startswith(
        "moe: learned domain information, experts not tested in layer 3; no evidence of learned specialisation in "
        "layer 2."
    )
    assert "What rerouting experts costs was not measured in every run, without which none is called" in said


def test_the_domain_with_the_widest_spread_is_named(tables: Tables) -> None:
    arms = list(dict.fromkeys(point.arm for point in tables.loss_over_steps))
    wide = [
        replace(point, lm_loss=3.0 + arms.index(point.arm)) if point.domain == "math" else point
        for point in tables.loss_over_steps
    ]
    assert findings.domain_loss_finding(wide) == "The arms end furthest apart on math: 4.0000 nats a token on dev"


def test_a_title_of_losses_states_where_the_drawn_lines_end(suite: Suite, tables: Tables) -> None:
    shown = {drawing.name: drawing for drawing in drawings(suite, tables)}
    lines = shown["loss"].make().axes[0].lines
    ends = sorted(line.get_ydata()[-1] for line in lines if len(line.get_ydata()))
    best, worst = numbers.loss(ends[0]), numbers.loss(ends[-1])
    assert shown["loss"].title.startswith("On dev, ")
    assert f"lowest at {best} nats a token, no_lb highest at {worst}: {numbers.end(ends[-1] - ends[0])} apart" in (
        shown["loss"].title
    )
    for name in ("loss", "loss-domains"):
        assert "title: test" not in shown[name].reading


def test_losses_of_one_arm_have_numbers_in_each_title(tables: Tables) -> None:
    losses = {"code": 2.0, "math": 3.0, "prose": 4.0, None: 3.0}
    own = [replace(p, lm_loss=losses[p.domain]) for p in tables.loss_over_steps if p.arm == "moe"]
    assert findings.loss_finding(own) == "moe ends at an LM loss of 3.000 nats a token on dev"
    assert findings.domain_loss_finding(own) == (
        "prose is the hardest domain for moe: it ends at 4.000 nats a token on dev, on code at 2.000"
    )


def test_the_answer_leads_with_specialisation_balance_and_loss(suite: Suite, tables: Tables) -> None:
    box = {answer.heading: answer.sentences[0].replace(GAP, " ") for answer in answers(suite, tables)}
    assert box == {
        "Specialisation": (
            "moe: learned specialisation in layer 3; no evidence of learned specialisation in layer 2. A token's "
            "expert tells 4.0 % [3.4, 4.6] in layer 2 (0.063 bits) and 8.4 % [7.8, 9.0] in layer 3 (0.133 bits) of all "
            "there is to know of its domain (H(D) = 1.585 bits); untrained gates on the same hidden states reach 3.0 "
            "to 5.5 % in layer 2 and 3.0 to 5.5 % in layer 3, documents with permuted domains −0.10 to 0.20 %. "
            "Adjusted for layers and arms, the largest p-value against these is 0.800 in layer 2 and 0.005 in layer 3. "
            "That rerouting no expert costs its own domain more than the others has a p-value of 0.003 in layer 2 and "
            "0.003 in layer 3."
        ),
        "Balance": (
            "Without the balance loss, no_lb: max violation 4.79 (layer 2), hot experts: 1 of 8 in layer 2 and 1 of 8 "
            "in layer 3, dead experts: 5 of 8 in layer 2 and 5 of 8 in layer 3, collapse found in training at step 96 "
            "(layer 2); with it, moe: max violation 0.49 (layer 3), no hot or dead expert, no collapse found in "
            "training."
        ),
        "LM loss": (
            "LM loss against dense (3.620 [3.590, 3.650]): lower in moe (−0.0150 [−0.0190, −0.0110]), top2 (−0.0192 "
            "[−0.0232, −0.0152]) and moe_blocks (−0.0090 [−0.0130, −0.0050]); higher in no_lb (+0.0070 [0.0030, "
            "0.0110]). (Held-out test text, after 96 steps, nats a token, mean over 3 domains.)"
        ),
        "Intervals": (
            "Brackets are 95 % intervals over documents of held-out text. Each arm has one seed: what another seed "
            "would show is not in them."
        ),
    }


def test_the_answer_compares_arms_and_names_token_classes(suite: Suite, tables: Tables) -> None:
    said = box_of(suite, tables)["Specialisation"]
    assert "Compared with moe, in percentage points of the same: no_lb 0.0 [−1.0, 1.0] in layer 2 and −4.4" in said
    assert (
        "moe_blocks 0.0 [−1.0, 1.0] in layer 2 and −4.4 [−5.4, −3.4] in layer 3. 3 of these 6 are not shown to "
        "differ from 0 (p ≥ 0.05, Holm over layers)." in said
    )
    assert "top2: no evidence of learned specialisation in any of layers 2 and 3 (up to 4.0 % [3.4, 4.6]" in said
    assert "Within code, moe's experts tell 0.500 [0.480, 0.520] bits of a token's class" in said
    assert "20.8 % of all there is to know, in layer 3: more than chance (p < 0.05, adjusted for layers)." in said
    assert "The same runs' untrained gates, at step 0, told 0.333 [0.313, 0.353] bits." in said
    assert "moe +0.5 [−0.5, 1.5] in layer 2 and +4.9 [3.9, 5.9] in layer 3;" in said
    assert "7 of these 8 are not shown to differ from 0 (p ≥ 0.05, Holm over layers). A change is from one gate" in said


def test_the_best_of_several_layers_must_be_beyond_chance_for_all_of_them(suite: Suite, tables: Tables) -> None:
    chance = tuple(replace(row, p=0.03) for row in tables.class_information)  # 0.06 over two layers
    said = box_of(suite, replace(tables, class_information=chance))["Specialisation"]
    assert "Within code, moe's experts are not shown to tell a token's class beyond chance (up to 0.500 [" in said
    one_layer = tuple(row for row in chance if row.layer == 3)
    assert "more than chance" in box_of(suite, replace(tables, class_information=one_layer))["Specialisation"]


def test_token_classes_over_seeds_are_counted(tmp_path: Path) -> None:
    suite = small(tmp_path, 1, seeds=(42, 43))
    tables = planted_tables(suite)
    mixed = tuple(replace(row, p=0.5, estimate=0.1) if row.seed == 43 else row for row in tables.class_information)
    said = box_of(suite, replace(tables, class_information=mixed))["Specialisation"]
    assert "tell 0.100 to 0.500 bits over 2 seeds of a token's class" in said
    assert "4.2 to 20.8 % of all there is to know, in layer 3: more than chance in 1 of 2 seeds" in said


def test_a_null_is_said_plainly(suite: Suite) -> None:
    said = box_of(suite, planted_tables(suite))["Specialisation"]
    assert said.startswith("moe: no evidence of learned specialisation in any of layers 2 and 3.")
    assert "learned specialisation in" not in said.replace("no evidence of learned specialisation", "")


def test_a_learned_router_is_said_to_have_learned(suite: Suite) -> None:
    shares = {("moe", 42, layer): 0.1 for layer in (2, 3)}
    first = answers(suite, planted_tables(suite, shares))[0].sentences[0]
    assert first.startswith("moe: learned specialisation in layers 2 and 3.")
    assert "no evidence" not in first


def test_over_seeds_the_arm_is_judged_and_single_runs_are_detail(tmp_path: Path) -> None:
    suite = small(tmp_path, seeds=(42, 43, 44))
    shares = {("moe", 42, 3): 0.084, ("moe", 43, 3): 0.081, **{("no_lb", seed, 2): 0.12 for seed in (42, 43, 44)}}
    box = box_of(suite, planted_tables(suite, shares))
    assert box["Specialisation"].startswith(
        "moe: learned specialisation in layer 3; no evidence of learned specialisation in layer 2 on average over 3 "
        "seeds. A token's expert tells 4.0 % [3.4, 4.6] in layer 2 (0.063 bits; single seeds 4.0 %) and 6.8 % [6.2, "
        "7.4] in layer 3 (0.108 bits; single seeds 4.0 to 8.4 %) of all"
    )
    assert "untrained gates on the same hidden states, 3 at a time averaged, reach 3.0" in box["Specialisation"]
    assert "no_lb: learned specialisation in layer 2; no evidence" in box["Specialisation"]
    assert (
        "Taken alone, single runs differ from their arm: moe in 1 of 3 runs (layer 3 of seed 44). Learned "
        "specialisation in a run alone: 5 of 12 runs; at 5 % each 0.6 are expected by chance."
    ) in box["Specialisation"]
    assert "max violation 4.79 over 3 seeds, hot experts in 3 of 3 seeds (up to 1 of 8 in a layer)" in box["Balance"]
    assert "moe (−0.0150 [−0.0190, −0.0110]; single seeds −0.0150)" in box["LM loss"]
    assert "dense (3.621 [3.591, 3.651], mean of 3 seeds)" in box["LM loss"]
    assert "They hold for these seeds" in box["Intervals"]


def test_one_lucky_run_makes_no_arm(tmp_path: Path) -> None:
    """Of 12 runs one beats both nulls: what chance alone gives nearly every other time."""
    suite = small(tmp_path, seeds=(42, 43, 44))
    tables = planted_tables(suite, {("moe", 43, 3): 0.08})
    box = box_of(suite, tables)["Specialisation"]
    assert box.startswith(
        "moe: no evidence of learned specialisation in any of layers 2 and 3 on average over 3 seeds."
    )
    assert "moe in 1 of 3 runs (layer 3 of seed 43). Learned specialisation in a run alone: 1 of 12 runs; at" in box
    titles = {drawing.name: drawing.title.replace(GAP, " ") for drawing in drawings(suite, tables)}
    assert titles["specialisation"] == (
        "No evidence of learned specialisation in any of 8 arms × layers on average over 3 seeds"
    )


def test_changes_and_differences_show_their_seeds(tmp_path: Path) -> None:
    """A mean of three is beyond chance over documents while one seed shows nothing: the reader sees both."""
    suite = small(tmp_path, seeds=(42, 43, 44))
    tables = planted_tables(suite, {("moe", seed, 3): share for seed, share in ((42, 0.036), (43, 0.19), (44, 0.1))})
    box = box_of(suite, tables)["Specialisation"]
    assert "+7.4 [6.4, 8.4] (single seeds +0.1 to +15.5) in layer 3" in box
    assert "no_lb 0.0 [−1.0, 1.0] (single seeds 0.0) in layer 2 and −6.9 [−7.9, −5.9] (single seeds −15.0 to" in box
    assert "not shown to differ from 0 on these seeds (over documents, p ≥ 0.05, Holm over layers)" in box
    sure = tuple(replace(row, p_holm=0.01) for row in tables.information_changes)
    box = box_of(suite, replace(tables, information_changes=sure))["Specialisation"]
    assert "All are beyond chance on these seeds (over documents, p < 0.05, Holm over layers)." in box
    titles = {drawing.name: drawing.title.replace(GAP, " ") for drawing in drawings(suite, tables)}
    assert "are beyond chance on these seeds; largest" in titles["information-differences"]


def test_a_difference_whose_interval_includes_zero_is_not_called_one(suite: Suite) -> None:
    said = box_of(suite, planted_tables(suite, half=0.01))["LM loss"]
    assert "lower in moe (−0.0150 [−0.0250, −0.0050]) and top2" in said
    assert "not shown to differ (the interval includes 0) in no_lb (+0.0070 [−0.0030, 0.0170]) and moe_blocks" in said
    assert "higher" not in said


MARGIN = "within the ±0.01 nats fixed beforehand as no difference that matters"


def with_margin(tables: Tables, *equivalent: str) -> Tables:
    """The tables with a test of every loss difference against a margin, passed by the arms that are named."""
    rows = [
        row_of(
            EquivalenceRow, arm=row.arm, against=row.against, domain=row.domain, margin=0.01,
            equivalent=row.arm in equivalent,
        )
        for row in tables.loss_differences
    ]  # fmt: skip
    return replace(tables, equivalence=tuple(rows))


@pytest.mark.parametrize(
    ("equivalent", "expected"),
    [
        (("moe", "no_lb", "top2", "moe_blocks"), f"; all {MARGIN}"),
        ((), f"; none shown to be {MARGIN}"),
        (("moe", "top2"), f"; {MARGIN}: moe and top2; not shown to be: no_lb and moe_blocks"),
    ],
)
def test_a_difference_is_said_to_matter_or_not(
    suite: Suite, tables: Tables, equivalent: tuple[str, ...], expected: str
) -> None:
    tested = with_margin(tables, *equivalent)
    assert f"0.0110]){expected}. (Held-out" in box_of(suite, tested)["LM loss"]
    title = next(drawing.title for drawing in drawings(suite, tested) if drawing.name == "loss-differences")
    assert f"beyond their intervals{expected}; largest: top2" in title.replace(GAP, " ")
    assert "fixed beforehand" not in box_of(suite, tables)["LM loss"]


def test_a_collapse_over_seeds_is_of_each_seeds_first_layer(tmp_path: Path) -> None:
    suite = small(tmp_path, 2, seeds=(42, 43))
    events = [CollapseEvent(step=step, layer=layer, state="collapsed", reason="") for step, layer in ((2, 3), (4, 2))]
    runs = tuple(replace(run, collapses=tuple(events[number:])) for number, run in enumerate(suite.runs))
    said = box_of(replace(suite, runs=runs), planted_tables(suite))["Balance"]
    assert "collapse found in training in 2 of 2 seeds, first at steps 2 to 4" in said


def test_without_a_dense_arm_each_is_compared_with_its_baseline(tmp_path: Path) -> None:
    suite = small(tmp_path, 1, 2, 4)
    said = box_of(suite, planted_tables(suite))["LM loss"]
    assert said.startswith("LM loss against moe (3.605 [3.575, 3.635]): higher in no_lb (+0.0220 [0.0180, 0.0260])")
    assert "dense" not in said


def test_a_single_arm_is_compared_with_none(tmp_path: Path) -> None:
    suite = small(tmp_path, 1)
    box = box_of(suite, planted_tables(suite))
    assert box["LM loss"] == (
        "LM loss: moe 3.605 [3.575, 3.635]. (Held-out test text, after 4 steps, nats a token, mean over 3 domains.)"
    )
    assert box["Balance"].startswith("moe: max violation 0.49 (layer 3), no hot or dead expert")
    assert "Compared with" not in box["Specialisation"]


def test_dense_alone_has_its_loss_alone(tmp_path: Path) -> None:
    suite = small(tmp_path, 0)
    assert list(box_of(suite, planted_tables(suite))) == ["LM loss", "Intervals"]


def test_with_one_domain_specialisation_is_said_not_to_be_measured(suite: Suite, tables: Tables) -> None:
    none = replace(
        tables, arm_verdicts=(), verdicts=(), information=(), information_differences=(), shares=(),
        first_choice_shares=(),
    )  # fmt: skip
    said = box_of(suite, none)["Specialisation"]
    assert said == "Not measured: it takes two domains, each with two held-out documents or more."


def test_losses_without_intervals_are_still_given(suite: Suite, tables: Tables) -> None:
    said = box_of(suite, replace(tables, arm_losses=(), loss_differences=()))["LM loss"]
    assert said.startswith("LM loss on test, nats a token, without intervals for want of documents: dense 3.620, moe")


def test_a_collapse_that_ended_is_said_to_have_ended(tmp_path: Path) -> None:
    planted = quickstart_like(steps=6, looks=(0, 6))
    states = [
        {"event": "collapse", "step": 2, "layer": 3, "state": "collapsed", "reason": "x"},
        {"event": "collapse", "step": 4, "layer": 3, "state": "healthy", "reason": "x"},
    ]
    suite = small(tmp_path, arms=(planted.arms[0], replace(planted.arms[1], events=states)), steps=6, looks=(0, 6))
    assert (
        "collapse found in training at step 2 (layer 3, ended since)."
        in box_of(suite, planted_tables(suite))["Balance"]
    )


def test_a_warning_at_the_end_is_named(tmp_path: Path) -> None:
    planted = quickstart_like(**SMALL)
    warned = [{"event": "collapse", "step": 3, "layer": 2, "state": "warning", "reason": "x"}]
    suite = small(tmp_path, arms=(planted.arms[0], replace(planted.arms[1], events=warned)))
    said = box_of(suite, planted_tables(suite))["Balance"]
    assert "The collapse detector stood at a warning at the end of training in moe, layer 2" in said


def test_training_too_short_for_the_detector_is_said_to_be(tmp_path: Path, suite: Suite, tables: Tables) -> None:
    short = small(tmp_path, 0, 1, 3)  # 4 steps of 16 × 256 tokens
    said = box_of(short, planted_tables(short))["Balance"]
    assert "In moe and top2 training was too short for a collapse to be found: the detector needs 2 windows" in said
    assert "65,536 assignments" in said
    assert "too short" not in box_of(suite, tables)["Balance"]  # 96 steps: 6 windows


def test_an_unbalanced_arm_alone_stands_against_none(tmp_path: Path) -> None:
    suite = small(tmp_path, 2)
    said = box_of(suite, planted_tables(suite))["Balance"]
    assert said.startswith("Without the balance loss, no_lb: max violation 4.79 (layer 2)")
    assert "with it" not in said


def test_max_violation_is_explained_for_the_slots_there_are(tmp_path: Path) -> None:
    arm = PlantedArm(name="four", moe=MoEConfig(num_experts=8, top_k=4), shares=quickstart_like().arms[4].shares)
    suite = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), **SMALL)))
    assert "0 at balance, 1.00 when 4 experts take everything." in box_of(suite, planted_tables(suite))["Balance"]


def test_a_first_look_is_too_short_for_conclusions(tmp_path: Path) -> None:
    suite = small(tmp_path, conclusive=False, note="cut to 4 steps")
    summary = suite_summary(suite, planted_tables(suite))
    assert summary.warning == "Too short for conclusions (cut to 4 steps)."
    assert summary.sentences[0].startswith("moe: no evidence of learned specialisation")


def test_a_conclusive_suite_carries_no_warning(suite: Suite) -> None:
    assert too_short(suite) is None


def test_a_run_that_a_collapse_ended_is_named_with_its_step(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(**SMALL))
    path = folder / "no_lb/seed-42/metrics.jsonl"
    path.write_text(path.read_text("utf-8").replace('"reason": "finished"', '"reason": "collapse"'), "utf-8")
    config = folder / "no_lb/seed-42/config.json"
    config.write_text(config.read_text("utf-8").replace('"steps": 4', '"steps": 9'), "utf-8")
    suite = read_suite(folder)
    tables = planted_tables(suite)
    said = box_of(suite, tables)["Ended early"]
    assert said == "no_lb, seed 42: at step 4 of 9, because of collapse; its numbers are of that step."
    assert next(row.status for row in tables.runs if row.arm == "no_lb") == "stopped: collapse"


def test_skipped_steps_and_inexact_continuations_are_named(tmp_path: Path, suite: Suite, tables: Tables) -> None:
    """And a run that has neither is not."""
    arm = replace(
        quickstart_like().arms[1],
        baseline=None,
        changes={},
        events=[{"event": "skipped", "step": step, "cause": "lm_loss not finite", "in_a_row": 1} for step in (2, 3)],
        inexact=[
            {
                "step": 1,
                "changes": [{"name": "threads", "then": 2, "now": 1}],
                "config_digest": "0" * 64,
                "data_digest": "d" * 64,
            }
        ],
    )
    odd = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), **SMALL)))
    said = box_of(odd, planted_tables(odd))
    assert said["Skipped steps"] == f"{arm.name}, seed 42: no update at step 2 and 3 (lm_loss not finite)."
    assert said["Continued inexactly"] == (
        f"{arm.name}, seed 42: from step 1 on with other conditions (threads 2 → 1). "
        "Its numbers are not those of an uninterrupted run."
    )
    assert odd.runs[0].steps.tolist() == [1, 4]
    assert not {"Skipped steps", "Continued inexactly"} & set(box_of(suite, tables))


def test_missing_runs_are_named_in_the_answer(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, quickstart_like(**SMALL))
    (folder / "top2/seed-42/config.json").unlink()
    (folder / "top2/seed-42/metrics.jsonl").unlink()
    suite = read_suite(folder)
    sentences = suite_summary(suite, planted_tables(suite)).sentences
    assert "top2, seed 42: not started. Nothing on this page includes it." in sentences


def test_the_terminal_gets_strings_only(suite: Suite, tables: Tables) -> None:
    losses, routing, arms, verdicts = suite_summary(suite, tables).tables
    assert losses.columns[:3] == ("arm", "LM loss, mean of domains", "minus dense")
    assert losses.rows[1][:3] == ("moe", "3.605", "−0.0150")
    assert losses.numeric[:2] == (False, True)
    assert routing.rows[2][:3] == ("no_lb", "2", "72.3\u00a0%")
    assert verdicts.rows[1][:3] == ("moe", "3", "learned specialisation")
    assert arms.rows[1][:4] == ("moe", "3", "learned specialisation", "8.4\u00a0%")
    assert all(
        isinstance(cell, str) for table in (losses, routing, arms, verdicts) for row in table.rows for cell in row
    )


def test_arms_that_ended_at_other_steps_are_marked(suite: Suite, tables: Tables) -> None:
    early = tuple(replace(row, step=12) if row.arm == "no_lb" else row for row in tables.loss_differences)
    apart = tuple(replace(row, step=12) if row.arm == "no_lb" else row for row in tables.information_differences)
    said = box_of(suite, replace(tables, loss_differences=early, information_differences=apart))
    assert "no_lb (+0.0070 [0.0030, 0.0110]; at step 12 against 96)" in said["LM loss"]
    assert "in layer 3 (at step 12 against 96); top2" in said["Specialisation"]


def test_seeds_are_counted_where_arms_have_different_ones(suite: Suite, tables: Tables) -> None:
    uneven = tuple(replace(row, seeds=1 if row.arm == "top2" else 2) for row in tables.information_differences)
    said = box_of(suite, replace(tables, information_differences=uneven))["Specialisation"]
    assert "no_lb (2 seeds) 0.0 [−1.0, 1.0] (single seeds 0.0) in layer 2" in said
    assert "top2 (1 seed) " in said


def test_an_arm_that_cannot_be_paired_is_still_named(suite: Suite, tables: Tables) -> None:
    alone = tuple(row for row in tables.loss_differences if row.arm != "moe" and row.against != "moe")
    said = box_of(suite, replace(tables, loss_differences=alone))["LM loss"]
    assert "Compared with nothing: moe 3.605 [3.575, 3.635]." in said
