"""Routing regret: what a token would have lost had another expert taken the place of its first choice.

The first choice is replaced at the same weight, the token's other slots stay: at k = 1 with renormalised weights the
token is sent to that expert alone with weight 1. One token is changed at a time, and its own next-token loss is looked
at. Exact in every layer: in later blocks the token attends to the unchanged tokens before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from moe_emergence.analysis.causal.effects import Origin, domain_means
from moe_emergence.analysis.causal.forward import Observed, Subject, batches
from moe_emergence.analysis.causal.interventions import all_outputs
from moe_emergence.analysis.causal.knockout import Arrays, Documents, Done, stoppable
from moe_emergence.errors import AnalysisError

_REGRET, _CEILING, _CHANCE_CEILING, _BEST, _WORST = range(5)


@dataclass(frozen=True, kw_only=True)
class RegretRow:
    """Routing regret of one layer of one run on one domain (None: mean over domains), nats a token.

    Attributes:
        tokens: with a loss, each changed alone to every expert it was not sent to; documents: of the smallest domain.
        regret: mean over those experts of the token's loss with one of them in its first choice's place, minus its
            loss: above 0 when the router chooses better than chance, 0 when experts are alike, below 0 when it
            chooses worse; with its 95 % interval over documents and two-sided p.
        ceiling: loss − the smallest loss of all these experts, ≥ 0: what a router that knew the next token would save.
            Above 0 by noise alone, wherever experts differ at all.
        chance_ceiling: the same for a router that chooses at random: the mean of all, less the smallest.
        best_share, worst_share: share of tokens whose own expert has the smallest and the largest loss (equal ones
            share), 0..1. An expert that differs more from the others than they from each other is both more often than
            chance, whatever the router does: only best above worst speaks for the choice.
        chance_share: what chance gives, 1/(E − k + 1).
    """

    arm: str
    seed: int
    step: int
    layer: int
    domain: str | None
    documents: int
    tokens: int
    regret: float
    low: float
    high: float
    p: float
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    chance_ceiling: float
    best_share: float
    best_low: float
    best_high: float
    worst_share: float
    worst_low: float
    worst_high: float
    chance_share: float


def regret_sums(subject: Subject, documents: Documents, done: Done = stoppable) -> Arrays:
    """`regret` [layers, 5, docs]: each document's sums over tokens of regret, ceiling, chance ceiling, and of its own
    expert being best and worst.

    Raises:
        AnalysisError: every token goes to every expert, so that there is nothing to regret.
    """
    if subject.top_k == subject.experts:
        raise AnalysisError(f"regret needs an expert that is not chosen; all {subject.experts} are (k = E)")
    sums = np.zeros((len(subject.layers), 5, len(documents.rows)))
    for batch in batches(documents.probe, documents.rows, subject.device):
        seen = subject.observe(batch)
        for number, layer in enumerate(subject.layers):
            found = _document_sums(seen, forced_changes(subject, seen, layer, done))
            sums[number][:, batch.place] = found
    return {"regret": sums}


@torch.no_grad()
def forced_changes(
    subject: Subject, seen: Observed, layer: int, done: Done = stoppable
) -> Float[Tensor, "predicted experts"]:
    """For each token with a loss, its loss with expert i in its first choice's place minus its loss, each token changed
    alone, nats: 0 at its first choice, NaN at experts it is sent to besides."""
    route = seen.layers[layer].route
    outputs = all_outputs(subject.layers[layer].experts, seen.layers[layer].inputs)
    tokens = seen.batch.predicted.view(-1).nonzero()[:, 0]
    first, weight = route.topk_indices[tokens, 0], route.topk_weights[tokens, :1].to(outputs.dtype)
    changes = torch.zeros(len(tokens), subject.experts, dtype=seen.losses.dtype, device=tokens.device)
    for expert in range(subject.experts):
        done(1)
        forced = (first != expert).nonzero()[:, 0]
        shift = weight[forced] * (outputs[expert, tokens[forced]] - outputs[first[forced], tokens[forced]])
        changes[forced, expert] = subject.own_loss_changes(seen, layer, tokens[forced], shift)
    return changes.scatter(1, route.topk_indices[tokens, 1:], torch.nan)


def regret_rows(
    origin: Origin, layers: tuple[int, ...], sums: NDArray[np.float64], chance: float
) -> Iterator[RegretRow]:
    """Every domain, then their mean, of every layer."""
    for number, layer in enumerate(layers):
        parts = [domain_means(origin, sums[number, part]) for part in range(5)]
        for place, domain in enumerate((*origin.domains, None)):
            regret = parts[_REGRET].single(place).difference()
            ceiling, best, worst = (parts[part].single(place).estimate() for part in (_CEILING, _BEST, _WORST))
            yield RegretRow(
                arm=origin.arm,
                seed=origin.seed,
                step=origin.step,
                layer=layer,
                domain=domain,
                documents=int(parts[_REGRET].single(place).documents),
                tokens=origin.tokens(domain),
                regret=regret.value,
                low=regret.interval.low,
                high=regret.interval.high,
                p=regret.p,
                ceiling=ceiling.value,
                ceiling_low=ceiling.interval.low,
                ceiling_high=ceiling.interval.high,
                chance_ceiling=float(parts[_CHANCE_CEILING].observed[place]),
                best_share=best.value,
                best_low=max(best.interval.low, 0),
                best_high=min(best.interval.high, 1),
                worst_share=worst.value,
                worst_low=max(worst.interval.low, 0),
                worst_high=min(worst.interval.high, 1),
                chance_share=chance,
            )


def _document_sums(seen: Observed, changes: Float[Tensor, "predicted experts"]) -> NDArray[np.float64]:
    """[5, docs] of a batch."""
    changes = changes.double()
    candidates = (~changes.isnan()).sum(1)  # the first choice, whose change is 0, among them
    total, smallest = changes.nansum(1), changes.nan_to_num(nan=torch.inf).amin(1)
    largest = changes.nan_to_num(nan=-torch.inf).amax(1)
    best, worst = ((end == 0) / (changes == end[:, None]).sum(1).double() for end in (smallest, largest))
    values = torch.stack([total / (candidates - 1), -smallest, total / candidates - smallest, best, worst])
    result = torch.zeros(5, *seen.batch.predicted.shape, dtype=torch.float64, device=values.device)
    result.view(5, -1)[:, seen.batch.predicted.view(-1)] = values
    return result.sum(2).cpu().numpy()
