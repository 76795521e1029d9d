"""Statements and matrices: what is said of a layer, with the numbers of the tables and no others."""

import dataclasses
from typing import Any

import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.causal.regret import RegretRow
from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.equivalence import EquivalenceRow
from moe_emergence.analysis.match_rows import MatchRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import CollapseEvent, Suite
from moe_emergence.analysis.scoreboard import ScoreRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.answer_evidence import evidence_sentences
from moe_emergence.report.evidence_tables import evidence_tables
from moe_emergence.report.matrices import knockout_matrices
from moe_emergence.report.statements import statements

GAP = "\u00a0"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return read_suite(write_suite(tmp_path_factory.mktemp("evidence"), quickstart_like(steps=4, looks=(0, 4))))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return planted_tables(suite)


def of_layer_3(kind: type, **known: Any) -> Any:
    return row_of(kind, arm="moe", seed=42, step=4, layer=3, **known)


def said(suite: Suite, tables: Tables) -> str:
    found = [each for each in statements(suite, tables) if (each.arm, each.layer) == ("moe", 3)]
    return " ".join(found[0].sentences)


def test_a_run_without_causal_tests_says_so_and_a_dense_one_says_nothing(suite: Suite, tables: Tables) -> None:
    assert "Causal tests were not made" in said(suite, tables)
    assert "dense" not in {each.arm for each in statements(suite, tables)}


def test_domain_information_at_both_ends_and_collapse(suite: Suite, tables: Tables) -> None:
    text = said(suite, tables)
    assert "of H(domain) at step 4, " in text
    assert "of H(domain) at step 0; permuted documents reach" in text
    assert "learned specialisation in this run alone." in text
    assert text.endswith("Collapse: none found in training.")
    event = CollapseEvent(step=32, layer=3, state="collapsed", reason="a hot expert")
    runs = tuple(dataclasses.replace(run, collapses=(event,)) for run in suite.runs)
    assert said(dataclasses.replace(suite, runs=runs), tables).endswith("Collapse: collapsed at step 32.")


@pytest.mark.parametrize(("p", "words"), [(0.01, "more than chance"), (0.2, "not shown to be more than chance")])
def test_the_most_specific_expert(suite: Suite, tables: Tables, p: float, words: str) -> None:
    row = of_layer_3(
        SpecificityRow,
        intervention="next",
        expert=5,
        domain="math",
        tested_value=0.0123,
        low=0.001,
        high=0.02,
        p_holm=p,
        documents=9,
        splits=12,
        chosen_in=9,
    )
    text = said(suite, dataclasses.replace(tables, specificity=(row,)))
    assert "Rerouted, expert 5 costs math +0.0123 [0.0010, 0.0200] nats a token more than the other domains" in text
    assert f", as 9 of 12 random halvings did: {words} (p {p:.3f}, one-sided" in text
    assert "the interval is two-sided)" in text
    hot = dataclasses.replace(row, arm="no_lb")  # planted with a hot expert in each of its layers
    found = [each for each in statements(suite, dataclasses.replace(tables, specificity=(hot,))) if each.arm == "no_lb"]
    assert any("the layer has a hot expert" in sentence for each in found for sentence in each.sentences)


def test_an_expert_that_is_missed_less_is_not_said_to_cost_more(suite: Suite, tables: Tables) -> None:
    row = of_layer_3(
        SpecificityRow, intervention="next", expert=5, domain="math", tested_value=-0.0009, low=-0.002, high=0.0001,
        p_holm=0.9,
    )  # fmt: skip
    text = said(suite, dataclasses.replace(tables, specificity=(row,)))
    assert "costs math no more than the other domains (the difference is −0.0009 [−0.0020, 0.0001] nats a" in text


def test_what_is_left_of_the_domain_given_the_token(suite: Suite, tables: Tables) -> None:
    row = of_layer_3(
        TokenSplitRow,
        counted="first choice",
        x="token id",
        ids=133,
        share_of_tokens=0.5,
        token_information=0.75,
        token_low=0.7,
        token_high=0.8,
        token_null_mean=0.125,
        token_share=0.28,
        domain_given_token_share=0.031,
        domain_given_token_low_share=0.026,
        domain_given_token_high_share=0.037,
        domain_given_token_p=0.005,
    )
    text = said(suite, dataclasses.replace(tables, token_split=(row,)))
    assert (
        f"Given the token id 3.1{GAP}% [2.6, 3.7] of H(domain given id), beyond what the id settles (p 0.005)" in text
    )
    assert f"0.750 [0.700, 0.800] bits of the expert, 28{GAP}% of H(expert), as counted 0.125 bits by chance" in text
    assert f"(133{GAP}ids that domains share, 50{GAP}% of the tokens)" in text
    other = dataclasses.replace(row, layer=2)
    assert "Too few token ids" in said(suite, dataclasses.replace(tables, token_split=(other,)))


def test_a_matrix_has_an_expert_a_row_and_a_domain_a_column(suite: Suite, tables: Tables) -> None:
    rows = tuple(
        of_layer_3(
            KnockoutRow, expert=expert, domain=domain, intervention=way, effect=0.01 * expert, affected_share=0.25
        )
        for expert in range(2)
        for domain in (*suite.domains, None)
        for way in ("next", "zero")
    )
    (table,) = knockout_matrices(suite, dataclasses.replace(tables, knockouts=rows))
    assert table.columns == ("expert", *suite.domains, "mean of domains")
    assert table.rows[1] == ("1", *[f"+0.0100 (25{GAP}%)"] * len(suite.domains), "+0.0100 [0.0000, 0.0000]")


def test_the_answer_says_what_was_found_and_what_was_not(suite: Suite, tables: Tables) -> None:
    """Two layers of one run: one expert beyond chance, a choice that pays in one, one measure of two."""
    specific = [
        row_of(
            SpecificityRow,
            arm="moe",
            seed=42,
            step=4,
            layer=layer,
            intervention="next",
            expert=5,
            domain="math",
            p_holm=p,
            splits=12,
            chosen_in=9,
        )
        for layer, p in ((2, 0.6), (3, 0.01))
    ]
    regret = [
        row_of(
            RegretRow,
            arm="moe",
            seed=42,
            step=4,
            layer=layer,
            domain=None,
            regret=r,
            p=p,
            best_share=b,
            best_low=b - 0.004,
            worst_share=w,
            worst_high=w + 0.004,
            chance_share=0.125,
        )
        for layer, r, p, b, w in ((2, -0.0003, 0.01, 0.17, 0.172), (3, 0.0014, 0.001, 0.185, 0.14))
    ]
    split = [
        row_of(
            TokenSplitRow, arm="moe", seed=42, step=step, layer=3, counted="first choice", x="token id",
            domain_given_token_share=share, domain_given_token_p=0.005, share_of_tokens=0.4,
        )
        for step, share in ((0, 0.15), (4, 0.188))
    ]  # fmt: skip
    scores = [
        row_of(
            ScoreRow, arm="all", step=4, measure=name, effect=f"next: {kind}", level="expert", rho=rho, low=-0.1,
            high=0.4, p_adjusted=p,
        )
        for name, kind, rho, p in (
            ("load", "per affected token", 0.05, 0.8), ("delta cosine", "per affected token", 0.21, 0.004),
            ("load", "total", 0.35, 0.001), ("delta cosine", "total", 0.1, 0.3), ("load", "specificity", 0.9, 0.001),
        )
    ]  # fmt: skip
    told = list(
        evidence_sentences(
            suite,
            dataclasses.replace(
                tables,
                specificity=tuple(specific),
                regret=tuple(regret),
                token_split=tuple(split),
                scores=tuple(scores),
            ),
        )
    )
    assert f"18.8{GAP}% of H(D|id), which the id leaves open, beyond chance in 1 of 1{GAP}layer" in told[0]
    assert f"(p < 0.05, Benjamini–Hochberg over layers); on ids that domains share, 40.0{GAP}% of tokens" in told[0]
    assert told[0].endswith(f"untrained gates, at step 0, 15.0{GAP}%.")
    assert f"in 1 (moe, layer 3: expert 5 for math, chosen in 9 of 12) of 2{GAP}layers tested" in told[1]
    assert "(p < 0.05, one-sided, Holm over a run's layers" in told[1]
    assert f"loses −0.0003 to 0.0014 nats on average, more than 0 in 1 of 2{GAP}layers" in told[2]
    assert f"best for 17.0 to 18.5{GAP}% of tokens and the worst for 14.0 to 17.2{GAP}%, each by chance" in told[2]
    assert f"for 12.5{GAP}%: best above worst, which alone speaks for the choice, in 1 (intervals apart)" in told[2]
    assert f"Of 2{GAP}observational measures" in told[3]
    assert "as what rerouting costs a token that used the expert: cosine of what siblings learned (rho 0.210" in told[3]
    assert "; as the cost to all tokens, which contains how many use it: its load (rho 0.350" in told[3]
    assert list(evidence_sentences(suite, tables)) == []


def test_a_null_result_is_said(suite: Suite, tables: Tables) -> None:
    row = of_layer_3(SpecificityRow, intervention="next", p_holm=0.3)
    (told,) = evidence_sentences(suite, dataclasses.replace(tables, specificity=(row,)))
    assert f"in none of 1{GAP}layer tested" in told


def test_experts_of_several_seeds_are_named_with_their_seed(suite: Suite, tables: Tables) -> None:
    row = of_layer_3(SpecificityRow, intervention="next", expert=5, domain="math", p_holm=0.01)
    runs = (*suite.runs, *(dataclasses.replace(run, seed=43) for run in suite.runs))
    rows = (row, dataclasses.replace(row, seed=43, expert=1))
    (told,) = evidence_sentences(dataclasses.replace(suite, runs=runs), dataclasses.replace(tables, specificity=rows))
    assert "(moe, seed 42, layer 3: expert 5 for math, chosen in 0 of 0; moe, seed 43, layer 3: expert 1 for" in told
    hot = dataclasses.replace(row, arm="no_lb")
    (told,) = evidence_sentences(suite, dataclasses.replace(tables, specificity=(hot,)))
    assert "(no_lb, layer 3, a layer with a hot expert: expert 5 for math" in told


def test_a_layer_with_a_hot_expert_does_not_speak_for_the_choice(suite: Suite, tables: Tables) -> None:
    """`no_lb` is planted with a hot expert in each of its layers."""
    hot = row_of(RegretRow, arm="no_lb", seed=42, step=4, layer=3, domain=None, regret=0.5, best_share=0.9)
    healthy = dataclasses.replace(hot, arm="moe", regret=0.001, best_share=0.2)
    (told,) = evidence_sentences(suite, dataclasses.replace(tables, regret=(hot, healthy)))
    assert f"1 of 1{GAP}layer (p < 0.05, Benjamini–Hochberg over layers; 1{GAP}layer with a" in told
    (none,) = evidence_sentences(suite, dataclasses.replace(tables, regret=(hot,)))
    (row,) = [each for each in statements(suite, dataclasses.replace(tables, regret=(hot,))) if each.arm == "no_lb"
              and each.layer == 3]  # fmt: skip
    assert "The router's choice cannot be judged here: the layer has a hot expert." in row.sentences
    assert not any("is the best for" in sentence for sentence in row.sentences)
    assert none == "The router's choice cannot be judged: every layer has a hot expert."


def test_a_count_of_layers_is_of_adjusted_p(suite: Suite, tables: Tables) -> None:
    """0.04 in one of two layers is no find of a family in which the other has 0.5."""
    rows = tuple(
        row_of(RegretRow, arm="moe", seed=42, step=4, layer=layer, domain=None, regret=0.01, p=p)
        for layer, p in ((2, 0.5), (3, 0.04))
    )
    (told,) = evidence_sentences(suite, dataclasses.replace(tables, regret=rows))
    assert f"more than 0 in 0 of 2{GAP}layers" in told


def test_what_was_decided_is_yes_or_no(suite: Suite, tables: Tables) -> None:
    rows = tuple(row_of(EquivalenceRow, arm=arm, equivalent=arm == "moe") for arm in ("moe", "top2"))
    made = evidence_tables(suite, dataclasses.replace(tables, equivalence=rows))
    (table,) = [table for table in made if table.rows]
    assert [row[-1].text for row in table.rows] == ["yes", "no"]


def test_tables_without_rows_are_empty_and_have_names_of_their_own(suite: Suite, tables: Tables) -> None:
    made = evidence_tables(suite, tables)
    assert len({table.name for table in made}) == len(made)
    assert [table.name for table in made if table.rows] == []


def test_an_agreement_below_0_is_written_with_a_minus(suite: Suite, tables: Tables) -> None:
    row = row_of(MatchRow, arm="moe", seed=42, other_seed=43, layer=3, agreement=-0.0054, low=-0.03, null_mean=-0.01)
    full = dataclasses.replace(tables, matches=(row,))
    (made,) = [table for table in evidence_tables(suite, full) if table.name == "matches"]
    texts = [cell.text for cell in made.rows[0]]
    assert {"−0.005", "−0.030", "−0.010"} <= set(texts)
    assert not any(text.startswith("-") for text in texts)
