"""The three sentences that open the page: what was planted is what they say, and what is not there they say too."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import PlantedSuite, quickstart_like, write_suite

from moe_emergence.analysis.equivalence import EquivalenceRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
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
    return [sentence.replace(GAP, " ") for sentence in lead(suite, tables)]


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


def test_three_sentences_with_the_planted_numbers_and_intervals(suite: Suite) -> None:
    tables = planted_tables(suite, {("moe", 42, 3): 0.084, ("top2", 42, 2): 0.07})
    begun = split_row("moe", step=0, token_share=0.26, domain_given_token_share=0.012)
    specialise, cost, topic = said(suite, replace(tables, token_split=(begun, split_row("moe", **TOKEN | DOMAIN))))
    assert specialise.startswith("moe, balanced, shows learned specialisation in layer 3; no evidence of learned")
    assert "8.4 % [7.8, 9.0] in layer 3 (0.133 bits)" in specialise
    assert "untrained gates on the same hidden states reach 3.0 to 5.5 %" in specialise
    assert "documents with permuted domains −0.10 to 0.20 %" in specialise
    assert specialise.endswith("it is shown by top2 in layer 2 and moe_blocks in no layer.")
    assert cost.startswith("Without balancing, no_lb: max violation 4.79 (layer 2), ")
    assert "with it, moe: max violation 0.49 (layer 3)" in cost
    assert cost.endswith("LM loss against moe, nats a token, is higher in no_lb (+0.0220 [0.0180, 0.0260]).")
    assert topic == (
        "In layer 3 of moe, the expert depends on the token id and, for one id, on the domain: the id tells 0.800 "
        "[0.750, 0.850] bits of the expert, 30.0 % of H(E) (untrained, at step 0, 26.0 %); of two tokens with one id "
        "the expert still tells 0.020 [0.010, 0.030] bits of their domain, 1.6 % of H(D|id), which the id leaves open "
        "(untrained, at step 0, 1.2 %); as shares of these ceilings, the id tells more (on 40 ids that domains share, "
        "40.0 % of tokens)."
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"domain_given_token_p": 0.4}, "the token id, and is not shown to depend on the domain beyond it"),
        ({"domain_given_token_p": 0.4, "token_p": 0.4}, "neither token id nor domain, as far as is shown"),
        ({"token_p": 0.4}, "the domain, and is not shown to depend on the token id"),
        ({}, "the token id and, for one id, on the domain"),
    ],
)
def test_what_the_expert_depends_on_is_decided_by_nulls(suite: Suite, values: dict, expected: str) -> None:
    rows = (split_row("moe", **TOKEN | DOMAIN | values),)
    assert f"the expert depends on {expected}: " in said(suite, replace(planted_tables(suite), token_split=rows))[2]


BOTH = "domain_given_token_low_share", "domain_given_token_high_share"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.01, 0.02), (0.1, 0.2), "as shares of these ceilings, the id tells more in every seed"),
        ((0.4, 0.5), (0.33, 0.36), "as shares of these ceilings, the domain beyond the id is told more in every seed"),
        ((0.4, 0.5), (0.1, 0.2), "neither share is shown to be the larger in every seed"),
        ((0.1, 0.2), (0.27, 0.36), "neither share is shown to be the larger in every seed"),
    ],
)
def test_more_is_said_of_shares_of_ceilings_and_only_where_every_seed_has_it(
    small: Small, first: tuple, second: tuple, expected: str
) -> None:
    """More bits of the expert than of the domain in each row: bits are not compared."""
    suite = small(1, 2, seeds=(42, 43))
    rows = tuple(
        split_row("moe", seed=seed, **TOKEN | DOMAIN | dict(zip(BOTH, ends, strict=True)))
        for seed, ends in ((42, first), (43, second))
    )
    told = said(suite, replace(planted_tables(suite), token_split=rows))[2]
    assert f"; {expected} (on 40 ids" in told
    assert "syntax" not in told


def test_a_loss_that_is_not_shown_to_differ_is_not_called_a_cost(suite: Suite) -> None:
    cost = said(suite, planted_tables(suite, half=0.05))[1]
    assert "is not shown to differ (the interval includes 0) in no_lb (+0.0220 [−0.0280, 0.0720])." in cost


def test_a_cost_within_the_margin_is_said_to_be(suite: Suite) -> None:
    row = row_of(EquivalenceRow, arm="no_lb", against="moe", domain=None, margin=0.01, equivalent=True)
    cost = said(suite, replace(planted_tables(suite), equivalence=(row,)))[1]
    assert cost.endswith("0.0260]); within the ±0.01 nats fixed beforehand as no difference that matters.")
    other = said(suite, replace(planted_tables(suite), equivalence=(replace(row, equivalent=False),)))[1]
    assert "; not shown to be within the ±0.01 nats" in other


def test_the_numbers_are_of_a_layer_that_learned(suite: Suite) -> None:
    """A layer whose hidden states give the domain away tells more, and says nothing of what was learned."""
    tables = planted_tables(suite, {("moe", 42, 2): 0.084})
    high = tuple(
        replace(row, corrected=0.3, corrected_share=0.19) if row.layer == 3 else row for row in tables.arm_verdicts
    )
    specialise = said(suite, replace(tables, arm_verdicts=high))[0]
    assert (
        "learned specialisation in layer 2; no evidence of learned specialisation in layer 3: a token's" in specialise
    )
    assert "8.4 % [7.8, 9.0] in layer 2 (0.133 bits)" in specialise
    assert "(largest p 0.005, adjusted for layers and arms)" in specialise


def test_over_seeds_ranges_are_given(small: Small) -> None:
    suite = small(1, 2, seeds=(42, 43))
    rows = (
        split_row("moe", **TOKEN | DOMAIN),
        split_row("moe", seed=43, **TOKEN | DOMAIN | {"token_information": 0.9, "token_high": 0.95}),
    )
    tables = replace(planted_tables(suite, {("moe", 42, 3): 0.084}), token_split=rows)
    specialise, cost, topic = said(suite, tables)
    assert (
        "learned specialisation in layer 3; no evidence of learned specialisation in layer 2 on average over 2 seeds: "
        in (specialise)
    )
    assert "6.2 % [5.6, 6.8] in layer 3 (0.098 bits; single seeds 4.0 to 8.4 %) of all there is to know" in specialise
    assert "states, 2 at a time averaged, reach 3.0 to 5.5 % and documents" in specialise
    assert "0.20 % (largest p 0.005, adjusted for layers and arms)" in specialise
    assert "single seeds" in cost
    assert "tells 0.800 to 0.900 (intervals within 0.750 to 0.950, 2 seeds) bits of the expert, 30.0 % of H(E)" in topic


@pytest.mark.parametrize(
    ("arms", "unknown"),
    [
        (
            (0,),
            (
                "Whether experts specialise is not known: no run with a result has experts.",
                "What no balancing costs is not known: no run with a result has experts.",
                "Whether experts go by the token or by the domain is not known: no run with a result has experts.",
            ),
        ),
        (
            (1,),
            (
                None,
                "What no balancing costs is not known: no arm without balancing has a result; with it, moe: max "
                "violation 0.49 (layer 3), no hot or dead expert, no collapse found in training.",
                "Whether experts go by the token or by the domain is not known: too few token ids are frequent in two "
                "domains, or it was not measured.",
            ),
        ),
        (
            (2,),
            (
                "Whether balanced experts specialise is not known: no balanced arm has a result; no_lb shows no "
                "evidence of learned specialisation in any of layers 2 and 3.",
                None,
                None,
            ),
        ),
    ],
)
def test_what_a_suite_cannot_tell_is_said_not_to_be_known(small: Small, arms: tuple, unknown: tuple) -> None:
    suite = small(*arms)
    sentences = said(suite, planted_tables(suite))
    for sentence, expected in zip(sentences, unknown, strict=True):
        assert sentence == expected or expected is None
    if arms == (2,):
        assert sentences[1].endswith("; what that costs in LM loss is not known: no balanced arm has a result.")


def test_one_domain_cannot_be_told_from_another(suite: Suite) -> None:
    tables = replace(planted_tables(suite), arm_verdicts=(), verdicts=(), information=())
    assert said(suite, tables)[0] == (
        "Whether experts specialise is not known: it takes two domains, each with two held-out documents or more."
    )


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
    assert box.count("<li>") == 3
