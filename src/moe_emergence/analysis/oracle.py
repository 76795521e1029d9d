"""The scale of LM loss: how much of what routing by domain gains over the dense model each arm gains."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t

from moe_emergence.analysis.comparisons import paired_losses
from moe_emergence.analysis.information import resampled_loss_differences
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.statistics import TAIL, Bootstrap, Estimate, Interval


@dataclass(frozen=True, kw_only=True)
class OracleGainRow:
    """Macro LM loss on test at the last step: what `arm` gains over the dense arm, beside what the oracle gains, whose
    experts are divided among the domains; nats per token, means over the seeds that all three have.

    Attributes:
        oracle: the arm's name; documents: of the domain with the fewest.
        oracle_gain: dense − oracle: above 0 where routing by domain lowers the loss; with its 95 % interval over
            documents, seeds fixed.
        gain: dense − arm, with the same, on the same resamples of documents.
        share: gain ÷ oracle_gain: 0 for a loss as high as that of dense, 1 for one as low as the oracle's, below and
            above where it is higher and lower still; with its interval by Fieller. All None where the interval of
            oracle_gain does not lie above 0: there is nothing to have a share of.
    """

    arm: str
    oracle: str
    seeds: int
    documents: int
    oracle_gain: float
    oracle_low: float
    oracle_high: float
    gain: float
    low: float
    high: float
    share: float | None
    share_low: float | None
    share_high: float | None


def oracle_arm(suite: Suite) -> str | None:
    """The first arm whose runs are routed by domain."""
    by_domain = (run.arm for run in suite.runs if run.config.moe is not None and run.config.moe.router == "domain")
    return next(by_domain, None)


def oracle_gain_rows(suite: Suite) -> tuple[OracleGainRow, ...]:
    """Every arm that is neither dense nor the oracle; none without both of these, a seed that all three have, or 2 test
    documents in every domain.

    Raises:
        AnalysisError: runs were tested on other documents; names both.
    """
    dense, oracle = suite.dense, oracle_arm(suite)
    if dense is None or oracle is None:
        return ()
    others = [arm.name for arm in suite.arms if arm.name not in (dense, oracle)]
    return tuple(row for arm in others for row in _gain(suite, arm, dense, oracle))


def _gain(suite: Suite, arm: str, dense: str, oracle: str) -> Iterator[OracleGainRow]:
    seeds = set.intersection(*({run.seed for run in suite.runs_of(name)} for name in (arm, dense, oracle)))
    shared = replace(suite, runs=tuple(run for run in suite.runs if run.seed in seeds))
    ours, best = paired_losses(shared, dense, arm), paired_losses(shared, dense, oracle)
    if ours is None or best is None:
        return
    gain, whole = (
        resampled_loss_differences(pair.ours, pair.theirs, pair.tokens, pair.domain)[-1] for pair in (ours, best)
    )
    of_arm, of_oracle = gain.difference(), whole.difference()
    share = ratio(gain, whole) if of_oracle.interval.low > 0 else None
    yield OracleGainRow(
        arm=arm,
        oracle=oracle,
        seeds=len(seeds),
        documents=int(ours.sizes.min()),
        oracle_gain=of_oracle.value,
        oracle_low=of_oracle.interval.low,
        oracle_high=of_oracle.interval.high,
        gain=of_arm.value,
        low=of_arm.interval.low,
        high=of_arm.interval.high,
        share=None if share is None else share.value,
        share_low=None if share is None else share.interval.low,
        share_high=None if share is None else share.interval.high,
    )


def ratio(first: Bootstrap, second: Bootstrap) -> Estimate:
    """first ÷ second, both on the same resamples, with Fieller's 95 % interval [Fieller 1954]: every r for which
    first − r · second is not shown to differ from 0 by `Bootstrap.difference`.

    It is bounded where the interval of `second` leaves out 0; elsewhere there is none to give.
    """
    documents = int(second.documents)
    spread = t.ppf(1 - TAIL, documents - 1) ** 2 * documents / (documents - 1)
    (of_first, of_both), (_, of_second) = spread * np.cov(first.replicates, second.replicates, ddof=0)
    above, below = float(first.observed), float(second.observed)
    a, b, c = below**2 - of_second, above * below - of_both, above**2 - of_first
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Estimate(above / below, Interval((b - root) / a, (b + root) / a))
