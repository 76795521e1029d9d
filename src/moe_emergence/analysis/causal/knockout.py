"""The knock-out matrix: each document's change of loss under every intervention on every expert of every layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_emergence.analysis.causal.forward import Batch, Observed, Subject, batches
from moe_emergence.analysis.causal.interventions import (
    ANCESTOR,
    Case,
    affected,
    all_outputs,
    ancestor_output,
    between,
    drawn_numbers,
    output_change,
    possible,
)
from moe_emergence.data.probe import Probe
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.routing import expert_counts

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
"""a in W_0 + a (W_e − W_0)."""
Ancestors = Mapping[int, Mapping[str, Tensor]]
Arrays = dict[str, NDArray[np.float64] | NDArray[np.int64]]
Done = Callable[[int], None]
"""Told of how many passes more are done; raises to stop."""


def stoppable(count: int) -> None:
    """Passes that nobody watches."""
    stop_if_asked()


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """The probe's documents that have a loss: those of 2 tokens or more.

    Attributes:
        rows: [docs] their rows in the probe.
        domain: [docs] index into the domains.
        predicted: [docs] tokens with a loss.
    """

    probe: Probe
    rows: NDArray[np.int64]
    domain: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def of(self, places: NDArray[np.int64]) -> "Documents":
        """Some of them."""
        return Documents(
            probe=self.probe, rows=self.rows[places], domain=self.domain[places], predicted=self.predicted[places]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """The unchanged model on the documents.

    Attributes:
        loss: [docs] summed, nats.
        counts: [layers, docs, experts] assignments of all slots.
        means: layer to [experts, hidden]: each expert's mean output over its tokens, domains weighted equally (those
            that send it tokens; 0 without any).
    """

    loss: NDArray[np.float64]
    counts: NDArray[np.int64]
    means: Mapping[int, Tensor]


def documents_of(probe: Probe) -> Documents:
    """Those with a loss, in the probe's order."""
    rows = np.flatnonzero(probe.length > 1)
    return Documents(
        probe=probe,
        rows=rows,
        domain=probe.domain[rows].astype(np.int64),
        predicted=probe.length[rows].astype(np.int64) - 1,
    )


def survey(subject: Subject, documents: Documents, done: Done = stoppable) -> Survey:
    """One pass of the unchanged model."""
    domains, experts = int(documents.domain.max()) + 1, subject.experts
    loss = np.zeros(len(documents.rows))
    counts = np.zeros((len(subject.layers), len(documents.rows), experts), dtype=np.int64)
    sums = {
        layer: torch.zeros(experts, domains, subject.model.config.hidden_size, dtype=torch.float64)
        for layer in subject.layers
    }
    for batch in batches(documents.probe, documents.rows, subject.device):
        done(1)
        seen = subject.observe(batch)
        loss[batch.place] = document_sums(seen.losses)
        domain = torch.from_numpy(documents.domain[batch.place]).to(subject.device)
        for number, layer in enumerate(subject.layers):
            chosen = seen.layers[layer].route.topk_indices
            found = expert_counts(chosen, experts, batch.kept.reshape(-1), groups=len(batch.place))
            counts[number, batch.place] = found.cpu().numpy()
            _add_outputs(sums[layer], subject, seen, layer, domain)
    tokens = np.stack([counts[:, documents.domain == d].sum(1) for d in range(domains)], axis=-1)
    means = {
        layer: _mean_over_domains(sums[layer], torch.from_numpy(tokens[number])).to(subject.model.dtype)
        for number, layer in enumerate(subject.layers)
    }
    return Survey(loss=loss, counts=counts, means={n: mean.to(subject.device) for n, mean in means.items()})


def knockout_matrix(
    subject: Subject,
    documents: Documents,
    surveyed: Survey,
    interventions: Sequence[str],
    ancestors: Ancestors | None,
    seed: int = 0,
    done: Done = stoppable,
) -> Arrays:
    """`change` [interventions, layers, experts, docs]: summed change of the documents' losses, nats, NaN where an
    intervention is impossible; `affected` [layers, experts, docs]: tokens with a loss that go to the expert."""
    shape = (len(subject.layers), subject.experts, len(documents.rows))
    change, counted = np.full((len(interventions), *shape), np.nan), np.zeros(shape, dtype=np.int64)
    for batch, seen in _observed(subject, documents):
        for number, layer in enumerate(subject.layers):
            origin = None if ancestors is None or ANCESTOR not in interventions else ancestors[layer]
            case = make_case(subject, seen, layer, surveyed.means[layer], origin, seed)
            for expert in range(subject.experts):
                tokens = affected(case, expert).tokens
                counted[number, expert, batch.place] = _tokens_per_document(tokens, batch)
                for place, intervention in enumerate(interventions):
                    done(1)
                    if possible(intervention, subject):
                        moved = subject.loss_changes(seen, layer, *output_change(case, intervention, expert))
                        change[place, number, expert, batch.place] = document_sums(moved)
    return {"change": change, "affected": counted}


def dose_response(
    subject: Subject, documents: Documents, ancestors: Ancestors, doses: Sequence[float], done: Done = stoppable
) -> Arrays:
    """`dose` [doses, layers, docs]: summed change of the documents' losses, nats, with all experts of one layer at
    W_0 + a (W_e − W_0); exactly 0 at a = 1."""
    dose = np.zeros((len(doses), len(subject.layers), len(documents.rows)))
    mixtures = {
        (a, layer): between(moe.experts, ancestors[layer], a)
        for a in doses
        for layer, moe in subject.layers.items()
        if a != 1
    }
    for batch, seen in _observed(subject, documents):
        tokens = batch.predicted.view(-1).nonzero()[:, 0]
        for number, (layer, moe) in enumerate(subject.layers.items()):
            inputs, route = seen.layers[layer].inputs, seen.layers[layer].route
            routed = inputs[tokens], route.topk_indices[tokens], route.topk_weights[tokens]
            with torch.no_grad():
                own = moe.experts(*routed)
            for place, a in enumerate(doses):
                done(1)
                if a != 1:
                    with torch.no_grad():
                        shift = mixtures[a, layer](*routed) - own
                    dose[place, number, batch.place] = document_sums(subject.loss_changes(seen, layer, tokens, shift))
    return {"dose": dose}


def make_case(
    subject: Subject,
    seen: Observed,
    layer: int,
    means: Tensor,
    ancestor: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Case:
    """A layer on a batch, with every expert's output on every token."""
    moe, inputs = subject.layers[layer], seen.layers[layer].inputs
    return Case(
        moe=moe,
        seen=seen.layers[layer],
        batch=seen.batch,
        outputs=all_outputs(moe.experts, inputs),
        means=means,
        ancestor=None if ancestor is None else ancestor_output(moe.experts, ancestor, inputs),
        drawn=drawn_numbers(seen.batch, seed=seed, layer=layer),
    )


def document_sums(values: Tensor) -> NDArray[np.float64]:
    """[docs] of [docs, length], in double precision."""
    return values.double().sum(1).cpu().numpy()


def number_of_batches(documents: Documents) -> int:
    """Passes that one look at all documents takes."""
    return sum(1 for _ in batches(documents.probe, documents.rows))


def _observed(subject: Subject, documents: Documents) -> Iterator[tuple[Batch, Observed]]:
    for batch in batches(documents.probe, documents.rows, subject.device):
        yield batch, subject.observe(batch)


def _tokens_per_document(tokens: Tensor, batch: Batch) -> NDArray[np.int64]:
    document = tokens // batch.ids.shape[1]
    return torch.bincount(document, minlength=len(batch.place)).cpu().numpy()


@torch.no_grad()
def _add_outputs(sums: Tensor, subject: Subject, seen: Observed, layer: int, domain: Tensor) -> None:
    """Add what each expert [experts, domains, hidden] gives for its own tokens."""
    moe, looked, width = subject.layers[layer], seen.layers[layer], seen.batch.ids.shape[1]
    kept = seen.batch.kept.reshape(-1)
    for expert in range(subject.experts):
        tokens = ((looked.route.topk_indices == expert).any(1) & kept).nonzero()[:, 0]
        if len(tokens):
            inputs = looked.inputs[tokens]
            index = torch.full((len(tokens), 1), expert, device=tokens.device)
            output = moe.experts(inputs, index, torch.ones_like(inputs[:, :1]))
            sums[expert].index_add_(0, domain[tokens // width].cpu(), output.double().cpu())


def _mean_over_domains(sums: Tensor, tokens: Tensor) -> Tensor:
    """[experts, hidden] of sums [experts, domains, hidden] over tokens [experts, domains]."""
    there = (tokens > 0).double()
    by_domain = sums / tokens.clamp(min=1).double()[..., None]
    return by_domain.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
