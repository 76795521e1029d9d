"""Cards of experts: windows and classes are chosen by rule, and a card says what the tables and traces say."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from planted_measures import planted_tables, row_of
from synthetic_suite import LENGTH, PlantedArm, PlantedSuite, quickstart_like, spread, tokenizer, write_suite

from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.similarity import PairRow, SimilarityRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import TokenClassRow
from moe_emergence.analysis.token_types import token_bytes
from moe_emergence.analysis.traces import read_trace
from moe_emergence.analysis.vocabulary import CharacteristicTokenRow
from moe_emergence.config import MoEConfig
from moe_emergence.report.excerpts import WINDOW, richest_windows
from moe_emergence.report.passages import spelled_token
from moe_emergence.report.specialists import (
    CARDS,
    ExpertCard,
    characteristic,
    knocked_out,
    lead,
    most_taken,
    shown_experts,
    specialists,
)

GAP = "\u00a0"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=4, looks=(0, 4), seeds=(42, 43))
    return read_suite(write_suite(tmp_path_factory.mktemp("cards"), planted))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    return planted_tables(suite)


def card_of(suite: Suite, tables: Tables, arm: str, layer: int, expert: int) -> ExpertCard:
    found = next(each for each in specialists(suite, tables) if each.arm == arm)
    cards = next(each for each in found.layers if each.layer == layer).cards
    return next(card for card in cards if card.expert == expert)


def windows(first: list[int], document: list[int], expert: int, most: int = 3) -> list[int]:
    found = richest_windows(np.array(first), np.array(document), [expert], window=3, most=most)
    return found[expert]


def test_windows_are_the_richest_of_their_documents_the_first_documents_first() -> None:
    first = [0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1]
    document = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    # best windows of 3 (document 2 is shorter): 2 of expert 1 in document 0 at 0, 3 in document 1 at 5, 2 in 2 at 10
    assert windows(first, document, 1) == [5, 0, 10]
    assert windows(first, document, 1, most=1) == [5]
    assert windows(first, document, 7) == []


def test_windows_do_not_cross_from_one_document_to_the_next() -> None:
    assert windows([0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], 1) == [0, 3]  # 2 and 3 are neighbours, of two documents


def test_an_excerpt_marks_the_experts_own_tokens_and_is_text_of_its_document(suite: Suite, tables: Tables) -> None:
    run = next(run for run in suite.runs if (run.arm, run.seed) == ("top2", 42))
    trace = read_trace(run, run.last_step)
    first = trace.layers[0].experts[:, 0]
    for excerpt in card_of(suite, tables, "top2", 2, 0).excerpts:
        number = int(excerpt.document.partition("/")[2]) + 12 * ("code", "math", "prose").index(excerpt.domain)
        own = first[trace.document == number] == 0
        most = max(int(own[start : start + WINDOW].sum()) for start in range(LENGTH - WINDOW + 1))
        assert (excerpt.own, excerpt.tokens) == (most, WINDOW)
        assert excerpt.document.startswith(excerpt.domain)
        assert any(mine for _, mine in excerpt.parts)
        assert "\n" not in "".join(text for text, _ in excerpt.parts)


def share(expert: int, value: float, domain: str = "code") -> ShareRow:
    return row_of(ShareRow, expert=expert, share=value, domain=domain, uniform=0.25)


def test_the_experts_with_the_largest_share_of_a_domain_are_shown_in_order() -> None:
    rows = [share(0, 0.1), share(1, 0.2), share(2, 0.7), share(0, 0.5, "math"), share(1, 0.2, "math")]
    assert shown_experts(rows, 2) == [0, 2]
    assert shown_experts(rows, 9) == [0, 1, 2]
    equal = [share(expert, 0.25) for expert in range(4)]
    assert shown_experts(equal, 2) == [0, 1]


def test_the_lead_is_the_domain_that_an_expert_takes_most_of() -> None:
    rows = [share(0, 0.1), share(0, 0.5, "math")]
    assert lead(rows) == f"50{GAP}% of math, 2.00 times the uniform 25{GAP}%"
    assert lead([share(0, 0.0)]) == "takes no assignment of the probe set"


def taken(token_class: str, counts: tuple[int, int], domain: str = "code") -> list[TokenClassRow]:
    return [
        row_of(
            TokenClassRow, domain=domain, token_class=token_class, expert=expert, assignments=count,
            share=count / max(1, sum(counts)), uniform=0.5,
        )
        for expert, count in enumerate(counts)
    ]  # fmt: skip


def test_classes_are_those_taken_most_beyond_the_uniform_share_and_frequent_enough() -> None:
    rows = [
        *taken("keyword", (60, 40)),
        *taken("comment", (90, 10)),
        *taken("string", (50, 50)),  # as uniform
        *taken("number", (49, 0)),  # too few
        *taken("name", (80, 20), "prose"),
        *taken("other", (55, 45)),  # a fourth
    ]
    assert list(most_taken(rows, 0)) == [
        f"comment in code: 90{GAP}% of 100 tokens, 1.80 times uniform",
        f"name in prose: 80{GAP}% of 100 tokens, 1.60 times uniform",
        f"keyword in code: 60{GAP}% of 100 tokens, 1.20 times uniform",
    ]
    assert list(most_taken(rows, 1)) == []


def test_effects_are_an_experts_own_the_mean_first() -> None:
    rows = [
        row_of(KnockoutRow, expert=expert, domain=domain, effect=0.01 * (expert + 1), low=0.001, high=0.02)
        for expert in range(2)
        for domain in ("code", None)
    ]
    change = "+0.0200 [0.0010, 0.0200]"
    assert list(knocked_out(rows, 1)) == [("mean of domains", change), ("code", change)]
    assert list(knocked_out(rows, 2)) == []


def test_a_card_holds_what_the_tables_hold_of_its_expert_and_first_seed(suite: Suite, tables: Tables) -> None:
    place = {"arm": "moe", "step": 4, "layer": 3}
    tokens = [
        row_of(
            CharacteristicTokenRow, **place, seed=seed, counted="first choice", expert=5, rank=rank, token_id=number,
            share=0.75, low=0.5, high=1.0, occurrences=40, lift=6.0,
        )
        for seed, rank, number in ((42, 2, 98), (42, 1, 97), (43, 1, 99))
    ]  # fmt: skip
    effects = [
        row_of(KnockoutRow, **place, seed=42, expert=5, domain=None, intervention=way, effect=value, low=0.0, high=0.5)
        for way, value in (("next", 0.25), ("zero", 0.4))
    ]
    alike = row_of(
        SimilarityRow, **place, seed=42, expert=5, drift=0.02, ancestor_output_cosine=0.875, output_cosine=0.75,
        nearest=2,
    )  # fmt: skip
    pair = row_of(PairRow, **place, seed=42, first=2, second=5, output_cosine=0.9)
    full = dataclasses.replace(
        tables, characteristic_tokens=tuple(tokens), knockouts=tuple(effects), similarity=(alike,), expert_pairs=(pair,)
    )
    card = card_of(suite, full, "moe", 3, 5)
    assert [text for text, _ in card.tokens] == [spelled_token(piece) for piece in token_bytes([97, 98], tokenizer())]
    arm = next(each for each in specialists(suite, full) if each.arm == "moe")
    assert arm.token_set == "probe set"  # no wide one was planted
    assert card.tokens[0][1] == f"75.0{GAP}% [50.0, 100.0] of 40 occurrences, lift 6.00"
    assert card.effects == (("mean of domains", "+0.2500 [0.0000, 0.5000]"),)
    assert card.likeness == (
        "ancestor: output cosine 0.875, drift of the weights 0.02",
        "siblings: output cosine 0.750 on average; nearest: expert 2 (0.900)",
    )
    assert card.lead == f"36{GAP}% of code, 2.88 times the uniform 12.5{GAP}%"
    assert [bar.domain for bar in card.bars] == ["code", "math", "prose"]
    longest = max(bar.high for each in range(8) for bar in card_of(suite, tables, "moe", 3, each).bars)
    assert longest == 100
    assert card.uniform == pytest.approx(100 * 0.125 / (1.1 * 0.36), abs=0.1)


def test_tokens_that_chance_gives_an_expert_are_not_its_own() -> None:
    def token(rank: int, share: float, low: float, occurrences: int, load: float, expert: int = 1) -> object:
        return row_of(
            CharacteristicTokenRow, expert=expert, rank=rank, token_id=rank, occurrences=occurrences, share=share,
            low=low, lift=share / load,
        )  # fmt: skip

    dead = [token(1, 1 / 103, 0.0016, 103, 4e-5), token(2, 3 / 3869, 0.0003, 3869, 4e-5)]
    assert characteristic(dead, 1) == []  # 1 and 3 tokens, 243 and 19 times what so small a load gives
    assert characteristic([token(1, 1.0, 0.98, 3198, 0.9999)], 1) == []  # of an expert that takes everything
    assert characteristic([token(1, 0.3, 0.1, 40, 0.2)], 1) == []  # the interval holds the load
    own = [token(2, 0.5, 0.4, 40, 0.125), token(1, 0.75, 0.5, 40, 0.125)]
    assert [row.rank for row in characteristic([*own, token(1, 0.9, 0.8, 40, 0.125, expert=0)], 1)] == [1, 2]


def test_a_dead_and_a_hot_expert_say_so_and_untested_ones_have_no_effect(suite: Suite, tables: Tables) -> None:
    assert card_of(suite, tables, "no_lb", 2, 3).state == "dead"
    assert card_of(suite, tables, "no_lb", 2, 5).state == "hot"
    ordinary = card_of(suite, tables, "moe", 2, 1)
    assert (ordinary.state, ordinary.effects, ordinary.likeness, ordinary.tokens) == ("", (), (), ())


def test_of_64_experts_those_with_the_largest_shares_have_cards_and_the_others_are_named(tmp_path: Path) -> None:
    favourites = {7: 0.2, 40: 0.1}
    shares = {layer: np.stack([spread(64, favourites)] * 3) for layer in (1, 9)}
    arm = PlantedArm(name="many", moe=MoEConfig(num_experts=64, top_k=8), shares=shares)
    suite = read_suite(write_suite(tmp_path, PlantedSuite(arms=(arm,), steps=2, looks=(0, 2))))
    (found,) = specialists(suite, planted_tables(suite))
    assert [layer.layer for layer in found.layers] == [1, 9]
    shown = [card.expert for card in found.layers[0].cards]
    assert len(shown) == CARDS
    assert {7, 40} <= set(shown)
    said = found.layers[0].left_out
    assert said.startswith("Of 64 experts, the 16 with the largest share of a domain are shown.")
    named = said.partition("Without a card: ")[2].partition(";")[0].split(", ")
    assert sorted([*shown, *map(int, named)]) == list(range(64))


def test_without_experts_or_measured_shares_there_are_no_cards(suite: Suite, tables: Tables) -> None:
    assert specialists(suite, dataclasses.replace(tables, shares=())) == []
    assert "dense" not in {each.arm for each in specialists(suite, tables)}


def test_one_token_is_spelled_whole_as_bytes_or_as_nothing() -> None:
    assert spelled_token(b" def\n") == "␣def⏎"
    assert spelled_token(b"\xe2\x80") == "⟨E2 80⟩"
    assert spelled_token(b"") == "⟨⟩"
    assert spelled_token("\u202e".encode()) == "⟨U+202E⟩"
