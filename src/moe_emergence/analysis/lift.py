"""How strongly the most specialised expert of a layer is used: its lift, chosen on one half of the documents and tested
on the other, and the normalised information of the whole layer.

Lift is P(i|D)·E/k, with P(i|D) the share of the domain's tokens that use expert i [Muennighoff et al. 2024,
arXiv:2409.02060, §5]; as a token has k assignments it is E times the domain's share of assignments.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from moe_emergence.analysis.information import labelled_shares, normalised_information, resampled_shares
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.specialisation import Counted, counted_ways
from moe_emergence.analysis.statistics import (
    PERMUTATIONS,
    REPLICATES,
    Domains,
    Estimate,
    Interval,
    bootstrap,
    central_range,
    document_halves,
    documents_per_domain,
    generator,
    labels_permuted_in_halves,
    null_p_value,
    permuted_labels,
)
from moe_emergence.analysis.traces import Trace


@dataclass(frozen=True, kw_only=True)
class LiftRow:
    """The most specialised expert of one layer at one trace, and NMI; domains weighted equally.

    Attributes:
        counted: all slots or the first choice.
        documents: of the smallest domain; tokens: of the probe set.
        nmi: 2·I(E;D)/(H(E) + H(D)), corrected for bias, 0..1; nmi_low, nmi_high: its 95 % interval over documents.
        nmi_null_mean, nmi_null_high: the plug-in with document labels permuted: mean and 97.5 % point.
        p_nmi: how often permuted labels show as much as the plug-in.
        expert, domain: the cell of the largest lift on all documents; largest: that lift, too large by the choice.
        agreed: both halves of the documents choose this cell.
        lift: of the cell that each half chooses, on the other half; mean of the two. 1 when all experts are used
            alike, `maximum` when every token of the domain uses the expert. Load alone raises it: an expert that takes
            a share s of every domain has E·s.
        lift_low, lift_high: its 95 % interval over documents, for the chosen cells.
        lift_null_mean, lift_null_high: the same choice and test with document labels permuted, which keeps the load.
        p_lift: how often permuted labels show as much.
        maximum: E/k, or E for the first choice.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    documents: int
    tokens: int
    nmi: float
    nmi_low: float
    nmi_high: float
    nmi_null_mean: float
    nmi_null_high: float
    p_nmi: float
    expert: int
    domain: str
    largest: float
    agreed: bool
    lift: float
    lift_low: float
    lift_high: float
    lift_null_mean: float
    lift_null_high: float
    p_lift: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An estimate beside its null: mean, central 95 % and the one-sided p of the value that the null has."""

    estimate: Estimate
    null_mean: float
    null_range: Interval
    p: float


@dataclass(frozen=True, kw_only=True)
class Lift:
    """`measured`, and the cells: (domain, expert) as all documents and as each half chooses it; `largest` on all."""

    measured: Measured
    chosen: tuple[int, int]
    of_halves: tuple[tuple[int, int], tuple[int, int]]
    largest: float


def lift_rows(run: Run, trace: Trace) -> Iterator[LiftRow]:
    """One row a layer and way of counting; none where a domain has fewer than 4 probe documents, or is alone."""
    sizes = trace.domain_sizes
    if len(sizes) < 2 or sizes.min() < 4:
        return
    for layer in trace.layers:
        for counted, counts in counted_ways(layer):
            nmi, lift = measured_nmi(counts, trace.domain), measured_lift(counts, trace.domain)
            slots = layer.experts.shape[1] if counted == "slots" else 1
            yield LiftRow(
                arm=run.arm,
                seed=run.seed,
                step=trace.step,
                layer=layer.layer,
                counted=counted,
                documents=int(sizes.min()),
                tokens=len(trace.document),
                nmi=nmi.estimate.value,
                nmi_low=nmi.estimate.interval.low,
                nmi_high=nmi.estimate.interval.high,
                nmi_null_mean=nmi.null_mean,
                nmi_null_high=nmi.null_range.high,
                p_nmi=nmi.p,
                expert=lift.chosen[1],
                domain=run.manifest.data.domains[lift.chosen[0]],
                largest=lift.largest,
                agreed=set(lift.of_halves) == {lift.chosen},
                lift=lift.measured.estimate.value,
                lift_low=lift.measured.estimate.interval.low,
                lift_high=lift.measured.estimate.interval.high,
                lift_null_mean=lift.measured.null_mean,
                lift_null_high=lift.measured.null_range.high,
                p_lift=lift.measured.p,
                maximum=counts.shape[1] / slots,
            )


def measured_nmi(
    counts: Int[np.ndarray, "documents experts"],
    domain: Domains,
    permutations: int = PERMUTATIONS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Measured:
    """NMI of expert and domain, corrected for bias, with its interval and its null of permuted document labels."""
    domains = len(documents_per_domain(domain))
    labels = permuted_labels(domain, permutations, generator(seed))
    null = normalised_information(labelled_shares(counts, labels, domains))
    resampled = bootstrap(
        lambda weights: normalised_information(resampled_shares(counts, domain, domains, weights)),
        domain,
        replicates=replicates,
        seed=seed,
    )
    low, high = np.clip(resampled.reflected(), 0, 1)
    value = Estimate(float(np.clip(resampled.corrected, 0, 1)), Interval(float(low), float(high)))
    return _measured(value, float(resampled.observed), null)


def measured_lift(
    counts: Int[np.ndarray, "documents experts"],
    domain: Domains,
    permutations: int = PERMUTATIONS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Lift:
    """The lift of the cell that each half of the documents chooses, on the other half, and its null.

    Raises:
        AnalysisError: a domain has fewer than 4 documents.
    """
    domains, experts = len(documents_per_domain(domain)), counts.shape[1]
    half = document_halves(domain, seed)
    group = 2 * domain + half
    of_halves = _halves(labelled_shares(counts, group, 2 * domains))
    chosen = of_halves.argmax(-1)
    labels = labels_permuted_in_halves(domain, half, permutations, generator(seed + 1))
    null = experts * cross_fitted_share(_halves(labelled_shares(counts, 2 * labels + half, 2 * domains)))
    resampled = bootstrap(
        lambda weights: cross_fitted_share(_halves(resampled_shares(counts, group, 2 * domains, weights)), chosen),
        group,
        documents=int(documents_per_domain(domain).min()),
        replicates=replicates,
        seed=seed,
    )
    low, high = resampled.shares()
    value = Estimate(experts * float(resampled.observed), Interval(experts * float(low), experts * float(high)))
    whole = labelled_shares(counts, domain, domains)
    return Lift(
        measured=_measured(value, value.value, null),
        chosen=_cell(int(whole.argmax()), experts),
        of_halves=(_cell(int(chosen[0]), experts), _cell(int(chosen[1]), experts)),
        largest=float(experts * whole.max()),
    )


def cross_fitted_share(
    shares: Float[np.ndarray, "*draws halves cells"], chosen: Int[np.ndarray, "*draws halves"] | None = None
) -> Float[np.ndarray, "*draws"]:
    """The share, on each half, of the cell that the other half chooses (its largest, where it is not given), mean of
    the two."""
    cells = shares.argmax(-1) if chosen is None else np.broadcast_to(chosen, shares.shape[:-1])
    return np.take_along_axis(shares, cells[..., ::-1, np.newaxis], axis=-1)[..., 0].mean(-1)


def _halves(shares: Float[np.ndarray, "*draws groups experts"]) -> Float[np.ndarray, "*draws halves cells"]:
    """From the shares of groups 2·domain + half to one row of domains × experts a half."""
    *draws, groups, experts = shares.shape
    by_half = np.moveaxis(shares.reshape(*draws, groups // 2, 2, experts), -2, -3)
    return by_half.reshape(*draws, 2, groups // 2 * experts)


def _cell(number: int, experts: int) -> tuple[int, int]:
    return divmod(number, experts)


def _measured(estimate: Estimate, observed: float, null: Float[np.ndarray, " draws"]) -> Measured:
    return Measured(
        estimate=estimate,
        null_mean=float(null.mean()),
        null_range=central_range(null),
        p=null_p_value(observed, null),
    )
