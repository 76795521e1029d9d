"""How often intervals hold and nulls reject: what simulations of it share."""

import math

import pytest


def settings(names: str, *cases: tuple, quick: bool = True) -> pytest.MarkDecorator:
    """Every case as a slow run of 2,000 simulations; the first also as a quick one of 200, unless not even that is."""
    marks = [pytest.mark.slow, pytest.mark.timeout(1800)]
    slow = [pytest.param(*case, 2_000, marks=marks) for case in cases]
    return pytest.mark.parametrize((*names.split(), "simulations"), [(*cases[0], 200)] * quick + slow)


def within(share: float, promised: float, simulations: int) -> bool:
    """Whether a rate is what was promised: ± 0.02, or what four standard errors of chance leave of few simulations."""
    chance = 4 * math.sqrt(promised * (1 - promised) / simulations)
    return abs(share - promised) <= (0.02 if simulations >= 2_000 else max(0.02, chance))
