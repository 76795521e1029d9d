"""How often intervals hold and nulls reject: what simulations of it share."""

import math

import pytest


def settings(names: str, *cases: tuple) -> pytest.MarkDecorator:
    """The first case also as a quick run of 200 simulations; every case as a slow run of 2,000."""
    marks = [pytest.mark.slow, pytest.mark.timeout(1800)]
    slow = [pytest.param(*case, 2_000, marks=marks) for case in cases]
    return pytest.mark.parametrize((*names.split(), "simulations"), [(*cases[0], 200), *slow])


def within(share: float, promised: float, simulations: int) -> bool:
    """Whether a rate is what was promised: ± 0.02, or what four standard errors of chance leave of few simulations."""
    chance = 4 * math.sqrt(promised * (1 - promised) / simulations)
    return abs(share - promised) <= (0.02 if simulations >= 2_000 else max(0.02, chance))
