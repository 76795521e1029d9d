"""What lies beside a trace, in safetensors: what the trace has no row for, layer by layer.

`mean_probabilities.{L}` [documents, experts]: clean probabilities, mean over a document's tokens.

`fresh_gates.{L}` [gates, documents, experts], where asked for: how many of a document's tokens each of 199 freshly
initialised gates would send to each expert on this layer's inputs: what a router that learned nothing shows on the same
hidden states.

`informed_gates.{L}` [gates, documents, experts], where given: the same of gates that were fitted to where this model's
hidden states cluster (see `informed`): what the representation gives away to a router that knows its clusters and was
never trained.

Where the ancestor is given: `gate.{L}` [experts, hidden], the router's rows; `routed_mean.{L}` [experts, hidden], the
mean input of the tokens whose first choice an expert is, NaN where it is nobody's; and what `expert_similarity` makes
of the experts, on a fixed sample of the probe's tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from moe_emergence.data.probe import Probe
from moe_emergence.models.families import ancestor_stacks
from moe_emergence.moe.layer import MoE
from moe_emergence.moe.noise import keyed_normal
from moe_emergence.moe.router import Router
from moe_emergence.routing import RouterOutput, expert_counts
from moe_emergence.training.similarity import expert_similarity, sampled_tokens

FRESH_GATES = 199
_FRESH_SEED, _FRESH_STREAM = 0, 3  # a stream no model's own gate or perturbation is drawn from


class Neighbour:
    """Filled batch by batch, in the probe set's order."""

    def __init__(
        self,
        probe: Probe,
        fresh_gates: bool,
        ancestor: Mapping[str, Tensor] | None,
        informed_gates: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.probe, self.fresh_gates, self.ancestor = probe, fresh_gates, ancestor
        self.informed_gates = informed_gates or {}
        self._sampled = sampled_tokens(probe)
        self._documents: dict[str, NDArray[Any]] = {}
        self._samples: dict[int | None, list[Tensor]] = {}
        self._sums: dict[int | None, Tensor] = {}

    def add(self, rows: slice, routes: tuple[RouterOutput, ...], inputs: Mapping[Router, Tensor]) -> None:
        """The routes of these rows of the probe set, and the inputs of the routers that made them."""
        for route, router in zip(routes, inputs, strict=True):
            hidden = inputs[router].reshape(-1, inputs[router].shape[-1])
            self._tally(f"mean_probabilities.{route.layer_idx}", rows, _document_means(route, self.probe, rows))
            if self.fresh_gates:
                counts = _gate_counts(hidden, _fresh_gates(router), self.probe, rows)
                self._tally(f"fresh_gates.{route.layer_idx}", rows, counts)
            informed = self.informed_gates.get(router.layer_idx or 0)
            if informed is not None:
                counts = _gate_counts(hidden, informed, self.probe, rows)
                self._tally(f"informed_gates.{route.layer_idx}", rows, counts)
            if self.ancestor is not None:
                self._add_inputs(rows, route, hidden)

    def tensors(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of it, by name; nothing for a model without experts.

        Args:
            weights: the model's, whole and in CPU memory.
        """
        found = {name: torch.from_numpy(values) for name, values in self._documents.items()}
        if self.ancestor is None:
            return found
        for name, module in model.named_modules():
            if isinstance(module, MoE):
                record = self._layer(module, name, weights, model)
                found |= {f"{quantity}.{module.router.layer_idx}": value for quantity, value in record.items()}
        return found

    def _layer(self, layer: MoE, name: str, weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        number = layer.router.layer_idx
        assert self.ancestor is not None
        assert number is not None
        sums = self._sums[number]
        stacks = {stack: weights[f"{name}.experts.{stack}"] for stack, _ in layer.experts.named_parameters()}
        origin = ancestor_stacks(model, self.ancestor, number)
        similarity = expert_similarity(stacks, origin, torch.cat(self._samples[number]), layer.experts.act_fn)
        mean = sums[:, 1:] / sums[:, :1]
        return {"gate": weights[f"{name}.router.gate.weight"].float(), "routed_mean": mean.float()} | similarity

    def _add_inputs(self, rows: slice, route: RouterOutput, hidden: Tensor) -> None:
        layer, size = route.layer_idx, self.probe.tokens.shape[1]
        flat = self._sampled[(self._sampled >= rows.start * size) & (self._sampled < rows.stop * size)]
        chosen = torch.from_numpy(flat - rows.start * size).to(hidden.device)
        self._samples.setdefault(layer, []).append(hidden[chosen].float().cpu())
        kept = _kept(self.probe, rows).reshape(-1, 1).to(hidden.device)
        first = F.one_hot(route.topk_indices[:, 0], route.router_probs.shape[1]) * kept
        with torch.autocast(hidden.device.type, enabled=False):
            sums = first.float().T @ F.pad(hidden.float(), (1, 0), value=1.0)
        self._sums[layer] = self._sums.get(layer, 0) + sums.cpu().double()  # in this order: MPS has no float64

    def _tally(self, name: str, rows: slice, values: NDArray[Any]) -> None:
        """Put the values of a batch's documents (axis −2) in their place."""
        if name not in self._documents:
            shape = (*values.shape[:-2], len(self.probe.tokens), values.shape[-1])
            self._documents[name] = np.zeros(shape, dtype=values.dtype)
        self._documents[name][..., rows, :] = values


def _document_means(route: RouterOutput, probe: Probe, rows: slice) -> NDArray[np.float32]:
    size = probe.tokens.shape[1]
    kept = _kept(probe, rows).to(route.router_probs_clean)
    probs = route.router_probs_clean.view(-1, size, route.router_probs_clean.shape[1])
    means = (probs * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True)
    return means.float().cpu().numpy()


def _kept(probe: Probe, rows: slice) -> Tensor:
    return torch.from_numpy(np.arange(probe.tokens.shape[1])[None] < probe.length[rows, None])


def _fresh_gates(router: Router) -> Tensor:
    """[gates, experts, hidden] as upcycling draws them."""
    shape, stream = router.gate.weight.shape, (_FRESH_STREAM, router.layer_idx or 0)
    return keyed_normal((FRESH_GATES, *shape), seed=_FRESH_SEED, stream=stream)


def _gate_counts(hidden: Tensor, gates: Tensor, probe: Probe, rows: slice) -> NDArray[np.int32]:
    """[gates, documents, experts] of tokens that each of [gates, experts, hidden] would send there."""
    number, experts, width = gates.shape
    documents = rows.stop - rows.start
    kept = _kept(probe, rows).reshape(-1)
    with torch.autocast(hidden.device.type, enabled=False):  # at a router's own precision
        logits = hidden.float() @ gates.to(hidden.device).view(-1, width).T
    choice = logits.view(-1, number, experts).argmax(-1).cpu()
    counts = [expert_counts(choice[:, g : g + 1], experts, kept, groups=documents) for g in range(number)]
    return torch.stack(counts).numpy().astype(np.int32)
