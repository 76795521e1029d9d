"""Evaluation on held-out blocks: the LM loss of each domain, and where its tokens are routed.

No number here contains an auxiliary loss.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.packing import Blocks
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.moe.router import told_domains
from moe_emergence.routing import RouterOutput, entropy_of, expert_counts

BATCH = 16


@torch.no_grad()  # a sharded model takes no inference tensors
def evaluate(
    model: nn.Module,
    data: PreparedData,
    blocks: Blocks,
    *,
    device: torch.device,
    per_domain: int | None = None,
    poll: Callable[[], None] = stop_if_asked,
) -> dict[str, Any]:
    """Metrics of `model` on the first `per_domain` blocks of each domain.

    Returns, for JSON: `lm_loss` a domain, `lm_loss_macro` (each domain weighs the same) and `lm_loss_tokens` (each
    token does), all in nats a token over predicted tokens; `bits_per_byte` and `predicted_tokens` a domain; `documents`
    a domain: which documents the blocks hold (`index`), and for each its summed `loss` in nats, its predicted `tokens`
    and their `bytes`, so that intervals can resample documents; and, a layer, `routing`: assignments [domains, experts]
    over all slots and over the first choice, the mean entropy of a token's clean probabilities in nats, and the mean
    clean probabilities [domains, experts]. `poll` is called before each batch.
    """
    model.eval()
    rows = _first_rows(blocks, len(data.domains), per_domain)
    domains = blocks.domain[rows]
    losses = np.zeros((len(rows), blocks.tokens.shape[1] - 1))
    layers: list[_LayerTally] = []
    for start, tokens in _token_batches(blocks, rows, device):
        poll()
        of_batch = torch.from_numpy(domains[start : start + len(tokens)].astype(np.int64))
        with told_domains(model, of_batch, len(data.domains)):
            output = model(input_ids=tokens, use_cache=False)
        losses[start : start + len(tokens)] = next_token_losses(output.logits, tokens).cpu().double().numpy()
        routes: tuple[RouterOutput, ...] = getattr(output, "routes", None) or ()
        layers = layers or [_LayerTally(route, len(data.domains)) for route in routes]
        for tally, route in zip(layers, routes, strict=True):
            tally.add(route, domains[start : start + len(tokens)])
    return _loss_metrics(data, blocks, rows, losses) | {"routing": [tally.record() for tally in layers]}


def next_token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """[batch, sequence − 1] cross-entropy in nats of each token but the first, given those before it."""
    predicted = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(predicted, tokens[:, 1:].reshape(-1), reduction="none").view(len(tokens), -1)


def _first_rows(blocks: Blocks, domains: int, per_domain: int | None) -> NDArray[np.int64]:
    return np.concatenate([np.flatnonzero(blocks.domain == domain)[:per_domain] for domain in range(domains)])


def _token_batches(blocks: Blocks, rows: NDArray[np.int64], device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(rows), BATCH):
        chosen = blocks.tokens[rows[start : start + BATCH]].astype(np.int64)
        yield start, torch.from_numpy(chosen).to(device)


def _loss_metrics(
    data: PreparedData, blocks: Blocks, rows: NDArray[np.int64], losses: NDArray[np.float64]
) -> dict[str, Any]:
    lm_loss, bits, predicted, documents = {}, {}, {}, {}
    for number, name in enumerate(data.domains):
        mine = blocks.domain[rows] == number
        of_text = data.token_bytes[blocks.tokens[rows[mine], 1:]]
        total = float(losses[mine].sum())
        predicted[name] = of_text.size
        lm_loss[name] = total / predicted[name]
        bits[name] = total / math.log(2) / int(of_text.sum())
        documents[name] = _document_sums(blocks.document[rows[mine], 1:], losses[mine], of_text)
    return {
        "lm_loss": lm_loss,
        "lm_loss_macro": float(np.mean(list(lm_loss.values()))),
        "lm_loss_tokens": float(losses.sum() / sum(predicted.values())),
        "bits_per_byte": bits,
        "predicted_tokens": predicted,
        "documents": documents,
    }


def _document_sums(
    document: NDArray[np.int32], losses: NDArray[np.float64], of_text: NDArray[np.int64]
) -> dict[str, list[Any]]:
    """Sums over each document's predicted tokens, wherever in the blocks they lie."""
    index, place = np.unique(document, return_inverse=True)
    place = place.reshape(-1)
    return {
        "index": index.tolist(),
        "loss": np.bincount(place, weights=losses.reshape(-1)).tolist(),
        "tokens": np.bincount(place).tolist(),
        "bytes": np.bincount(place, weights=of_text.reshape(-1)).astype(np.int64).tolist(),
    }


class _LayerTally:
    """Sums over the evaluation set of one layer's routing."""

    def __init__(self, route: RouterOutput, domains: int) -> None:
        self.layer = route.layer_idx
        experts = route.router_probs.shape[1]
        self.slots = torch.zeros(domains, experts, dtype=torch.int64)
        self.first = torch.zeros_like(self.slots)
        self.probs = torch.zeros(domains, experts, dtype=torch.float64)
        self.entropy = 0.0
        self.tokens = torch.zeros(domains, dtype=torch.int64)

    def add(self, route: RouterOutput, domains: NDArray[np.int32]) -> None:
        sequences = len(domains)
        index = torch.from_numpy(domains.astype(np.int64))
        experts = self.slots.shape[1]
        self.slots.index_add_(0, index, expert_counts(route.topk_indices, experts, groups=sequences).cpu())
        self.first.index_add_(0, index, expert_counts(route.topk_indices[:, :1], experts, groups=sequences).cpu())
        probs = route.router_probs_clean.cpu().double()  # in this order: MPS has no float64
        self.probs.index_add_(0, index, probs.view(sequences, -1, experts).sum(1))
        self.entropy += float(entropy_of(probs).sum())
        self.tokens.index_add_(0, index, torch.full((sequences,), len(probs) // sequences))

    def record(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "assignments": self.slots.tolist(),
            "first_choice": self.first.tolist(),
            "mean_probabilities": (self.probs / self.tokens.unsqueeze(1)).tolist(),
            "entropy_per_token": self.entropy / int(self.tokens.sum()),
        }
