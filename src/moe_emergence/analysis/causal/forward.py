"""A trained model seen once on a batch, and run again from one layer on with that layer's output changed.

Whatever cannot change is not computed again: blocks before the layer replay what they gave, documents and tokens that
the change does not reach keep their loss, and a change of exactly 0 gives a difference of exactly 0.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from moe_emergence.data.probe import Probe
from moe_emergence.errors import AnalysisError
from moe_emergence.models.families import family_of
from moe_emergence.moe.layer import MoE
from moe_emergence.routing import RouterOutput

BATCH_TOKENS = 4096
_LOGITS = 1 << 21
"""Logits held at a time; more are slower, as they leave the processor's cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Documents of like length.

    Attributes:
        place: [docs] their places among the documents measured.
        index: [docs] their places in the corpus.
        ids: [docs, length] token ids, padded at the end.
        predicted: [docs, length] tokens whose next token is in the document: those that have a loss.
        kept: [docs, length] tokens of the document.
    """

    place: NDArray[np.int64]
    index: NDArray[np.int64]
    ids: Int[Tensor, "docs length"]
    predicted: Bool[Tensor, "docs length"]
    kept: Bool[Tensor, "docs length"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What one MoE layer did with a batch: its inputs [docs × length, hidden], where they went, and its block's output
    [docs, length, hidden]."""

    inputs: Tensor
    route: RouterOutput
    output: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """The unchanged model on a batch: MoE layers by number, what entered the first one's block, keys and values of
    every block's attention, and each token's next-token loss in nats (0 where it has none)."""

    batch: Batch
    layers: Mapping[int, Seen]
    before: Float[Tensor, "docs length hidden"]
    keys: tuple[tuple[Tensor, Tensor], ...]
    losses: Float[Tensor, "docs length"]


def batches(probe: Probe, rows: NDArray[np.int64], device: torch.device | None = None) -> Iterator[Batch]:
    """The probe's documents `rows` in batches of about `BATCH_TOKENS` tokens, longest first; the same split always."""
    order = np.argsort(-probe.length[rows], kind="stable")
    start = 0
    while start < len(order):
        width = int(probe.length[rows[order[start]]])
        place = order[start : start + max(1, BATCH_TOKENS // width)]
        chosen = rows[place]
        length = torch.from_numpy(probe.length[chosen].astype(np.int64))[:, None]
        at = torch.arange(width)
        yield Batch(
            place=place,
            index=probe.document[chosen].astype(np.int64),
            ids=torch.from_numpy(probe.tokens[chosen, :width].astype(np.int64)).to(device),
            predicted=(at < length - 1).to(device),
            kept=(at < length).to(device),
        )
        start += len(place)


class Subject:
    """A model with experts, in eval mode, whose layers can be changed one at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self.family = family_of(model.config)
        self.blocks = self.family.blocks_of(model)
        self.layers: dict[int, MoE] = {}
        for number, block in enumerate(self.blocks):
            for module in block.modules():
                if isinstance(module, MoE):
                    self.layers[number] = module
        if not self.layers:
            raise AnalysisError("the model has no experts to intervene on: give a run whose config has moe")

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def experts(self) -> int:
        """E, the same in every layer."""
        return next(iter(self.layers.values())).experts.num_experts

    @property
    def top_k(self) -> int:
        return next(iter(self.layers.values())).router.top_k

    @torch.no_grad()
    def observe(self, batch: Batch) -> Observed:
        """One forward of the whole model."""
        first = min(self.layers)
        found: dict[Any, Any] = {}

        def keep_route(module: nn.Module, arguments: tuple[Tensor, ...], route: RouterOutput) -> None:
            found[module] = arguments[0].reshape(-1, arguments[0].shape[-1]), route

        def keep_output(module: nn.Module, _: Any, output: Tensor) -> None:
            found[module] = output

        def keep_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found["before"] = arguments[0]

        with ExitStack() as hooks:
            for number, moe in self.layers.items():
                hooks.callback(moe.router.register_forward_hook(keep_route).remove)
                hooks.callback(self.blocks[number].register_forward_hook(keep_output).remove)
            hooks.callback(self.blocks[first].register_forward_pre_hook(keep_input).remove)
            cache = DynamicCache(config=self.model.config)
            last = self._last_hidden(input_ids=batch.ids, past_key_values=cache, use_cache=True)
        layers = {
            number: Seen(inputs=found[moe.router][0], route=found[moe.router][1], output=found[self.blocks[number]])
            for number, moe in self.layers.items()
        }
        return Observed(
            batch=batch,
            layers=layers,
            before=found["before"],
            keys=tuple((layer.keys, layer.values) for layer in cache.layers),
            losses=self.losses(batch, last),
        )

    @torch.no_grad()
    def losses_from_first_layer(self, seen: Observed) -> Float[Tensor, "docs length"]:
        """Next-token losses of the model as it now is, if nothing before its first MoE layer has changed."""
        with self._replaying(min(self.layers), seen.before):
            last = self._last_hidden(input_ids=seen.batch.ids, use_cache=False)
        return self.losses(seen.batch, last)

    @torch.no_grad()
    def loss_changes(
        self, seen: Observed, layer: int, tokens: Int[Tensor, " moved"], change: Float[Tensor, "moved hidden"]
    ) -> Float[Tensor, "docs length"]:
        """Each token's loss with `change` added to the layer's output at `tokens` (places in the flattened batch, all
        with a loss of their own) minus its loss without, nats: of these tokens and of all that see them."""
        result = torch.zeros_like(seen.losses)
        moved = change.ne(0).any(1)
        tokens, change = tokens[moved], change[moved]
        if not len(tokens):
            return result
        if layer == len(self.blocks) - 1:
            result.view(-1)[tokens] = self._own_changes(seen, tokens, _moved(seen.layers[layer], tokens, change))
            return result
        hidden, width = seen.layers[layer].output.clone(), seen.losses.shape[1]
        hidden.view(-1, hidden.shape[-1])[tokens] += change
        docs = torch.unique(tokens // width)
        with self._replaying(layer + 1, hidden[docs]):
            last = self._last_hidden(input_ids=seen.batch.ids[docs], use_cache=False)
        first = torch.full((len(seen.losses),), width, device=tokens.device)
        first = first.scatter_reduce(0, tokens // width, tokens % width, "amin")
        reached = (torch.arange(width, device=tokens.device) >= first[:, None]) & seen.batch.predicted
        again = reached[docs].view(-1).nonzero()[:, 0]
        places = reached.view(-1).nonzero()[:, 0]  # the same tokens, since only `docs` have any
        result.view(-1)[places] = self._own_changes(seen, places, last.reshape(-1, last.shape[-1])[again], normed=True)
        return result

    @torch.no_grad()
    def own_loss_changes(
        self, seen: Observed, layer: int, tokens: Int[Tensor, " moved"], change: Float[Tensor, "moved hidden"]
    ) -> Float[Tensor, " moved"]:
        """For each of `tokens` its own loss with its change alone, no other token's, minus its loss without, nats.

        In later blocks a token attends to the unchanged keys and values of those before it and to its own changed one,
        so all tokens go in one pass.
        """
        result = torch.zeros(len(tokens), dtype=seen.losses.dtype, device=tokens.device)
        moved = change.ne(0).any(1)
        if not moved.any():
            return result
        tokens, change = tokens[moved], change[moved]
        if layer == len(self.blocks) - 1:
            result[moved] = self._own_changes(seen, tokens, _moved(seen.layers[layer], tokens, change))
            return result
        hidden = seen.layers[layer].output.clone()
        hidden.view(-1, hidden.shape[-1])[tokens] += change
        last = self._each_alone(seen, layer, hidden)
        result[moved] = self._own_changes(seen, tokens, last.view(-1, last.shape[-1])[tokens], normed=True)
        return result

    def losses(self, batch: Batch, last: Float[Tensor, "docs length hidden"]) -> Float[Tensor, "docs length"]:
        """Next-token losses from the last hidden states after the final norm; 0 where there is none."""
        result = torch.zeros(batch.ids.shape, dtype=_at_least_single(last.dtype), device=last.device)
        places = batch.predicted.view(-1).nonzero()[:, 0]
        result.view(-1)[places] = self._next_losses(batch, places, last.reshape(-1, last.shape[-1])[places])
        return result

    def _own_changes(self, seen: Observed, places: Tensor, hidden: Tensor, normed: bool = False) -> Tensor:
        last = hidden if normed else self.model.base_model.ln_f(hidden)
        return self._next_losses(seen.batch, places, last) - seen.losses.view(-1)[places]

    def _next_losses(self, batch: Batch, places: Tensor, last: Float[Tensor, "places hidden"]) -> Tensor:
        head = self.model.get_output_embeddings()
        rows = max(64, _LOGITS // self.model.config.vocab_size)
        targets = batch.ids.view(-1)[places + 1]  # never past the end: the last token of a row has no loss
        parts = [
            F.cross_entropy(head(hidden).to(_at_least_single(hidden.dtype)), target, reduction="none")
            for hidden, target in zip(last.split(rows), targets.split(rows), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, device=last.device)

    def _each_alone(self, seen: Observed, layer: int, hidden: Tensor) -> Tensor:
        """Last hidden states of every token of `hidden`, each as if it alone were changed in its document."""
        ids, width = seen.batch.ids, seen.batch.ids.shape[1]
        unchanged = DynamicCache(config=self.model.config)
        for block in range(layer + 1, len(self.blocks)):
            unchanged.update(*seen.keys[block], block)
        at = torch.arange(width, device=ids.device)
        may = torch.cat([at < at[:, None], at == at[:, None]], dim=1)
        mask = torch.zeros(may.shape, dtype=hidden.dtype, device=ids.device)
        mask = mask.masked_fill(~may, torch.finfo(hidden.dtype).min)
        with self._replaying(layer + 1, hidden):
            return self._last_hidden(
                input_ids=ids,
                past_key_values=unchanged,
                attention_mask=mask.expand(len(ids), 1, *mask.shape),
                position_ids=at.expand(len(ids), width),
                use_cache=True,
            )

    def _last_hidden(self, **arguments: Any) -> Tensor:
        last: Tensor = self.model.base_model(**arguments).last_hidden_state
        return last

    @contextmanager
    def _replaying(self, block: int, hidden: Float[Tensor, "docs length hidden"]) -> Iterator[None]:
        """Let the blocks before `block` give `hidden`, whatever they are given; they return on exit, also on error."""
        replaced = nn.ModuleList([_Replay(hidden), *self.blocks[block:]])
        self.model.base_model.set_submodule(self.family.blocks, replaced)
        try:
            yield
        finally:
            self.model.base_model.set_submodule(self.family.blocks, self.blocks)


class _Replay(nn.Module):
    """A block that gives what is cached."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden


def _moved(seen: Seen, tokens: Tensor, change: Tensor) -> Tensor:
    return seen.output.reshape(-1, seen.output.shape[-1])[tokens] + change


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
