"""What depends on the step alone: the learning rate, and when to look."""

import math

from moe_emergence.config import OptimizerConfig


def learning_rate_factor(update: int, steps: int, config: OptimizerConfig) -> float:
    """The rate of an update (from 0) as a share of the peak: linear warm-up, then cosine to zero.

    The first update of a warm-up of w steps has 1/w, update w − 1 the peak; the update after the last would have 0.
    """
    warmup = round(config.warmup * steps)
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def evaluation_steps(steps: int, points: int) -> tuple[int, ...]:
    """At most `points` steps from 0 to the last, evenly spaced in the logarithm of 1 + step; both ends always there.

    Early steps come close together because routing changes fastest there. Fewer where neighbours coincide.
    """
    last = math.log1p(steps)
    return tuple(sorted({round(math.expm1(last * point / (points - 1))) for point in range(points)} | {0, steps}))
