"""How often arms are said to have learned: at most as often as promised where routers are as drawn, nearly always where
they route by domain. Twelve runs, each judged alone, are wrong about one of them in nearly half of all suites.

Gates are drawn as fresh ones are and read the same hidden states, as at the first step: those of a token are its
document's, which lie around its domain's, and its own.
"""

import numpy as np
import pytest

from moe_emergence.analysis.arm_verdicts import fresh_means, holm_over_arms
from moe_emergence.analysis.information import domain_information
from moe_emergence.analysis.specialisation import ALPHA, westfall_young
from moe_emergence.analysis.statistics import generator

ARMS, SEEDS, LAYERS, GATES = 4, 3, 2, 199
DOMAINS, DOCUMENTS, TOKENS, WIDTH, EXPERTS = 3, 12, 12, 12, 8
DOMAIN = np.repeat(np.arange(DOMAINS), DOCUMENTS)
SLOW = pytest.param(2_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


def information(states: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """[gates]: I(E;D) of [gates, width, experts] on [tokens, width], bits."""
    chosen = np.argmax(np.einsum("tw,gwe->gte", states, gates, optimize=True), axis=-1)
    counts = (chosen.reshape(len(gates), len(DOMAIN), TOKENS, 1) == np.arange(EXPERTS)).sum(2)
    return domain_information(counts, DOMAIN)


def suite(random: np.random.Generator, learned: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """I(E;D) of fresh gates [gates, layers] and of routers [arms, seeds, layers], those of the first arm turned towards
    the domains by `learned`."""
    fresh, routers = np.empty((GATES, LAYERS)), np.empty((ARMS, SEEDS, LAYERS))
    for layer in range(LAYERS):
        places = random.normal(size=(DOMAINS, WIDTH))
        documents = 0.5 * places[DOMAIN] + 0.5 * random.normal(size=(len(DOMAIN), WIDTH))
        states = np.repeat(documents, TOKENS, axis=0) + random.normal(size=(len(DOMAIN) * TOKENS, WIDTH))
        gates = random.normal(size=(GATES + ARMS * SEEDS, WIDTH, EXPERTS))
        gates[GATES : GATES + SEEDS] += learned * places[np.arange(EXPERTS) % DOMAINS].T
        values = information(states, gates)
        fresh[:, layer], routers[..., layer] = values[:GATES], values[GATES:].reshape(ARMS, SEEDS)
    return fresh, routers


def judged(fresh: np.ndarray, routers: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each arm [arms] shows more than fresh gates in some layer, and each run alone [arms, seeds]."""
    null = fresh_means([fresh] * SEEDS, draws=2_000, seed=seed)
    p_values = np.concatenate([westfall_young(arm.mean(0), null) for arm in routers])
    over_arms = holm_over_arms(p_values, np.repeat(np.arange(ARMS), LAYERS).astype(str).tolist())
    alone = [[westfall_young(run, fresh).min() for run in arm] for arm in routers]
    return over_arms.reshape(ARMS, LAYERS).min(1) < ALPHA, np.array(alone) < ALPHA


@pytest.mark.parametrize("simulations", [100, SLOW])
def test_routers_that_are_as_drawn_make_no_arm_learned(simulations: int) -> None:
    """Any of four arms in at most 5 % of suites, or what four standard errors of chance add."""
    random = generator(3)
    found = [judged(*suite(random), seed) for seed in range(simulations)]
    arms, runs = (np.mean([known[side].any() for known in found]) for side in (0, 1))
    assert arms <= ALPHA + min(0.09, 4 * np.sqrt(ALPHA * (1 - ALPHA) / simulations)), arms
    assert runs > 0.25, f"{runs}: what is kept from being called a result"


@pytest.mark.parametrize("simulations", [20, SLOW])
def test_routing_by_domain_is_found_in_the_arm_that_has_it(simulations: int) -> None:
    random = generator(4)
    found = np.array([judged(*suite(random, learned=1.5), seed)[0] for seed in range(simulations)])
    assert found[:, 0].mean() >= 0.95
    others = found[:, 1:].any(1).mean()
    assert others <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / simulations), others
