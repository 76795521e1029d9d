"""The four sentences that open the page: what was planted is what they say, and what is not there they say too."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import PlantedArm, PlantedSuite, quickstart_like, spread, write_suite

from moe_emergence.analysis.causal.specificity import SpecificityDraws, SpecificityRow
from moe_emergence.analysis.oracle import OracleGainRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import NOT_LEARNED, UNTESTED
from moe_emergence.analysis.tables import Tables, make_tables
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.config import MoEConfig
from moe_emergence.report.lead import balanced_arms, lead, unbalanced_arms
from moe_emergence.report.numbers import GAP

SMALL = {"steps": 4, "looks": (0, 4)}
Small = Callable[..., Suite]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """`small(0, 2, seeds=…)`: a suite of the quickstart's arms with these numbers."""

    def made(*arms: int, **changes: object) -> Suite:
        planted = quickstart_like(**SMALL)
        chosen = {"arms": tuple(planted.arms[number] for number in arms)} if arms else {}
        folder = tmp_path_factory.mktemp("lead") / "suite"
        return read_suite(write_suite(folder, quickstart_like(**SMALL | chosen | changes)))

    return made


@pytest.fixture(scope="module")
def suite(small: Small) -> Suite:
    return small()


def said(suite: Suite, tables: Tables) -> list[str]:
    """The sentences, none of more than 30 words."""
    sentences = [sentence.replace(GAP, " ") for sentence in lead(suite, tables)]
    assert len(sentences) == 4
    for sentence in sentences:
        assert len(sentence.split()) <= 30, sentence
        assert sentence.endswith(".")
    return sentences


def judged(tables: Tables, **values: object) -> Tables:
    """The tables with every arm's verdict rows changed."""
    return replace(tables, arm_verdicts=tuple(replace(row, **values) for row in tables.arm_verdicts))


def balanced_again(tables: Tables) -> Tables:
    """Without hot or dead experts."""
    return replace(tables, routing=tuple(replace(row, hot=(), dead=()) for row in tables.routing))


def gains(**values: float | None) -> tuple[OracleGainRow, ...]:
    known = {"arm": "moe", "oracle": "oracle", "seeds": 1, "oracle_gain": 0.045, "oracle_low": 0.03,
             "oracle_high": 0.06, "gain": 0.0167, "low": 0.0135, "high": 0.0198, "share": 0.37,
             "share_low": 0.3, "share_high": 0.44}  # fmt: skip
    return (row_of(OracleGainRow, **known | values),)


NO_GAIN = {"oracle_gain": 0.001, "oracle_low": -0.002, "oracle_high": 0.004} | dict.fromkeys(
    ("share", "share_low", "share_high")
)
LEARNED = {("moe", 42, 3): 0.084}


def split_row(arm: str, step: int = 4, layer: int = 3, seed: int = 42, **values: float) -> TokenSplitRow:
    """A row whose numbers are 0 but for `values`."""
    zeros = {field.name: 0 for field in fields(TokenSplitRow)}
    names = {"arm": arm, "seed": seed, "step": step, "layer": layer, "counted": "first choice", "x": "token id"}
    return TokenSplitRow(**zeros | names | values)


TOKEN = {"token_information": 0.8, "token_low": 0.75, "token_high": 0.85, "token_p": 0.005, "ids": 40,
         "token_share": 0.3, "token_low_share": 0.28, "token_high_share": 0.32}  # fmt: skip
DOMAIN = {
    "domain_given_token": 0.02,
    "domain_given_token_low": 0.01,
    "domain_given_token_high": 0.03,
    "domain_given_token_share": 0.016,
    "domain_given_token_low_share": 0.008,
    "domain_given_token_high_share": 0.024,
    "domain_given_token_p": 0.005,
    "share_of_tokens": 0.4,
}


def test_four_sentences_with_the_planted_numbers_and_intervals(suite: Suite) -> None:
    tables = planted_tables(suite, LEARNED)
    specialise, gained, cost, topic = said(
        suite, replace(tables, token_split=(split_row("moe", **TOKEN | DOMAIN),), oracle_gains=gains())
    )
    assert specialise == (
        "Yes: in layer 3 of moe, a token's expert tells 8.4 % [7.8, 9.0] of its domain; untrained gates rarely over "
        "5.5 %."
    )
    assert gained == "moe wins 37.0 % [30.0, 44.0] of what routing by domain gains over dense in LM loss."
    assert cost == (
        "Without balancing (no_lb), up to 5 of a layer's 8 experts die; LM loss rises by 0.0220 [0.0180, 0.0260] nats "
        "per token against moe."
    )
    assert topic == (
        "Layer 3 of moe goes by the token id and, for one id, by the domain (1.6 % [0.8, 2.4] of what ids leave open)."
    )


def test_of_several_seeds_it_is_said_that_they_are_averaged(small: Small) -> None:
    suite = small(0, 1, 2, seeds=(42, 43))
    rows = (
        split_row("moe", **TOKEN | DOMAIN),
        split_row("moe", seed=43, **TOKEN | DOMAIN | {"domain_given_token_share": 0.02}),
    )
    tables = planted_tables(suite, {("moe", 42, 3): 0.084, ("moe", 43, 3): 0.06})
    specialise, gained, cost, topic = said(suite, replace(tables, token_split=rows, oracle_gains=gains(seeds=2)))
    assert " tells 7.2 % [6.6, 7.8] of its domain on average over 2 seeds; untrained" in specialise
    assert gained.endswith("in LM loss, on average over 2 seeds.")
    assert "up to 5 of a layer's 8 experts die (2 of 2 seeds); LM loss rises" in cost
    assert topic.endswith("by the domain, in all 2 seeds (1.6 to 2.0 % of what ids leave open).")


@pytest.mark.parametrize("seeds", [(42,), (42, 43, 44, 45, 46)])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"p_specific_arms": 0.4, "verdict": NOT_LEARNED},
            "Unproven: layer 3 of moe tells 8.4 % [7.8, 9.0] of the domain, beyond untrained gates, but no expert is "
            "shown to matter more to one domain.",
        ),
        (
            {"p_specific": None, "p_specific_arms": None, "verdict": UNTESTED},
            "Untested: layer 3 of moe tells 8.4 % [7.8, 9.0] of the domain, beyond untrained gates, but what rerouting "
            "experts costs was not measured.",
        ),
        (
            {"p_fresh_end_arms": 0.4, "verdict": NOT_LEARNED},
            "No evidence: layer 3 of moe tells most, 8.4 % [7.8, 9.0] of the domain, not shown to be beyond "
            "untrained gates and chance.",
        ),
    ],
)
def test_what_is_missing_is_said(small: Small, seeds: tuple[int, ...], values: dict, expected: str) -> None:
    suite = small(0, 1, 2, seeds=seeds)
    shares = {("moe", seed, layer): 0.084 - 0.01 * (layer == 2) for seed in seeds for layer in (2, 3)}
    tables = judged(planted_tables(suite, shares), **values)
    over = f" over {len(seeds)} seeds" if len(seeds) > 1 else ""
    assert said(suite, tables)[0] == expected.replace("of the domain", f"of the domain{over}")


def test_a_test_of_some_runs_is_not_said_to_be_of_none(suite: Suite) -> None:
    tables = judged(planted_tables(suite, LEARNED), p_specific=None, p_specific_arms=None, verdict=UNTESTED)
    some = replace(tables, specificity=(row_of(SpecificityRow, arm="moe"),))
    assert said(suite, some)[0].endswith("but what rerouting experts costs was not measured in every run.")


def test_the_numbers_are_of_a_layer_that_learned(suite: Suite) -> None:
    """A layer whose hidden states give the domain away tells more, and says nothing of what was learned."""
    tables = planted_tables(suite, {("moe", 42, 2): 0.084})
    high = tuple(
        replace(row, corrected=0.3, corrected_share=0.19) if row.layer == 3 else row for row in tables.arm_verdicts
    )
    assert (
        "in layer 2 of moe, a token's expert tells 8.4 % [7.8, 9.0]"
        in said(suite, replace(tables, arm_verdicts=high))[0]
    )


@pytest.mark.parametrize("learned", [True, False])
def test_a_hot_expert_of_a_balanced_arm_is_a_collapse(small: Small, learned: bool) -> None:
    """Whatever the other layer's verdict is, unless that one is specialised and whole."""
    suite = small(0, 1, 2, seeds=(42, 43))
    shares = {("moe", seed, 2): 0.2 for seed in (42, 43)} if learned else {}
    tables = planted_tables(suite, shares)
    routing = tuple(
        replace(row, hot=(5,), max_load=0.7, excess=0.66) if (row.arm, row.seed, row.layer) == ("moe", 43, 2) else row
        for row in tables.routing
    )
    assert said(suite, replace(tables, routing=routing))[0] == (
        "Collapsed: in layer 2 of moe, though balanced, the busiest expert takes 70.0 % of assignments (in 1 of 2 "
        "seeds); no specialisation is claimed."
    )
    shares = {("moe", seed, layer): 0.2 for seed in (42, 43) for layer in (2, 3)}
    whole = said(suite, replace(planted_tables(suite, shares), routing=routing))[0]
    assert whole.startswith("Yes: in layer 3 of moe"), "the other layer has no hot expert"


def test_an_oracle_that_loses_is_said_to_lose(suite: Suite) -> None:
    worse = NO_GAIN | {"oracle_gain": -0.03, "oracle_low": -0.04, "oracle_high": -0.02}
    specialise, *_ = said(suite, replace(planted_tables(suite), oracle_gains=gains(**worse)))
    assert "routing by domain loses 0.0300 [0.0200, 0.0400] nats per token over dense" in specialise


def test_an_oracle_without_gain_leaves_nothing_to_specialise_for(suite: Suite) -> None:
    tables = replace(planted_tables(suite), oracle_gains=gains(**NO_GAIN))
    specialise, gained, *_ = said(suite, tables)
    assert specialise == (
        "No evidence, and nothing to specialise for is shown: routing by domain gains +0.0010 [−0.0020, 0.0040] nats "
        "per token over dense."
    )
    assert gained == (
        "moe gains +0.0167 [0.0135, 0.0198] nats per token over dense; routing by domain is not shown to gain, so no "
        "share is given."
    )
    learned = replace(planted_tables(suite, LEARNED), oracle_gains=gains(**NO_GAIN))
    assert said(suite, learned)[0].startswith("Yes: "), "what is shown is said whatever it is good for"


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ((0.37, 0.3, 0.44), "moe wins 37.0 % [30.0, 44.0] of what routing by domain gains over dense in LM loss"),
        (
            (0.03, -0.05, 0.11),
            "moe is not shown to win any of what routing by domain gains over dense in LM loss: 3.0 % [−5.0, 11.0]",
        ),
        (
            (-0.12, -0.2, -0.05),
            "moe loses where routing by domain gains: −12.0 % [−20.0, −5.0] of that gain over dense in LM loss",
        ),
    ],
)
def test_the_share_of_the_oracle_s_gain(suite: Suite, share: tuple, expected: str, seeds: int) -> None:
    names = ("share", "share_low", "share_high")
    row = gains(seeds=seeds, **dict(zip(names, share, strict=True)))
    over = ", on average over 5 seeds" if seeds > 1 else ""
    assert said(suite, replace(planted_tables(suite), oracle_gains=row))[1] == f"{expected}{over}."


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (0.004, "moe's LM loss is 0.0150 [0.0110, 0.0190] nats per token lower than dense's"),
        (0.05, "moe's LM loss is not shown to differ from dense's, −0.0150 [−0.0650, 0.0350] nats per token"),
    ],
)
def test_without_an_oracle_the_loss_stands_against_dense(suite: Suite, half: float, expected: str) -> None:
    gained = said(suite, planted_tables(suite, half=half))[1]
    assert gained == f"{expected}; no arm is routed by domain to compare with."


def test_without_dense_or_documents_no_gain_is_known(small: Small, suite: Suite) -> None:
    alone = small(1, 2)
    assert said(alone, planted_tables(alone))[1] == (
        "What experts gain is not known: no arm without experts has a result."
    )
    none = replace(planted_tables(suite), loss_differences=())
    assert said(suite, none)[1] == (
        "What experts gain is not known: moe and dense share no seed, or test documents are too few."
    )
    assert said(suite, none)[2].endswith("; what that costs is not known, for want of documents.")


def test_a_loss_that_is_not_shown_to_differ_is_not_called_a_cost(small: Small) -> None:
    suite = small(0, 1, 2, seeds=(42, 43, 44, 45, 46))
    cost = said(suite, planted_tables(suite, half=0.05))[2]
    assert cost.endswith(
        "die (5 of 5 seeds); LM loss shows no clear change: +0.0220 [−0.0280, 0.0720] nats per token against moe."
    )
    fallen = replace(
        planted_tables(suite),
        loss_differences=tuple(
            replace(row, difference=-0.02, low=-0.03, high=-0.01) for row in planted_tables(suite).loss_differences
        ),
    )
    assert "LM loss falls by 0.0200 [0.0100, 0.0300] nats per token against moe." in said(suite, fallen)[2]
    assert said(suite, balanced_again(fallen))[2].startswith("Without balancing (no_lb), no expert dies; LM loss falls")


@pytest.mark.parametrize("seeds", [(42,), (42, 43, 44, 45, 46)])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "goes by the token id and, for one id, by the domain"),
        ({"domain_given_token_p": 0.4}, "goes by the token id alone, as far as is shown"),
        ({"domain_given_token_p": 0.4, "token_p": 0.4}, "goes by neither token id nor domain, as far as is shown"),
        ({"token_p": 0.4}, "goes by the domain, not shown by the token id"),
    ],
)
def test_what_the_expert_depends_on_is_decided_by_nulls(
    small: Small, values: dict, expected: str, seeds: tuple[int, ...]
) -> None:
    suite = small(0, 1, 2, seeds=seeds)
    rows = tuple(split_row("moe", seed=seed, **TOKEN | DOMAIN | values) for seed in seeds)
    topic = said(suite, replace(planted_tables(suite), token_split=rows))[3]
    assert topic.startswith(f"Layer 3 of moe {expected}{', in all 5 seeds' if len(seeds) > 1 else ''} (1.6 % ")


def test_seeds_that_differ_are_not_spoken_of_as_one(small: Small) -> None:
    suite = small(0, 1, 2, seeds=(42, 43))
    rows = (split_row("moe", **TOKEN | DOMAIN), split_row("moe", seed=43, **TOKEN | DOMAIN | {"token_p": 0.4}))
    assert said(suite, replace(planted_tables(suite), token_split=rows))[3] == (
        "Whether layer 3 of moe goes by token id or domain differs among its 2 seeds (1.6 % of what ids leave open)."
    )


UNKNOWN = "Whether experts go by the token or by the domain is not known: "


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (
            (0,),
            (
                "Not known: no run with a result has experts.",
                "What experts gain is not known: no run with a result has experts.",
                "What no balancing costs is not known: no run with a result has experts.",
                f"{UNKNOWN}no run with a result has experts.",
            ),
        ),
        (
            (1,),
            (
                "No evidence: layer 2 of moe tells most, 4.0 % [3.4, 4.6] of the domain, not shown to be beyond "
                "untrained gates and chance.",
                "What experts gain is not known: no arm without experts has a result.",
                "What no balancing costs is not known: no arm without balancing has a result.",
                f"{UNKNOWN}too few token ids are frequent in two domains, or it was not measured.",
            ),
        ),
        (
            (2,),
            (
                "Collapsed: in layer 2 of no_lb the busiest expert takes 72.3 % of assignments; no specialisation is "
                "claimed.",
                "What experts gain is not known: no arm without experts has a result.",
                "Without balancing (no_lb), up to 5 of a layer's 8 experts die; what that costs is not known: no "
                "balanced arm has a result.",
                f"{UNKNOWN}too few token ids are frequent in two domains, or it was not measured.",
            ),
        ),
    ],
)
def test_what_a_suite_cannot_tell_is_said_not_to_be_known(small: Small, arms: tuple, expected: tuple) -> None:
    suite = small(*arms)
    assert tuple(said(suite, planted_tables(suite))) == expected


def test_routers_that_do_not_learn_are_never_spoken_of_as_specialised(small: Small) -> None:
    planted: PlantedSuite = quickstart_like(**SMALL)
    for router in ("frozen", "hash", "round_robin", "domain"):
        assigned = replace(planted.arms[1], moe=MoEConfig(layers=(2, 3), router=router))
        suite = small(arms=(planted.arms[0], assigned))
        told = said(suite, planted_tables(suite, {("moe", 42, 3): 0.3}))
        assert told[0] == "Not known: no run with a result has a router that learns."


OWN = np.stack([spread(8, {0: 0.5, 1: 0.45}), spread(8, {2: 0.5, 3: 0.45}), spread(8, {4: 0.5, 5: 0.45})])


def caused(runs: Sequence[Run], value: float) -> dict[str, list[SpecificityDraws]]:
    """What rerouting told of runs: `value`, where dealt domains give 0 to 0.998."""
    null = tuple(number / 1000 for number in range(999))
    draws = [
        SpecificityDraws(arm=run.arm, seed=run.seed, step=run.last_step, layer=layer, mean_value=value, null=null)
        for run in runs
        for layer in run.manifest.moe_layers
    ]
    return {"specificity_draws": draws}


@pytest.mark.parametrize(
    ("router", "value", "best", "begins", "gained"),
    [
        ("learned", 1.0, 3.5, "Yes: in layer 2 of moe, a token's expert tells ", "moe wins "),
        ("learned", 0.5, 3.5, "Unproven: layer 2 of moe tells ", "moe wins "),
        ("learned", 1.0, 3.62, "Yes: in layer 2 of moe, a token's expert tells ", "moe gains +0.0400 ["),
        ("frozen", 1.0, 3.5, "Not known: no run with a result has a router that learns.", "What experts gain is not"),
    ],
)
def test_from_planted_records_to_the_first_lines(
    small: Small, monkeypatch: pytest.MonkeyPatch, router: str, value: float, best: float, begins: str, gained: str
) -> None:
    """Records and what rerouting told, no more: specialised, without cause, an oracle without gain, a frozen gate."""
    moe = MoEConfig(layers=(2,), router=router)
    arms = (
        PlantedArm(name="dense", loss=3.62),
        PlantedArm(name="moe", moe=moe, shares={2: OWN}, loss=3.58),
        PlantedArm(name="by_domain", moe=replace(moe, router="domain"), shares={2: OWN}, loss=best),
    )
    suite = small(arms=arms, seeds=(42, 43))
    monkeypatch.setattr("moe_emergence.analysis.tables.measures_of_runs", lambda runs, *_: caused(runs, value))
    told = said(suite, make_tables(suite))
    assert told[0].startswith(begins)
    assert told[1].startswith(gained)


def test_collapsed_records_are_said_to_be(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    one = np.stack([spread(8, {5: 0.9}), spread(8, {5: 0.8}), spread(8, {5: 0.7})])
    suite = small(arms=(PlantedArm(name="moe", moe=MoEConfig(layers=(2,)), shares={2: one}),))
    monkeypatch.setattr("moe_emergence.analysis.tables.measures_of_runs", lambda runs, *_: caused(runs, 1.0))
    assert said(suite, make_tables(suite))[0] == (
        "Collapsed: in layer 2 of moe, though balanced, the busiest expert takes 80.0 % of assignments; no "
        "specialisation is claimed."
    )


def test_one_domain_cannot_be_told_from_another(suite: Suite) -> None:
    tables = replace(planted_tables(suite), arm_verdicts=(), verdicts=(), information=())
    assert said(suite, tables)[0] == ("Not known: it takes two domains, each with two held-out documents or more.")


def test_a_bias_balances_and_a_hash_does_not_learn(small: Small) -> None:
    planted: PlantedSuite = quickstart_like(**SMALL)
    bias = replace(planted.arms[2], name="bias", moe=MoEConfig(layers=(2, 3), balance_coef=0.0, bias_rate=1e-3))
    hashed = replace(planted.arms[2], name="hash", moe=MoEConfig(layers=(2, 3), router="hash"))
    suite = small(arms=(bias, hashed, planted.arms[2]))
    assert (balanced_arms(suite), unbalanced_arms(suite)) == (["bias"], ["no_lb"])


def test_the_page_opens_with_them_and_folds_the_rest(suite: Suite, tmp_path: Path) -> None:
    from planted_measures import undrawn

    from moe_emergence.report.page import write_report

    with undrawn():
        page = write_report(replace(suite, folder=tmp_path), planted_tables(suite)).read_text("utf-8")
    box = page[page.index('id="answer"') : page.index("</header>")]
    assert box.index('<ol class="lead">') < box.index("<details") < box.index("<dt>Specialisation</dt>")
    assert box.count("<li>") == 4
