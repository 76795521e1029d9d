"""What a model does with one text: where each token goes, what it costs, what would come next; experts may be off."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from moe_emergence.analysis.causal.forward import Subject
from moe_emergence.analysis.causal.rerouting import only_experts
from moe_emergence.moe.layer import record_routing
from moe_emergence.moe.router import routers_of
from moe_emergence.routing import RouterOutput

Off = Mapping[int, Collection[int]]
"""Layer to its experts that no token may go to: each token goes to the most preferred of the others."""
FOLLOWING = 5


@dataclass(frozen=True, kw_only=True)
class LayerRoutes:
    """One layer's routing of a text.

    Attributes:
        layer: the block it sits in.
        experts: [tokens][slots] chosen experts, most preferred first.
        weights: [tokens][slots] what each chosen expert's output is multiplied by.
        entropy: [tokens] of the clean probabilities, nats; those of all experts, also of those that are off.
    """

    layer: int
    experts: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    entropy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text as a model reads it.

    Attributes:
        ids: its tokens.
        losses: [tokens − 1] of each token's next one, nats.
        following: the likeliest tokens after the last one with their probabilities, likeliest first.
        layers: one a layer with experts; none of a dense model.
    """

    ids: tuple[int, ...]
    losses: tuple[float, ...]
    following: tuple[tuple[int, float], ...]
    layers: tuple[LayerRoutes, ...]

    @property
    def mean_loss(self) -> float | None:
        """Of all tokens that have a next one, nats."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@torch.inference_mode()
def read_tokens(model: Any, ids: Collection[int], off: Off | None = None) -> Reading:
    """One forward over at least one token.

    It gives every token's experts: attention looks back only, so they do not depend on what follows.
    """
    given = torch.tensor([list(ids)], device=model.device)
    with switched_off(model, off or {}), _recorded(model) as routes:
        logits = model(input_ids=given, use_cache=False).logits[0].float()
    likeliest = logits[-1].softmax(-1).topk(min(FOLLOWING, logits.shape[-1]))
    return Reading(
        ids=tuple(ids),
        losses=tuple(F.cross_entropy(logits[:-1], given[0, 1:], reduction="none").tolist()),
        following=tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)),
        layers=tuple(map(_layer_routes, routes)),
    )


@contextmanager
def switched_off(model: Any, off: Off) -> Iterator[None]:
    """Let no token go to the experts that are `off` for the length of the block, also on error: the intervention that
    `analysis.causal.interventions` calls next."""
    with ExitStack() as scope:
        if off:
            layers = Subject(model).layers
            allowed = {layer: _allowed(layers[layer].experts.num_experts, experts) for layer, experts in off.items()}
            scope.enter_context(only_experts(layers, allowed))
        yield


def pieces(tokenizer: Tokenizer, ids: Collection[int]) -> list[str]:
    """Each token's own text; of a character made of several tokens the last has it, the others nothing."""
    found, text, tokens = [], "", list(ids)
    for end in range(1, len(tokens) + 1):
        longer = tokenizer.decode(tokens[:end], skip_special_tokens=False)
        whole = not longer.endswith("�") or end == len(tokens)
        found.append(longer[len(text) :] if whole else "")
        text = longer if whole else text
    return found


def _allowed(experts: int, off: Collection[int]) -> Bool[Tensor, " experts"]:
    return torch.tensor([expert not in off for expert in range(experts)])


@contextmanager
def _recorded(model: Any) -> Iterator[list[RouterOutput]]:
    """The routes after what was switched off, which the model's own record may not show."""
    if not routers_of(model):
        yield []
        return
    with record_routing(model) as routes:
        yield routes


def _layer_routes(route: RouterOutput) -> LayerRoutes:
    assert route.layer_idx is not None
    return LayerRoutes(
        layer=route.layer_idx,
        experts=tuple(map(tuple, route.topk_indices.tolist())),
        weights=tuple(map(tuple, route.topk_weights.tolist())),
        entropy=tuple(route.entropy.tolist()),
    )
