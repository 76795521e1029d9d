"""Format against content: divergence, the control's size, and routers that are planted to go by one or the other."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from synthetic_suite import DOCUMENTS, LENGTH, PlantedSuite, probe, tokenizer
from torch import Tensor

from moe_emergence.analysis.format_swaps import (
    FormatSwapRow,
    divergence,
    format_swap_rows,
    moved_shares,
    other_content,
    paired_divergences,
    stretches,
)
from moe_emergence.analysis.statistics import generator
from moe_emergence.data.tokenizer import encode
from moe_emergence.routing import RouterOutput

RUN = SimpleNamespace(arm="moe", seed=42, last_step=240)
EXPERTS = 4
WORDS = ("Alpha", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel")


def prose(number: int) -> str:
    rng = np.random.default_rng(number)
    return " ".join(str(word) + "," * int(rng.random() < 0.2) for word in rng.choice(WORDS, 60)) + "."


@pytest.fixture(scope="module")
def data() -> SimpleNamespace:
    """Code and prose; one token a byte, so that a change of case changes single tokens."""
    suite = PlantedSuite(arms=(), domains=("code", "law"), texts={"code": "x = 1\ndef f():\n    return x # {number}\n"})
    found = probe(suite)
    texts = (*found.texts[:DOCUMENTS], *(prose(number) for number in range(DOCUMENTS)))
    documents = tuple({"id": f"d/{row}"} for row in range(len(texts)))
    return SimpleNamespace(
        probe=replace(found, texts=texts), domains=suite.domains, tokenizer=tokenizer(), documents=documents
    )


class Planted:
    """A model whose router sends a token where `choose` says, from the token ids; as many slots as columns."""

    def __init__(self, choose) -> None:
        self.choose = choose

    def __call__(self, input_ids: Tensor, **_) -> SimpleNamespace:
        chosen = torch.stack([self.choose(row) for row in input_ids]).reshape(input_ids.numel(), -1)
        probs = torch.full((len(chosen), EXPERTS), 1 / EXPERTS)
        weights, some = torch.ones(chosen.shape), torch.zeros(len(chosen))
        return SimpleNamespace(routes=(RouterOutput(weights, chosen, probs, probs, probs, some, layer_idx=3),))


def letters() -> dict[str, int]:
    made = tokenizer()
    return {
        character: made.encode(character).ids[0] for character in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    }


def rows_of(data: SimpleNamespace, choose) -> dict[tuple[str, str], FormatSwapRow]:
    return {(row.domain, row.swap): row for row in format_swap_rows(RUN, data, Planted(choose))}


def by_case(ids: Tensor) -> Tensor:
    upper = torch.tensor([number for character, number in letters().items() if character.isupper()])
    return torch.isin(ids, upper).long()


def by_letter(ids: Tensor) -> Tensor:
    """Capitals go where small letters go; all else to the last expert."""
    expert = torch.full((len(letters()) + 300,), EXPERTS - 1)
    for character, number in letters().items():
        expert[number] = ord(character.lower()) % (EXPERTS - 1)
    return expert[ids]


def by_marker(ids: Tensor) -> Tensor:
    """Everything goes to expert 1 where a text begins as code does."""
    begins = ids[:4].tolist() == tokenizer().encode("def ").ids
    return torch.full_like(ids, int(begins))


def test_divergence_by_hand_and_at_both_extremes() -> None:
    p, q = np.array([[0.5, 0.5], [1, 0], [0.25, 0.75]]), np.array([[1, 0], [0, 1], [0.25, 0.75]])
    by_hand = 0.5 * (0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)) + 0.5 * np.log2(1 / 0.75)
    assert divergence(p, q) == pytest.approx([by_hand, 1, 0], abs=1e-12)
    assert divergence(p, p).tolist() == [0, 0, 0]
    many, others = np.random.default_rng(0).dirichlet(np.ones(8), (2, 50))
    assert divergence(many, others) == pytest.approx(jensenshannon(many, others, base=2, axis=1) ** 2, abs=1e-10)


def test_stretches_by_hand() -> None:
    assert stretches([1, 2, 3], [1, 2, 3]) == []
    assert stretches([1, 2, 3], [9, 8, 1, 2, 3]) == [(0, 0, 2)]
    assert stretches([1, 2, 3, 4, 5], [1, 7, 8, 3, 5]) == [(1, 1, 2), (3, 1, 0)]


def test_content_changes_as_much_as_format() -> None:
    ids, others = list(range(50)), [[100, 101, 102], [200, 201]]
    new = other_content(ids, [(1, 4, 6), (30, 3, 1)], others, generator(0))
    (stretch,) = stretches(ids, new)
    assert stretch[1:] == (7, 7)
    assert set(new) - set(ids) == {100, 101, 102, 200, 201}
    removed = other_content(ids, [(5, 4, 0), (9, 1, 0)], others, generator(0))
    assert len(removed) == 45
    assert not set(removed) - set(ids)
    assert other_content(ids, [(0, 0, 2)], others, generator(1))[2:] == ids
    every = other_content(ids, [(0, 50, 50)], others, generator(1))
    assert len(every) == 50
    assert not set(every) & set(ids)


def test_a_router_that_goes_by_case_is_found(data: SimpleNamespace) -> None:
    row = rows_of(data, by_case)["law", "lower-cased"]
    assert row.difference > 0.03
    assert row.low > 0
    assert row.p < 0.001
    assert row.documents == DOCUMENTS
    capitals = np.mean([sum(c.isupper() for c in prose(n)[:60]) / 60 for n in range(DOCUMENTS)])
    assert row.changed_share == pytest.approx(capitals, rel=0.1)


def test_a_router_that_goes_by_content_is_not(data: SimpleNamespace) -> None:
    """Small letters go where capitals do: lower case changes many tokens and no route."""
    row = rows_of(data, by_letter)["law", "lower-cased"]
    assert row.format_divergence == 0
    assert row.content_divergence > 0
    assert row.difference == -row.content_divergence
    assert row.high < 0


def test_a_router_that_goes_by_a_marker_is_found(data: SimpleNamespace) -> None:
    found = rows_of(data, by_marker)
    row = found["law", "marker of Python"]
    assert (row.format_divergence, row.content_divergence, row.difference) == (1, 0, 1)
    assert (row.low, row.high, row.p) == (1, 1, 0)
    other = found["law", "marker of mathematics"]
    assert (other.format_divergence, other.difference, other.p) == (0, 0, 1)
    assert ("code", "marker of Python") not in found


def test_both_slots_are_counted(data: SimpleNamespace) -> None:
    two = Planted(lambda ids: torch.stack([by_case(ids), torch.full_like(ids, 3)], dim=1))
    rows = list(format_swap_rows(RUN, data, two))
    first = {row.swap: row for row in rows if row.counted == "first choice" and row.domain == "law"}
    slots = {row.swap: row for row in rows if row.counted == "slots" and row.domain == "law"}
    assert first.keys() == slots.keys() == {"lower-cased", "lower-cased and spaced", "marker of Python", "marker of mathematics"}  # fmt: skip # noqa: E501
    assert first["lower-cased"] == rows_of(data, by_case)["law", "lower-cased"]
    assert slots["lower-cased"].format_divergence == pytest.approx(first["lower-cased"].format_divergence / 2)


def test_every_version_fits_its_block_and_unaltered_documents_count_not(data: SimpleNamespace) -> None:
    seen: list[Tensor] = []

    def choose(ids: Tensor) -> Tensor:
        seen.append(ids)
        return torch.zeros_like(ids)

    rows = list(format_swap_rows(RUN, data, Planted(choose)))
    assert max(len(ids) for ids in seen) <= LENGTH
    plain = replace(
        data.probe, texts=(*data.probe.texts[:DOCUMENTS], *(t.lower() for t in data.probe.texts[DOCUMENTS:]))
    )
    changed = list(format_swap_rows(RUN, SimpleNamespace(**{**vars(data), "probe": plain}), Planted(choose)))
    assert "lower-cased" in {row.swap for row in rows}
    assert "lower-cased" not in {row.swap for row in changed}
    assert all(row.format_divergence == row.content_divergence == 0 for row in rows)


def test_a_model_without_experts_has_no_rows(data: SimpleNamespace) -> None:
    def dense(**_) -> SimpleNamespace:
        return SimpleNamespace(logits=None)

    assert list(format_swap_rows(RUN, data, dense)) == []


def test_nearest_means_by_hand() -> None:
    """Four documents a domain; each is judged by the half that it is not in."""
    own, other = [0.9, 0.1], [0.1, 0.9]
    before = np.array([own, own, own, other, other, other, other, other])
    domain, rows = np.repeat([0, 1], 4), np.arange(4)
    found = moved_shares(before, domain, rows, np.array([other] * 4), np.array([own, own, other, other]))
    assert found == {"moved_before": 0.25, "moved_share": 1.0, "moved_content": 0.5}
    swapped = moved_shares(before[::-1], 1 - domain, np.array([7, 6]), np.array([own, other]), np.array([own, own]))
    assert (swapped["moved_share"], swapped["moved_content"]) == (0.5, 0)


def test_a_document_is_judged_by_the_half_it_is_not_in() -> None:
    """Each half holds the domains the other way round: by the other half all documents lie with the other domain."""
    own, other = [0.9, 0.1], [0.1, 0.9]
    before, domain = np.array([own, other, own, other, other, own, other, own]), np.repeat([0, 1], 4)
    found = moved_shares(before, domain, np.arange(4), before[:4], before[:4])
    assert found == {"moved_before": 1.0, "moved_share": 1.0, "moved_content": 1.0}


def test_pairs_by_hand() -> None:
    before = np.array([[1.0, 0.0]] * 4)
    away, none = np.array([[0.0, 1.0]] * 4), before
    found = paired_divergences(before, away, none)
    assert (found["format_divergence"], found["content_divergence"], found["difference"]) == (1, 0, 1)
    assert (found["low"], found["high"], found["p"]) == (1, 1, 0)
    same = paired_divergences(before, none, none)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_the_text_is_cut_between_words(data: SimpleNamespace) -> None:
    seen: list[list[int]] = []

    def choose(ids: Tensor) -> Tensor:
        seen.append(ids.tolist())
        return torch.zeros_like(ids)

    list(format_swap_rows(RUN, data, Planted(choose)))
    for text in data.probe.texts[DOCUMENTS:]:
        ids = encode(data.tokenizer, [text[:60].rsplit(" ", 1)[0] + " "])[0]
        assert any(found[: len(ids)] == ids for found in seen)
