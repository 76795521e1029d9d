"""The planted population is what it says, and every measure finds in its tokens what was planted, within 5 %.

Sample size: the mean of a few corpora of 36 documents a domain and 256 tokens each, so that chance of one corpus (about
5 % of I(E;D) at this size) does not hide a bias. To add a measure, add a line to `MEASURES`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from planted import Planted, Shares, Tokens, conditional_information, information

from moe_emergence.analysis.class_information import class_information
from moe_emergence.analysis.information import domain_shares, information_difference, measured_domain_information
from moe_emergence.analysis.lift import measured_lift, measured_nmi
from moe_emergence.analysis.matching import matched_profiles, matched_tokens
from moe_emergence.analysis.traces import document_counts

DOCUMENTS, LENGTH = 36, 256
MIXED = Planted(shares=Shares(domain=0.2, token_class=0.25, format=0.1, token_id=0.15))


def counts(tokens: Tokens, experts: np.ndarray | None = None) -> np.ndarray:
    """[documents, experts] of all slots."""
    return document_counts(tokens.experts if experts is None else experts, tokens.document, len(tokens.domain), 8)


def class_bits(tokens: Tokens) -> float:
    found = class_information(tokens.token_class.astype(np.uint8), tokens.experts, tokens.document, 8, shifts=49)
    return found.estimate.value


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log2(p)).sum())


def nmi(planted: Planted) -> float:
    return 2 * planted.expert_and_domain / (entropy(planted.share_of_domain.mean(0)) + math.log2(planted.domains))


MEASURES: dict[str, tuple[int, Callable[[Tokens], float], Callable[[Planted], float]]] = {
    "I(E;D), corrected": (
        12,
        lambda tokens: measured_domain_information(counts(tokens), tokens.domain, 2, 500).corrected,
        lambda planted: planted.expert_and_domain,
    ),
    "I(E;D), less its null": (
        12,
        lambda tokens: measured_domain_information(counts(tokens), tokens.domain, 199, 2).estimate,
        lambda planted: planted.expert_and_domain,
    ),
    "NMI": (12, lambda tokens: measured_nmi(counts(tokens), tokens.domain, 2, 500).estimate.value, nmi),
    "lift": (
        12,
        lambda tokens: measured_lift(counts(tokens), tokens.domain, 2, 2).measured.estimate.value,
        lambda planted: 8 * planted.share_of_domain.max(),
    ),
    "I(E;class) within documents": (
        4,
        class_bits,
        lambda planted: planted.expert_and_class_within_documents(LENGTH),
    ),
}
"""Name to (corpora, what is measured on tokens, what is true of the population)."""

ROUTERS = {
    "mixed": MIXED,
    "mostly domain": MIXED.scaled(domain=0.5, token_class=0.2),
    "mostly class": MIXED.scaled(domain=0.1, token_class=0.6, format=0.1),
}


@pytest.mark.parametrize(("measure", "router"), list(product(MEASURES, ROUTERS)))
def test_measures_find_what_was_planted(measure: str, router: str) -> None:
    corpora, measured, true = MEASURES[measure]
    planted = ROUTERS[router]
    found = [measured(planted.tokens(DOCUMENTS, LENGTH, seed=seed)) for seed in range(corpora)]
    print(f"{measure}, {router}: {np.mean(found):.4f} of {true(planted):.4f}, ± {np.std(found):.4f}")
    assert np.mean(found) == pytest.approx(true(planted), rel=0.05)


@pytest.mark.parametrize("top_k", [1, 2])
def test_shares_of_slots_are_found(top_k: int) -> None:
    tokens = [MIXED.tokens(DOCUMENTS, LENGTH, seed=seed, top_k=top_k) for seed in range(12)]
    found = np.mean([domain_shares(counts(each), each.domain, 2).shares for each in tokens], axis=0)
    expected = MIXED.share_of_domain if top_k == 1 else MIXED.share_of_slots(top_k)
    assert found == pytest.approx(expected, rel=0.05)


def test_a_difference_of_information_is_found() -> None:
    more = replace(MIXED, shares=Shares(domain=0.4, token_class=0.25))
    found = []
    for seed in range(12):
        tokens = MIXED.tokens(DOCUMENTS, LENGTH, seed=seed)
        both = counts(tokens, more.rerouted(tokens, seed)), counts(tokens)
        found.append(information_difference(*both, tokens.domain, 300).value)
    assert np.mean(found) == pytest.approx(more.expert_and_domain - MIXED.expert_and_domain, rel=0.05)


def test_agreement_of_two_routers_is_found() -> None:
    """The other has the same preferences under other names, and shares nothing but the tokens."""
    names = np.random.default_rng(0).permutation(8)
    strong = MIXED.scaled(domain=0.3, token_class=0.4, token_id=0.2)
    truth, found, profiles = float(np.trace(strong.agreement_with(strong))), [], []
    for seed in range(6):
        tokens = strong.tokens(DOCUMENTS, LENGTH, seed=seed)
        other = names[strong.rerouted(tokens, seed)]
        match = matched_tokens(tokens.experts, other, tokens.document, tokens.domain, 8, draws=19, replicates=9)
        profile = matched_profiles(counts(tokens), counts(tokens, other), tokens.domain, draws=19, replicates=500)
        assert match.matches == tuple(names)
        assert match.p == profile.p == 1 / 20
        found.append(match.agreement.value)
        profiles.append(profile.agreement.value)
    assert np.mean(found) == pytest.approx(truth, rel=0.05)
    assert np.mean(profiles) == pytest.approx(1, rel=0.05)


def test_closed_forms_are_sums_over_all_there_is() -> None:
    small = replace(MIXED, ids=5, classes=2, experts=4)
    joint, sizes = small.joint, small.joint.shape
    assert joint.sum() == pytest.approx(1, abs=1e-12)

    def conditional(given: Callable[..., int], of: Callable[..., int]) -> float:
        """I(E; of | given) by summing over every cell."""
        tables: dict[tuple[int, int, int], float] = {}
        for d, f, x, e in product(*map(range, sizes)):
            key = (given(d, f, x), of(d, f, x), e)
            tables[key] = tables.get(key, 0) + joint[d, f, x, e]

        def part(*places: int) -> Callable[[tuple[int, int, int]], float]:
            sums: dict[tuple[int, ...], float] = {}
            for key, p in tables.items():
                short = tuple(key[place] for place in places)
                sums[short] = sums.get(short, 0) + p
            return lambda key: sums[tuple(key[place] for place in places)]

        z, zr, ze = part(0), part(0, 1), part(0, 2)
        return sum(p * math.log2(p * z(key) / (zr(key) * ze(key))) for key, p in tables.items())

    def nothing(*_: int) -> int:
        return 0

    parts: dict[str, Callable[..., int]] = {
        "domain": lambda d, f, x: d,
        "format": lambda d, f, x: f,
        "id": lambda d, f, x: x,
        "class": lambda d, f, x: x % 2,
    }
    for name, part in parts.items():
        assert getattr(small, f"expert_and_{name}") == pytest.approx(conditional(nothing, part), abs=1e-12)
    for name in ("id", "class", "format"):
        expected = conditional(parts[name], parts["domain"])
        assert getattr(small, f"expert_and_domain_given_{name}") == pytest.approx(expected, abs=1e-12)
    expected = conditional(parts["domain"], parts["class"])
    assert small.expert_and_class_given_domain == pytest.approx(expected, abs=1e-12)


def test_information_adds_up() -> None:
    """I(E;D) + I(E;X|D) = I(E;X) + I(E;D|X)."""
    id_given_domain = conditional_information(MIXED.joint.sum(1))
    left = MIXED.expert_and_domain + id_given_domain
    assert left == pytest.approx(MIXED.expert_and_id + MIXED.expert_and_domain_given_id, abs=1e-12)


def test_what_was_not_planted_is_zero() -> None:
    """A router by class alone, in domains with the same ids and formats: neither domain nor format tells a thing."""
    only = replace(MIXED.scaled(token_class=0.6), tilt=0.0, own_format=0.0)
    for name in ("expert_and_domain", "expert_and_format", "expert_and_domain_given_id"):
        assert getattr(only, name) == pytest.approx(0, abs=1e-12)
    assert (
        only.expert_and_class == pytest.approx(only.expert_and_id) == pytest.approx(only.expert_and_class_given_domain)
    )
    assert only.expert_and_class > 0.5
    by_format = MIXED.scaled(format=0.5)
    assert by_format.expert_and_domain_given_format == pytest.approx(0, abs=1e-12)
    assert by_format.expert_and_domain > 0.01, "a format that domains have of their own is taken for the domain"
    by_id = MIXED.scaled(token_id=0.7)
    assert by_id.expert_and_domain_given_id == pytest.approx(0, abs=1e-12)
    assert by_id.expert_and_domain > 0.01, "ids that a domain prefers too"
    alone = information(MIXED.scaled(domain=1.0).joint.sum((1, 2)))
    assert MIXED.expert_and_domain < alone < math.log2(3)


@pytest.mark.parametrize("top_k", [1, 3])
def test_tokens_are_drawn_from_the_population(top_k: int) -> None:
    drawn = MIXED.tokens(800, 100, seed=3, top_k=top_k)
    found = np.zeros(MIXED.joint.shape)
    places = (drawn.domain[drawn.document], drawn.format[drawn.document], drawn.token_id, drawn.experts[:, 0])
    np.add.at(found, places, 1 / len(drawn.document))
    assert np.abs(found - MIXED.joint).sum() / 2 < 0.08
    for others in ((1, 2), (0, 2), (0, 1)):
        assert found.sum(others) == pytest.approx(MIXED.joint.sum(others), abs=0.004)
    assert information(found.sum((1, 2))) == pytest.approx(MIXED.expert_and_domain, rel=0.05)
    assert (drawn.token_class == drawn.token_id % 6).all()
    assert drawn.experts.shape == (len(drawn.document), top_k)
    assert all(len(set(row)) == top_k for row in drawn.experts[:200].tolist())
    assert (np.diff(drawn.document) >= 0).all()
    assert (drawn.position == np.tile(np.arange(100), 2400)).all()


def test_documents_differ_and_tokens_come_in_bursts() -> None:
    drawn = MIXED.tokens(300, 100, seed=4)
    ids = drawn.token_id.reshape(900, 100)
    by_chance = np.square(MIXED.id_given_domain).sum(1).mean()
    own = (by_chance * MIXED.document_ids + 1) / (MIXED.document_ids + 1)
    assert (ids[:, 1:] == ids[:, :-1]).mean() == pytest.approx(MIXED.burst + (1 - MIXED.burst) * own, rel=0.05)
    assert (ids[:, 50:] == ids[:, :-50]).mean() == pytest.approx(own, rel=0.1)


def test_counts_without_order_are_those_of_tokens() -> None:
    calm = replace(MIXED, burst=0.0)
    drawn = np.concatenate([batch for _, batch in calm.counts(20, 100, 60, seed=1)])
    tokens = [counts(calm.tokens(20, 100, seed=seed)) for seed in range(60)]
    assert drawn.shape == (60, 60, 8)
    shares = drawn.reshape(60, 3, 20, 8).mean((0, 2)) / 100
    assert shares == pytest.approx(calm.share_of_domain, abs=0.01)
    assert np.std(drawn, axis=(0, 1)) == pytest.approx(np.std(tokens, axis=(0, 1)), rel=0.06)


def test_equal_seeds_draw_equal_tokens() -> None:
    first, same, other = (MIXED.tokens(4, 30, seed=seed) for seed in (1, 1, 2))
    for name in ("token_id", "experts", "format"):
        assert (getattr(first, name) == getattr(same, name)).all()
    assert (first.token_id != other.token_id).any()
