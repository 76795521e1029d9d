"""No difference, shown rather than not refuted: two arms within a margin that was fixed before any run.

A p-value above 0.05 says that a difference was not seen, which few documents see to. Two one-sided tests [Schuirmann
1987] ask the reverse question: what is shown is that the difference is smaller than the margin.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moe_emergence.analysis.comparisons import (
    LastTraces,
    compared_arms,
    paired_losses,
    paired_runs,
)
from moe_emergence.analysis.information import resampled_information_difference, resampled_loss_differences
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.specialisation import ALPHA, measurable
from moe_emergence.analysis.statistics import documents_per_domain, seed_equivalence

LOSS_MARGIN = 0.01
"""Nats a token. 1 % of perplexity, and a ninth of the 0.09 nats that the published top-1 model of this kind is ahead of
its dense one (2.1567 and 2.0687): a difference this small would change no conclusion of that experiment. It is of the
question, not of a run: no option changes it."""
INFORMATION_MARGIN = 0.01
"""Share of H(D). Published routers of this kind show 0.017 to 0.045 of H(D): a difference of 0.01 would leave the
lowest of them above a router that tells nothing."""


@dataclass(frozen=True, kw_only=True)
class EquivalenceRow:
    """Whether LM loss on test at the last step is the same for `arm` and `against`, within ±margin nats a token.

    Attributes:
        domain: None is the macro mean, in which each domain weighs the same.
        seeds: how many both arms have; documents: of the smallest domain involved.
        difference: mean over seeds, arm minus against; low90, high90: its 90 % interval over documents, seeds fixed.
        p: the larger of the two one-sided p-values over documents; equivalent: p < 0.05, which is when the interval
            lies inside the margin. Not equivalent is no evidence of a difference.
        seed_low90, seed_high90, seed_p: the same by the paired t test over seeds, documents fixed, which takes seeds'
            differences as normal; None with one seed.
        seed_equivalent: seed_p < 0.05; None with one seed.
    """

    arm: str
    against: str
    domain: str | None
    seeds: int
    documents: int
    margin: float
    difference: float
    low90: float
    high90: float
    p: float
    equivalent: bool
    seed_low90: float | None
    seed_high90: float | None
    seed_p: float | None
    seed_equivalent: bool | None


@dataclass(frozen=True, kw_only=True)
class InformationEquivalenceRow:
    """Whether I(E;D) of the first choice at the last step is the same, within ±margin of H(D); as `EquivalenceRow`,
    with difference and interval in shares of H(D), the difference corrected for bias."""

    arm: str
    against: str
    layer: int
    seeds: int
    documents: int
    margin: float
    difference: float
    low90: float
    high90: float
    p: float
    equivalent: bool


def equivalence_rows(suite: Suite) -> tuple[EquivalenceRow, ...]:
    """One row a compared pair of arms and domain, the macro mean first; none where loss differences have none."""
    return tuple(row for arm, against in compared_arms(suite) for row in _loss_rows(suite, arm, against))


def information_equivalence_rows(suite: Suite, last: LastTraces) -> tuple[InformationEquivalenceRow, ...]:
    """One row a compared pair of arms and layer, where both have experts in the same layers."""
    return tuple(row for arm, against in compared_arms(suite) for row in _information_rows(suite, arm, against, last))


def _loss_rows(suite: Suite, arm: str, against: str) -> Iterator[EquivalenceRow]:
    paired = paired_losses(suite, arm, against)
    if paired is None:
        return
    *domains, macro = resampled_loss_differences(paired.ours, paired.theirs, paired.tokens, paired.domain)
    for domain, values in zip((None, *suite.domains), (macro, *domains), strict=True):
        found = values.equivalence(LOSS_MARGIN)
        of_seeds = np.array(paired.of_seeds(domain))
        over_seeds = seed_equivalence(of_seeds, LOSS_MARGIN) if len(of_seeds) > 1 else None
        yield EquivalenceRow(
            arm=arm,
            against=against,
            domain=domain,
            seeds=len(of_seeds),
            documents=int(values.documents),
            margin=found.margin,
            difference=found.value,
            low90=found.interval.low,
            high90=found.interval.high,
            p=found.p,
            equivalent=found.p < ALPHA,
            seed_low90=None if over_seeds is None else over_seeds.interval.low,
            seed_high90=None if over_seeds is None else over_seeds.interval.high,
            seed_p=None if over_seeds is None else over_seeds.p,
            seed_equivalent=None if over_seeds is None else over_seeds.p < ALPHA,
        )


def _information_rows(suite: Suite, arm: str, against: str, last: LastTraces) -> Iterator[InformationEquivalenceRow]:
    pairs = [(last[arm, run.seed], last[against, run.seed]) for run, _ in paired_runs(suite, arm, against)]
    layers = [[layer.layer for layer in trace.layers] for trace in pairs[0]] if pairs else [[], []]
    if not layers[0] or layers[0] != layers[1] or not measurable(pairs[0][0]):
        return
    domain = pairs[0][0].domain
    sizes = documents_per_domain(domain)
    maximum = float(np.log2(len(sizes)))
    for place, layer in enumerate(layers[0]):
        ours, theirs = (np.stack([pair[side].layers[place].first_choice for pair in pairs]) for side in (0, 1))
        resampled = resampled_information_difference(ours, theirs, domain)
        found = resampled.equivalence(INFORMATION_MARGIN * maximum, biased=True)
        yield InformationEquivalenceRow(
            arm=arm,
            against=against,
            layer=layer,
            seeds=len(pairs),
            documents=int(sizes.min()),
            margin=INFORMATION_MARGIN,
            difference=found.value / maximum,
            low90=found.interval.low / maximum,
            high90=found.interval.high / maximum,
            p=found.p,
            equivalent=found.p < ALPHA,
        )
