"""What observation says of each single expert, in one long table: what the scoreboard holds against causal effects."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr

from moe_emergence.analysis.records import Floats, Run
from moe_emergence.analysis.traces import LayerTrace, Trace

EXPERT, CELL = "expert", "expert x domain"


@dataclass(frozen=True, kw_only=True)
class ExpertMeasureRow:
    """One observational measure of one expert at one trace, from its first choices.

    Attributes:
        domain: the domain it is of; None for all domains, weighted equally.
        measure: its name, as in `docs/concepts.md`.
        value: in the measure's unit; None where the expert has no tokens to take it on.
    """

    arm: str
    seed: int
    step: int
    layer: int
    expert: int
    domain: str | None
    measure: str
    value: float | None


def expert_measure_rows(run: Run, trace: Trace) -> Iterator[ExpertMeasureRow]:
    """The measures of every expert of every layer that a trace alone gives.

    - load: share of the first choices, domains weighted equally, 0..1; 1/E at balance.
    - domain lift: largest share of a domain's tokens over the load, 1..D; 1 when all domains use it alike.
    - domain concentration: KL of its tokens' domains (domains weighted equally) to equal shares, bits, 0..log2 D.
    - entropy, margin: mean of its tokens' clean entropy (nats, 0..ln E) and margin (0..1).
    - share of domain, lift of domain: p(e|d), and p(e|d) over the load, of one domain.
    """
    domains = run.manifest.data.domains
    for layer in trace.layers:
        for domain, measure, values in _measures(trace, layer, len(domains)):
            for expert, value in enumerate(values.tolist()):
                yield ExpertMeasureRow(
                    arm=run.arm,
                    seed=run.seed,
                    step=trace.step,
                    layer=layer.layer,
                    expert=expert,
                    domain=None if domain is None else domains[domain],
                    measure=measure,
                    value=None if np.isnan(value) else value,
                )


def _measures(trace: Trace, layer: LayerTrace, domains: int) -> Iterator[tuple[int | None, str, Floats]]:
    """(domain, name, [experts] values; NaN where there are no tokens)."""
    counts = np.zeros((domains, layer.slots.shape[1]))
    np.add.at(counts, trace.domain, layer.first_choice)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    load = shares.mean(0)
    used = np.where(load > 0, load, np.nan)
    lift = shares / used
    yield None, "load", load
    yield None, "domain lift", lift.max(0)
    yield None, "domain concentration", rel_entr(lift / domains, 1 / domains).sum(0) / np.log(2)
    first = layer.experts[:, 0]
    tokens = np.bincount(first, minlength=len(load)).astype(np.float64)
    for name, values in (("entropy", layer.entropy), ("margin", layer.margin)):
        sums = np.bincount(first, weights=values, minlength=len(load))
        yield None, name, np.where(tokens > 0, sums / np.maximum(tokens, 1), np.nan)
    for domain in range(domains):
        yield domain, "share of domain", shares[domain]
        yield domain, "lift of domain", lift[domain]
