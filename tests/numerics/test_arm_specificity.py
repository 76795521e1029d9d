"""How often experts of an arm are said to matter to their domains: as promised where documents' changes know no domain,
nearly always where every seed has a specialist of its own.

Seeds share documents: a document that is hard for one seed is for all, and dealt domains are the same in all seeds.
"""

import numpy as np
import pytest
from rates import within

from moe_emergence.analysis.causal.effects import Origin
from moe_emergence.analysis.causal.specificity import mean_over_seeds_p, specificity, specificity_draws
from moe_emergence.analysis.specialisation import ALPHA

DOMAIN = np.repeat([0, 1, 2], 12)
SEEDS, EXPERTS, TOKENS = 3, 4, 10
HERE = Origin(
    arm="moe", seed=1, step=7, domains=("a", "b", "c"), domain=DOMAIN, predicted=np.full(36, TOKENS, dtype=np.int64)
)
SLOW = pytest.param(2_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


def p_value(random: np.random.Generator, effect: float = 0.0) -> float:
    """Of one layer of an arm; one expert of each seed costs one domain `effect` standard deviations more."""
    hard, draws = random.normal(size=36), []
    for _ in range(SEEDS):
        change = random.normal(size=(EXPERTS, 36)) + hard
        change[random.integers(EXPERTS), random.integers(3) == DOMAIN] += effect
        found = specificity(HERE, change, permutations=99, splits=6)
        draws += specificity_draws(HERE, (0,), [found])
    return mean_over_seeds_p(draws)


@pytest.mark.parametrize("simulations", [150, SLOW])
def test_changes_that_know_no_domain_are_specific_in_one_of_twenty(simulations: int) -> None:
    random = np.random.default_rng(0)
    rejected = np.mean([p_value(random) <= ALPHA for _ in range(simulations)])
    print(f"{rejected:.4f} of {simulations}")
    assert within(rejected, ALPHA, simulations)


@pytest.mark.parametrize("simulations", [20, SLOW])
def test_a_specialist_in_every_seed_is_found(simulations: int) -> None:
    random = np.random.default_rng(1)
    assert np.mean([p_value(random, effect=3.0) <= ALPHA for _ in range(simulations)]) >= 0.95
