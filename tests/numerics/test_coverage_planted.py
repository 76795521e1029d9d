"""Intervals hold and nulls reject as often as they say, on planted documents whose ids, formats, bursts and own loads
make their tokens alike (`planted`); truths are its closed forms. Slow runs are of 2,000 simulations or more.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from planted import Planted, Shares
from rates import settings, within

from moe_emergence.analysis.class_information import class_information
from moe_emergence.analysis.information import (
    domain_information,
    domain_shares,
    measured_domain_information,
    normalised_information,
    resampled_loss_differences,
    resampled_shares,
)
from moe_emergence.analysis.lift import measured_lift, measured_nmi
from moe_emergence.analysis.matching import matched_profiles, matched_tokens
from moe_emergence.analysis.rank_correlation import Cell, interval_of, ranked_cells
from moe_emergence.analysis.scoreboard import score_rows
from moe_emergence.analysis.statistics import bootstrap, generator, seed_equivalence
from moe_emergence.analysis.traces import document_counts

MIXED = Planted(shares=Shares(domain=0.2, token_class=0.25, format=0.1, token_id=0.15))
FAINT = MIXED.scaled(domain=0.05, token_class=0.3, token_id=0.2)
NOTHING = replace(MIXED.scaled(token_class=0.3, token_id=0.2), tilt=0.0, own_format=0.0)
"""A router by class and id in domains that have the same ids and formats: domains mean nothing."""
ROUTERS = {"mixed": MIXED, "faint": FAINT}
LENGTH = 256


def single_counts(planted: Planted, documents: int, simulations: int, seed: int) -> Iterator[tuple[int, tuple]]:
    """(number, (domain, counts [documents, experts])) of each simulation."""
    number = 0
    for domain, batch in planted.counts(documents, LENGTH, simulations, seed):
        for counts in batch:
            yield number, (domain, counts)
            number += 1


@settings("router documents", *product(("mixed", "faint"), (36, 20)))
def test_interval_of_domain_information_covers(router, documents, simulations) -> None:
    planted, held, nmi_held = ROUTERS[router], 0, 0
    shares, truth = planted.share_of_domain, planted.expert_and_domain
    nmi = float(normalised_information(shares))
    for number, (domain, batch) in enumerate(planted.counts(documents, LENGTH, simulations, seed=21)):
        found = bootstrap(lambda w, c=batch, d=domain: domain_information(c, d, w), domain, None, 1_000, number)
        low, high = found.reflected()
        held += np.count_nonzero((low <= truth) & (truth <= high))
        found = bootstrap(
            lambda w, c=batch, d=domain: normalised_information(resampled_shares(c, d, 3, w)),
            domain,
            None,
            1_000,
            number,
        )
        low, high = found.reflected()
        nmi_held += np.count_nonzero((low <= nmi) & (nmi <= high))
    coverage = held / simulations, nmi_held / simulations
    print(f"planted {router}, {documents} documents: I(E;D) {coverage[0]:.3f}, NMI {coverage[1]:.3f}")
    assert all(within(each, 0.95, simulations) for each in coverage)


@settings("documents", (36,), (20,), quick=False)
def test_nulls_of_domains_reject_as_often_as_they_say(documents, simulations) -> None:
    """I(E;D), NMI and lift, where domains mean nothing and documents differ."""
    rejected = []
    for number, (domain, counts) in single_counts(NOTHING, documents, simulations, 22):
        rejected.append(
            [
                measured_domain_information(counts, domain, 199, 2, number).p,
                measured_nmi(counts, domain, 199, 2, number).p,
                measured_lift(counts, domain, 199, 2, number).measured.p,
            ]
        )
    rates = np.mean(np.array(rejected) <= 0.05, axis=0)
    print(f"planted nulls, {documents} documents: I(E;D) {rates[0]:.3f}, NMI {rates[1]:.3f}, lift {rates[2]:.3f}")
    assert all(within(float(rate), 0.05, simulations) for rate in rates)


@settings("router documents", *product(("mixed", "faint"), (36, 20)), quick=False)
def test_interval_of_lift_covers(router, documents, simulations) -> None:
    """The truth is the mean lift of the two cells that the halves chose."""
    planted, held = ROUTERS[router], 0
    shares = planted.share_of_domain
    for number, (domain, counts) in single_counts(planted, documents, simulations, 23):
        found = measured_lift(counts, domain, 2, 500, number)
        truth = 8 * np.mean([shares[cell] for cell in found.of_halves])
        held += found.measured.estimate.interval.low <= truth <= found.measured.estimate.interval.high
    print(f"lift, {router}, {documents} documents: {held / simulations:.3f}")
    assert within(held / simulations, 0.95, simulations)


@settings("documents", (36,), (20,), quick=False)
def test_intervals_of_shares_cover_in_every_cell(documents, simulations) -> None:
    held, truth = [], MIXED.share_of_domain
    for number, (domain, counts) in single_counts(MIXED, documents, simulations, 24):
        found = domain_shares(counts, domain, 500, number)
        held.append((found.low <= truth) & (truth <= found.high))
    coverage = np.mean(held, axis=0)
    print(f"shares, {documents} documents: mean {coverage.mean():.3f}, cells {coverage.min():.3f}–{coverage.max():.3f}")
    assert within(float(coverage.mean()), 0.95, simulations)
    assert within(float(coverage.min()), 0.95, simulations)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("router", ["mixed", "by domain"])
def test_class_information_covers_and_its_null_rejects(router) -> None:
    """36 documents of 120 tokens. The null: a router that knows domain and document, and no token."""
    planted = {"mixed": MIXED, "by domain": MIXED.scaled(domain=0.4, format=0.2)}[router]
    truth, held, p_values = planted.expert_and_class_within_documents(120), 0, []
    for seed in range(2_000):
        tokens = planted.tokens(12, 120, seed)
        classes = tokens.token_class.astype(np.uint8)
        found = class_information(classes, tokens.experts, tokens.document, 8, shifts=99, seed=seed)
        held += found.estimate.interval.low <= truth <= found.estimate.interval.high
        p_values.append(found.p)
    rejected = float(np.mean(np.array(p_values) <= 0.05))
    print(f"I(E;class), {router}: interval {held / 2_000:.3f}, rejected {rejected:.3f}, truth {truth:.4f}")
    if router == "mixed":
        assert within(held / 2_000, 0.95, 2_000)
    else:
        assert held / 2_000 >= 0.93
        assert within(rejected, 0.05, 2_000)


@settings("documents", (36,), (20,), quick=False)
def test_equivalence_is_claimed_as_often_as_it_says_where_arms_differ_by_the_margin(documents, simulations) -> None:
    """Differences of documents have heavy tails; their mean is the margin: 5 % are called equivalent. The margin is
    some seven standard errors: with two or three, both one-sided tests seldom pass at once, and fewer are."""
    domain, rng, p_values, margin = np.repeat(np.arange(3), documents), generator(25), [], 0.04
    for number in range(simulations):
        tokens = rng.integers(50, 257, size=len(domain))
        second = tokens * rng.gamma(20, 0.15, size=len(domain))
        first = second + tokens * (margin + 0.02 * rng.standard_t(5, size=len(domain)))
        resampled = resampled_loss_differences(first, second, tokens, domain, 500, number)
        p_values.append([values.equivalence(margin).p for values in resampled])
    rejected = np.mean(np.array(p_values) < 0.05, axis=0)
    print(f"equivalence, {documents} documents: domains {rejected[:-1].mean():.3f}, macro {rejected[-1]:.3f}")
    assert within(float(rejected[:-1].mean()), 0.05, simulations)
    assert within(float(rejected[-1]), 0.05, simulations)


@settings("seeds", (5,), (3,))
def test_equivalence_over_seeds(seeds, simulations) -> None:
    differences = 0.01 + 0.004 * generator(26).normal(size=(simulations, seeds))
    rejected = float(np.mean([seed_equivalence(each, 0.01).p < 0.05 for each in differences]))
    print(f"equivalence over {seeds} seeds: {rejected:.3f}")
    assert within(rejected, 0.05, simulations)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("documents", [36, 20])
def test_matching_of_tokens_covers_and_its_null_rejects(documents) -> None:
    """The null: two routers that go by domain and document's own load, alike in both, and by no token."""
    unrelated, strong = MIXED.scaled(domain=0.4), MIXED.scaled(domain=0.2, token_class=0.3, token_id=0.1)
    agreement, held, p_values = strong.agreement_with(strong), 0, []
    for seed in range(2_000):
        tokens = unrelated.tokens(documents, 60, seed)
        other = unrelated.rerouted(tokens, seed)
        p_values.append(matched_tokens(tokens.experts, other, tokens.document, tokens.domain, 8, 99, 2, seed).p)
        tokens = strong.tokens(documents, 60, seed)
        other = strong.rerouted(tokens, seed)
        found = matched_tokens(tokens.experts, other, tokens.document, tokens.domain, 8, 2, 500, seed)
        truth = agreement[np.arange(8), found.matches].sum()
        held += found.agreement.interval.low <= truth <= found.agreement.interval.high
    rejected = float(np.mean(np.array(p_values) <= 0.05))
    print(f"matched tokens, {documents} documents: interval {held / 2_000:.3f}, rejected {rejected:.3f}")
    assert within(held / 2_000, 0.95, 2_000)
    assert within(rejected, 0.05, 2_000)


@settings("documents", (36,), (20,), quick=False)
def test_null_of_matched_profiles_rejects_as_often_as_it_says(documents, simulations) -> None:
    """One router has profiles and the other's domains mean nothing; or both see nothing in the domains of the same
    documents, whose ids and formats move both alike."""
    p_values, p_both = [], []
    pairs = zip(
        single_counts(MIXED, documents, simulations, 27),
        single_counts(NOTHING, documents, simulations, 28),
        strict=True,
    )
    for (number, (domain, counts)), (_, (_, others)) in pairs:
        p_values.append(matched_profiles(counts, others, domain, 99, 2, number).p)
        tokens = NOTHING.tokens(documents, 60, number)
        both = [
            document_counts(routed, tokens.document, len(domain), 8)
            for routed in (tokens.experts, NOTHING.rerouted(tokens, number))
        ]
        p_both.append(matched_profiles(*both, domain, 99, 2, number).p)
    rejected = [float(np.mean(np.array(p) <= 0.05)) for p in (p_values, p_both)]
    print(f"matched profiles, {documents} documents: {rejected[0]:.3f}, both without: {rejected[1]:.3f}")
    assert all(within(rate, 0.05, simulations) for rate in rejected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("documents", [36, 20])
def test_interval_of_matched_profiles_covers(documents) -> None:
    """Two routers with profiles that agree in part; the truth is of the experts that the halves matched."""
    other = replace(MIXED, shares=Shares(domain=0.1, token_class=0.4, token_id=0.3))
    profiles = [p - p.mean(0) for p in (MIXED.share_of_domain, other.share_of_domain)]
    ours, theirs = (profile / np.sqrt((profile**2).sum()) for profile in profiles)
    held, kept = 0, 0
    pairs = zip(single_counts(MIXED, documents, 2_000, 29), single_counts(other, documents, 2_000, 30), strict=True)
    for (number, (domain, counts)), (_, (_, others)) in pairs:
        found = matched_profiles(counts, others, domain, 2, 500, number)
        truth = float((ours * theirs[:, list(found.matches)]).sum())
        held += found.agreement.interval.low <= truth <= found.agreement.interval.high
        kept += 1
    print(f"interval of matched profiles, {documents} documents: {held / kept:.3f}")
    assert within(held / kept, 0.95, kept)


def scored(rho: float, runs: int, experts: int, rng: np.random.Generator, domains: int = 0) -> tuple[dict, dict]:
    """Normal values of experts of two layers with a correlation within layers, and far apart between layers."""
    names = [None] if domains == 0 else [f"d{number}" for number in range(domains)]
    cells = [Cell("moe", *key) for key in product(range(runs), (9,), (2, 3), range(experts), names)]
    level = np.array([5.0 * cell.layer for cell in cells])
    shared, own = rng.normal(size=(2, len(cells)))
    of_expert = np.repeat(rng.normal(size=(2, len(cells) // len(names))), len(names), axis=1)
    if domains:
        shared, own = (0.8 * of_expert + 0.6 * np.stack([shared, own])).tolist()
    second = rho * np.array(shared) + math.sqrt(1 - rho**2) * np.array(own)
    return (dict(zip(cells, (level + np.array(values)).tolist(), strict=True)) for values in (shared, second))


@settings("runs domains", *product((1, 5), (0, 3)))
def test_null_of_the_scoreboard_rejects_as_often_as_it_says(runs, domains, simulations) -> None:
    """An expert's domains are alike, so dealing single cells would reject too often."""
    rng = generator(31)
    p_values = [
        score_rows(*({"x": values} for values in scored(0.0, runs, 8, rng, domains)), 199, 2)[0].p
        for _ in range(simulations)
    ]
    rejected = float(np.mean(np.array(p_values) <= 0.05))
    print(f"scoreboard null, {runs} runs, {domains or 'no'} domains: {rejected:.3f}")
    assert within(rejected, 0.05, simulations)


@settings("seeds likeness", (3, 0.9), (3, 1.0), (5, 0.9), (3, 0.3))
def test_null_of_the_scoreboard_holds_for_arms_of_one_seed(seeds, likeness, simulations) -> None:
    """Four arms whose measures and effects are alike within a seed, as those of arms that began as one model."""
    rng, p_values = generator(33), []
    for _ in range(simulations):
        common, values = scored(0.0, seeds, 8, rng), [{}, {}]
        for side, shared in enumerate(common):
            for arm in "abcd":
                own = rng.normal(size=len(shared))
                mixed = likeness * np.array(list(shared.values())) + math.sqrt(1 - likeness**2) * own
                values[side] |= {cell._replace(arm=arm): v for cell, v in zip(shared, mixed.tolist(), strict=True)}
        rows = score_rows({"x": values[0]}, {"y": values[1]}, 199, 2)
        p_values.append(next(row.p for row in rows if row.arm == "all"))
    rejected = float(np.mean(np.array(p_values) <= 0.05))
    print(f"scoreboard null, 4 arms of {seeds} seeds, likeness {likeness}: {rejected:.3f}")
    assert within(rejected, 0.05, simulations)


@settings(
    "runs rho domains", *product((1, 3, 5, 10), (0.0, 0.5, 0.8), (0,)), *product((1, 3, 5), (0.0, 0.5, 0.8), (3,))
)
def test_interval_of_the_scoreboard_covers(runs, rho, domains, simulations) -> None:
    """Two layers of 8 experts. The truth is Spearman's mean in samples of 8 of a normal population [Moran 1948]. A rho
    of ±1, once in a thousand of one run, has no interval, which counts as a miss."""
    n = 8
    truth = 6 / (math.pi * (n + 1)) * (math.asin(rho) + (n - 2) * math.asin(rho / 2))
    rng, held = generator(32), 0
    for number in range(simulations):
        measure, effect = scored(rho, runs, n, rng, domains)
        found = interval_of(ranked_cells(list(measure), measure, effect), 500, number)
        held += found is not None and found[0].low <= truth <= found[0].high
    print(f"scoreboard interval, {runs} runs, rho {rho}, {domains or 'no'} domains: {held / simulations:.3f}")
    assert within(held / simulations, 0.95, simulations)
