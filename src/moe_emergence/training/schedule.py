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
    """`points` steps from 0 to the last, evenly spaced in the logarithm of 1 + step; every step where there are fewer.

    Early steps come close together because routing changes fastest there; where they would coincide, the later ones
    move on to the next free step.
    """
    last, most = math.log1p(steps), min(points, steps + 1) - 1
    grid = [0]
    for point in range(1, most + 1):
        grid.append(max(grid[-1] + 1, round(math.expm1(last * point / most))))
    return tuple(grid)


def snapshot_steps(looks: tuple[int, ...], count: int) -> tuple[int, ...]:
    """At most `count` of the looks' steps: the first, the last, and others evenly over the looks; one is the last."""
    if count <= 1:
        return looks[-1:] * count
    chosen = {round(place * (len(looks) - 1) / (count - 1)) for place in range(count)}
    return tuple(looks[place] for place in sorted(chosen))
