"""Differences between arms with intervals over documents: the same documents and seeds on both sides."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_emergence.analysis.information import (
    domain_losses,
    information_difference,
    loss_difference,
)
from moe_emergence.analysis.records import Evaluation, Floats, Run, Suite
from moe_emergence.analysis.specialisation import measurable
from moe_emergence.analysis.statistics import Difference, holm
from moe_emergence.analysis.traces import Trace, read_trace
from moe_emergence.errors import AnalysisError

LastTraces = Mapping[tuple[str, int], Trace]
"""(arm, seed) to the run's trace at its last step."""


@dataclass(frozen=True, kw_only=True)
class LossDifferenceRow:
    """LM loss on test of `arm` minus that of `against`, nats a token; below 0, `arm` is better.

    Attributes:
        domain: None is the macro mean, in which each domain weighs the same.
        seeds: how many both arms have; the difference is their mean.
        step, against_step: the last steps of the two; different where a run ended early.
        low, high: 95 % interval over documents, seeds fixed.
        seed_low, seed_high: smallest and largest difference of a seed.
        p, p_holm: two-sided; Holm over the domains of the same two arms (the macro mean is one question of its own).
        documents: of the domain with the fewest.
    """

    arm: str
    against: str
    domain: str | None
    seeds: int
    step: int
    against_step: int
    documents: int
    difference: float
    low: float
    high: float
    seed_low: float
    seed_high: float
    p: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class InformationDifferenceRow:
    """I(E;D) of the first choice at the last step, `arm` minus `against`, bits, corrected for bias; the rest as in
    `LossDifferenceRow`. A change since the start has the arm itself as `against`, at step 0.

    Attributes:
        share, low_share, high_share: difference and interval ÷ H(D); seed_low_share, seed_high_share: seed_low and
            seed_high ÷ H(D).
        p_holm: over the layers of the same two arms.
    """

    arm: str
    against: str
    layer: int
    seeds: int
    step: int
    against_step: int
    documents: int
    difference: float
    low: float
    high: float
    share: float
    low_share: float
    high_share: float
    seed_low: float
    seed_high: float
    seed_low_share: float
    seed_high_share: float
    p: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class ArmLossRow:
    """LM loss on test at the last step of one arm and domain (None: macro mean), nats a token, with its 95 % interval
    over documents; the mean of `seeds` seeds."""

    arm: str
    domain: str | None
    seeds: int
    documents: int
    lm_loss: float
    low: float
    high: float


def arm_loss_rows(suite: Suite) -> tuple[ArmLossRow, ...]:
    """The macro mean, then each domain, of every arm with a result; none where a domain has fewer than 2 documents."""
    return tuple(row for arm in suite.arms for row in _arm_loss_rows(suite, suite.runs_of(arm.name)))


def loss_difference_rows(suite: Suite) -> tuple[LossDifferenceRow, ...]:
    """Every arm against the dense one, and against its baseline where that is another."""
    return tuple(row for arm, against in compared_arms(suite) for row in _loss_differences(suite, arm, against))


def information_difference_rows(suite: Suite, last: LastTraces) -> tuple[InformationDifferenceRow, ...]:
    """Every arm against its baseline where both have experts in the same layers."""
    return tuple(
        row for arm, against in compared_arms(suite) for row in _information_differences(suite, arm, against, last)
    )


def information_change_rows(suite: Suite, last: LastTraces) -> tuple[InformationDifferenceRow, ...]:
    """Every arm with experts against its own gates at step 0."""
    return tuple(row for arm in suite.arms for row in _information_changes(suite, arm.name, last))


def compared_arms(suite: Suite) -> Iterator[tuple[str, str]]:
    """(arm, what it is compared with): the dense arm first, then its own baseline."""
    there = {run.arm for run in suite.runs}
    for arm in suite.arms:
        others = dict.fromkeys(name for name in (suite.dense, arm.baseline) if name is not None and name != arm.name)
        yield from ((arm.name, other) for other in others if {arm.name, other} <= there)


def paired_runs(suite: Suite, arm: str, against: str) -> list[tuple[Run, Run]]:
    """Runs of the two arms with the same seed."""
    others = {run.seed: run for run in suite.runs_of(against)}
    return [(run, others[run.seed]) for run in suite.runs_of(arm) if run.seed in others]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedLosses:
    """Two arms on the same test documents, at the last step of runs with the same seeds.

    Attributes:
        pairs: (the arm's run, the other's), one a seed.
        ours, theirs: [seeds, documents] summed loss in nats.
        tokens, domain: [documents] predicted tokens and domain.
    """

    pairs: list[tuple[Run, Run]]
    ours: Floats
    theirs: Floats
    tokens: NDArray[np.int64]
    domain: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[domains] documents."""
        return np.bincount(self.domain)

    def of_seeds(self, domain: str | None) -> list[float]:
        """Each seed's difference in LM loss, nats a token; None is the macro mean."""
        return [_loss(run.last_test, domain) - _loss(other.last_test, domain) for run, other in self.pairs]


def paired_losses(suite: Suite, arm: str, against: str) -> PairedLosses | None:
    """The two arms' losses; None where they share no seed, or a domain has fewer than 2 documents.

    Raises:
        AnalysisError: runs were tested on other documents; names both.
    """
    pairs = paired_runs(suite, arm, against)
    looks = [(_documents(run.last_test), _documents(other.last_test)) for run, other in pairs]
    if not looks or looks[0][0].sizes.min() < 2:
        return None
    _refuse_other_documents([run for pair in pairs for run in pair], [look for pair in looks for look in pair])
    first = looks[0][0]
    ours, theirs = (np.stack([look[side].loss for look in looks]) for side in (0, 1))
    return PairedLosses(pairs=pairs, ours=ours, theirs=theirs, tokens=first.tokens, domain=first.domain)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Documents:
    """An evaluation's test documents, domain by domain: summed loss in nats, predicted tokens, domain."""

    index: NDArray[np.int64]
    loss: Floats
    tokens: NDArray[np.int64]
    domain: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.bincount(self.domain)


def _documents(look: Evaluation) -> _Documents:
    parts = list(look.documents.values())
    return _Documents(
        index=np.concatenate([part.index for part in parts]),
        loss=np.concatenate([part.loss for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        domain=np.repeat(np.arange(len(parts)), [len(part.index) for part in parts]),
    )


def _refuse_other_documents(runs: Sequence[Run], looks: Sequence[_Documents]) -> None:
    """Pairing is by document: every run must have been tested on the same ones."""
    for run, look in zip(runs, looks, strict=True):
        same = np.array_equal(look.index, looks[0].index) and np.array_equal(look.tokens, looks[0].tokens)
        if not same:
            raise AnalysisError(
                f"{run.folder} was tested on other documents than {runs[0].folder} ({len(look.index)} and "
                f"{len(looks[0].index)}, or other tokens of them): runs are compared on the same test blocks only; "
                "give them the same data.test_blocks"
            )


def _arm_loss_rows(suite: Suite, runs: Sequence[Run]) -> Iterator[ArmLossRow]:
    looks = [_documents(run.last_test) for run in runs]
    if not looks or looks[0].sizes.min() < 2:
        return
    _refuse_other_documents(runs, looks)
    first, losses = looks[0], np.stack([look.loss for look in looks])
    found = domain_losses(losses, first.tokens, first.domain)
    for domain, size, value in zip(
        (None, *suite.domains), (first.sizes.min(), *first.sizes), (found.macro, *found.domains), strict=True
    ):
        yield ArmLossRow(
            arm=runs[0].arm,
            domain=domain,
            seeds=len(runs),
            documents=int(size),
            lm_loss=value.value,
            low=value.interval.low,
            high=value.interval.high,
        )


def _loss_differences(suite: Suite, arm: str, against: str) -> Iterator[LossDifferenceRow]:
    paired = paired_losses(suite, arm, against)
    if paired is None:
        return
    pairs, sizes = paired.pairs, paired.sizes
    found = loss_difference(paired.ours, paired.theirs, paired.tokens, paired.domain)
    adjusted = holm(np.array([difference.p for difference in found.domains]))
    rows = zip(
        (None, *suite.domains),
        (int(sizes.min()), *map(int, sizes)),
        (found.macro, *found.domains),
        (found.macro.p, *adjusted.tolist()),
        strict=True,
    )
    for domain, size, difference, p_holm in rows:
        of_seeds = paired.of_seeds(domain)
        yield LossDifferenceRow(
            arm=arm,
            against=against,
            domain=domain,
            seeds=len(pairs),
            step=max(run.last_step for run, _ in pairs),
            against_step=max(other.last_step for _, other in pairs),
            documents=size,
            difference=difference.value,
            low=difference.interval.low,
            high=difference.interval.high,
            seed_low=min(of_seeds),
            seed_high=max(of_seeds),
            p=difference.p,
            p_holm=p_holm,
        )


def _loss(look: Evaluation, domain: str | None) -> float:
    return look.lm_loss_macro if domain is None else look.lm_loss[domain]


def _information_differences(
    suite: Suite, arm: str, against: str, last: LastTraces
) -> Iterator[InformationDifferenceRow]:
    runs = paired_runs(suite, arm, against)
    pairs = [(last[arm, run.seed], last[against, run.seed]) for run, _ in runs]
    return _differences(suite, arm, against, pairs)


def _information_changes(suite: Suite, arm: str, last: LastTraces) -> Iterator[InformationDifferenceRow]:
    runs = [run for run in suite.runs_of(arm) if run.manifest.moe_layers]
    pairs = [(last[arm, run.seed], read_trace(run, 0)) for run in runs]
    return _differences(suite, arm, arm, pairs)


def _differences(
    suite: Suite, arm: str, against: str, pairs: Sequence[tuple[Trace, Trace]]
) -> Iterator[InformationDifferenceRow]:
    """One row a layer of paired traces, one pair a seed; none where they have no layers in common to compare."""
    layers = [layer.layer for layer in pairs[0][0].layers] if pairs else []
    if not layers or layers != [layer.layer for layer in pairs[0][1].layers] or not measurable(pairs[0][0]):
        return
    domain = pairs[0][0].domain
    found: list[tuple[Difference, list[float]]] = []
    for place in range(len(layers)):
        ours, theirs = (np.stack([pair[side].layers[place].first_choice for pair in pairs]) for side in (0, 1))
        of_seeds = [information_difference(a, b, domain).value for a, b in zip(ours, theirs, strict=True)]
        found.append((information_difference(ours, theirs, domain), of_seeds))
    adjusted = holm(np.array([difference.p for difference, _ in found]))
    maximum = math.log2(len(suite.domains))
    for layer, (difference, of_seeds), p_holm in zip(layers, found, adjusted.tolist(), strict=True):
        low, high = difference.interval.low, difference.interval.high
        yield InformationDifferenceRow(
            arm=arm,
            against=against,
            layer=layer,
            seeds=len(pairs),
            step=max(ours.step for ours, _ in pairs),
            against_step=max(theirs.step for _, theirs in pairs),
            documents=int(np.bincount(domain).min()),
            difference=difference.value,
            low=low,
            high=high,
            share=difference.value / maximum,
            low_share=low / maximum,
            high_share=high / maximum,
            seed_low=min(of_seeds),
            seed_high=max(of_seeds),
            seed_low_share=min(of_seeds) / maximum,
            seed_high_share=max(of_seeds) / maximum,
            p=difference.p,
            p_holm=p_holm,
        )
