"""Transplants: the final model with the gates of an earlier step, to see what routers learned since."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from moe_emergence.analysis.causal.effects import Origin, domain_means, single
from moe_emergence.analysis.causal.forward import Observed, Subject, batches
from moe_emergence.analysis.causal.knockout import Arrays, Documents, Done, document_sums, stoppable
from moe_emergence.analysis.causal.rerouting import other_gates
from moe_emergence.config import ASSIGNING_ROUTERS
from moe_emergence.errors import AnalysisError
from moe_emergence.routing import RouterOutput

Gates = Mapping[int, NDArray[np.float32]]
"""Layer to gate [experts, hidden]."""


@dataclass(frozen=True, kw_only=True)
class TransplantRow:
    """LM loss of the model with the gates of `gates_of_step` (0: as they were initialised) minus that with its own,
    nats a token of the domain (None: mean over domains).

    Attributes:
        difference: 0 when the gates are the same or experts alike; with its 95 % interval over documents, and p.
        changed: share of tokens whose first choice is another, mean over MoE layers: 0 with the same gates, about
            1 − 1/E with gates that have nothing in common.
    """

    arm: str
    seed: int
    step: int
    gates_of_step: int
    domain: str | None
    difference: float
    low: float
    high: float
    p: float
    changed: float
    documents: int


def transplanted_losses(
    subject: Subject, documents: Documents, gates: Mapping[int, Gates], done: Done = stoppable
) -> Arrays:
    """`transplant` [steps, docs]: summed change of loss, nats; `changed` [steps, docs]: tokens with a loss whose first
    choice is another, mean over layers. Steps as `gates` has them.

    Raises:
        AnalysisError: gates of other layers or shapes, or a router that does not use its gate.
    """
    kinds = {moe.router.kind for moe in subject.layers.values()}
    if kinds & set(ASSIGNING_ROUTERS):
        raise AnalysisError(f"a {kinds.pop()} router leaves its gate unused: there is nothing to transplant")
    shape = len(gates), len(documents.rows)
    change, changed = np.zeros(shape), np.zeros(shape)
    for batch in batches(documents.probe, documents.rows, subject.device):
        seen = subject.observe(batch)
        for number, given in enumerate(gates.values()):
            done(1)
            tensors = {layer: torch.from_numpy(gate) for layer, gate in given.items()}
            with other_gates(subject.layers, tensors), _first_choices(subject) as first:
                moved = subject.losses_from_first_layer(seen) - seen.losses
            change[number, batch.place] = document_sums(moved)
            changed[number, batch.place] = _changed(seen, first)
    return {"transplant": change, "changed": changed}


def transplant_rows(
    origin: Origin,
    steps: Sequence[int],
    change: Float[np.ndarray, "steps documents"],
    changed: Float[np.ndarray, "steps documents"],
) -> Iterator[TransplantRow]:
    """Every step on every domain, then their mean."""
    found, shares = domain_means(origin, change), domain_means(origin, changed).observed
    for number, step in enumerate(steps):
        for column, domain in enumerate((*origin.domains, None)):
            one = single(found, (number, column))
            difference = one.difference()
            yield TransplantRow(
                arm=origin.arm,
                seed=origin.seed,
                step=origin.step,
                gates_of_step=step,
                domain=domain,
                difference=difference.value,
                low=difference.interval.low,
                high=difference.interval.high,
                p=difference.p,
                changed=float(shares[number, column]),
                documents=int(one.documents),
            )


@contextmanager
def _first_choices(subject: Subject) -> Iterator[dict[int, Tensor]]:
    """Each layer's first choices in the last forward of the block."""
    found: dict[int, Tensor] = {}

    def keep(router: nn.Module, _: Any, route: RouterOutput) -> None:
        found[layer_of[router]] = route.topk_indices[:, 0]

    layer_of: dict[nn.Module, int] = {moe.router: layer for layer, moe in subject.layers.items()}
    with ExitStack() as hooks:
        for router in layer_of:
            hooks.callback(router.register_forward_hook(keep).remove)
        yield found


def _changed(seen: Observed, first: Mapping[int, Int[Tensor, " tokens"]]) -> NDArray[np.float64]:
    """[docs] of a batch."""
    others = [(first[layer] != look.route.topk_indices[:, 0]).double() for layer, look in seen.layers.items()]
    share = torch.stack(others).mean(0).view(seen.batch.predicted.shape)
    return (share * seen.batch.predicted).sum(1).cpu().numpy()
