"""Does a router go by format? The same held-out text in another format against as large a change of its content.

A document's distribution p(e|document) is the share of its tokens that goes to each expert. A change moves it by a
Jensen–Shannon divergence in bits: 0 when the shares stay, 1 when no expert keeps a token. A change of format moves
some tokens by itself, since it makes other tokens of them; so it stands beside a change of content of equal size: as
many tokens removed and added in one stretch, with text of other documents of the domain in its own format.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from moe_emergence.analysis.format_changes import changes_of
from moe_emergence.analysis.information import mutual_information
from moe_emergence.analysis.records import Floats, Run
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted
from moe_emergence.analysis.statistics import bootstrap, generator
from moe_emergence.analysis.text_classes import domain_schemes
from moe_emergence.analysis.token_types import character_offsets
from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.tokenizer import encode
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.routing import RouterOutput, expert_counts, load_of_counts

ROOM = 3 / 4
"""Of a block: how much of it the unchanged text fills, so that text that grows still fits."""
_BATCH = 16
_CHARACTERS = 16
"""Characters a token that are read of a document: enough for all its tokens that are wanted."""
_LAST_WORD = re.compile(r"\S+$")
Route = Callable[[Sequence[Sequence[int]]], dict[tuple[int, Counted], Floats]]
"""From token ids of documents to (layer, counted) → [documents, experts] p(e|document)."""


@dataclass(frozen=True, kw_only=True)
class FormatSwapRow:
    """What one change of format does to where one layer sends the documents of one domain, at the last step.

    Attributes:
        swap: the change (`format_changes`).
        documents: of the domain in the probe that the change alters; means below are over them.
        changed_share: tokens that the change replaces, removes or adds ÷ tokens of the text, 0 upwards; a stretch
            that becomes longer or shorter counts by its longer side.
        format_divergence, content_divergence: Jensen–Shannon divergence from the text as it is, bits 0..1: of the
            changed format, and of as many tokens of changed content.
        difference: format − content, −1..1: above 0, format moves the document more than content does; low, high: its
            95 % interval over documents, paired; p: two-sided.
        moved_before: share of documents whose p(e|document) is nearer to the mean of another domain's than of their
            own, means being taken over the half of the documents that the document is not in; moved_share: the same of
            the changed format; moved_content: of the changed content.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    domain: str
    swap: str
    documents: int
    changed_share: float
    format_divergence: float
    content_divergence: float
    difference: float
    low: float
    high: float
    p: float
    moved_before: float
    moved_share: float
    moved_content: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Swapped:
    """One change of one domain: rows of its documents that it alters, their texts in the new format and with new
    content as token ids, and the mean share of tokens changed."""

    domain: int
    name: str
    rows: NDArray[np.int64]
    format: list[list[int]]
    content: list[list[int]]
    changed_share: float


def divergence(
    first: Float[np.ndarray, "*rows experts"], second: Float[np.ndarray, "*rows experts"]
) -> Float[np.ndarray, "*rows"]:
    """Jensen–Shannon divergence of each row [Lin 1991, eq. 4.1], in bits: exactly 0 when equal, 1 when no expert has
    both. It is what an assignment tells of which of the two it came from."""
    return np.where((first == second).all(-1), 0.0, mutual_information(np.stack([first, second], axis=-2)))


def stretches(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int, int]]:
    """(place in `before`, tokens removed there, tokens put in their stead) of each stretch that differs; none when
    equal."""
    opcodes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(i1, i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"]


def other_content(
    ids: Sequence[int],
    changes: Sequence[tuple[int, int, int]],
    others: Sequence[Sequence[int]],
    rng: np.random.Generator,
) -> list[int]:
    """`ids` with its content changed as much as `changes` (at least one of `stretches`) change it: as many tokens
    removed, and as many put in their stead, but in one stretch; so it becomes as long.

    A single change keeps its place, several are made at a random one. What is put in are consecutive tokens of other
    documents, which are read on from a random place in the first of them, round and round.
    """
    removed, added = (sum(change[side] for change in changes) for side in (1, 2))
    place = changes[0][0] if len(changes) == 1 else int(rng.integers(0, len(ids) - removed + 1))
    source = np.array([token for number in rng.permutation(len(others)) for token in others[number]])
    begin = int(rng.integers(0, max(1, len(source) - added + 1)))
    new = np.take(source, np.arange(begin, begin + added), mode="wrap").tolist()
    return [*ids[:place], *new, *ids[place + removed :]]


def format_swap_rows(run: Run, data: PreparedData, model: Any) -> Iterator[FormatSwapRow]:
    """One row a layer, way of counting, domain and change; none of a model without experts, of domains with fewer than
    2 probe documents and of changes that alter fewer than 2.

    The text of a document is the beginning that fills ¾ of a block, and the whole of it in every version, as far as a
    block holds it.

    Args:
        data: what the run was made with; its probe documents are held out.
        model: in eval mode; called with `input_ids` as a causal language model is, its output holds `routes`, one
            `RouterOutput` a layer with experts.
    """
    route, texts = _router(model), _beginnings(data)
    originals = encode(data.tokenizer, texts)
    before = route(originals)
    if not before:
        return
    for swapped in _swaps(data, texts, originals):
        versions = route([*swapped.format, *swapped.content])
        for (layer, counted), shares in before.items():
            half = len(swapped.rows)
            after = versions[layer, counted]
            yield FormatSwapRow(
                arm=run.arm,
                seed=run.seed,
                step=run.last_step,
                layer=layer,
                counted=counted,
                domain=data.domains[swapped.domain],
                swap=swapped.name,
                documents=half,
                changed_share=swapped.changed_share,
                **paired_divergences(shares[swapped.rows], after[:half], after[half:]),
                **moved_shares(shares, data.probe.domain, swapped.rows, after[:half], after[half:]),
            )


def paired_divergences(before: Floats, new_format: Floats, new_content: Floats) -> dict[str, float]:
    """The fields of `FormatSwapRow` from divergences to p, from [documents, experts] shares of the same documents."""
    by_format, by_content = divergence(before, new_format), divergence(before, new_content)
    between = by_format - by_content
    resampled = bootstrap(
        lambda weights: weights @ between / weights.sum(1), np.zeros(len(between), dtype=np.int64)
    ).difference(long_tails=True)
    return {
        "format_divergence": float(by_format.mean()),
        "content_divergence": float(by_content.mean()),
        "difference": resampled.value,
        "low": max(-1.0, resampled.interval.low),
        "high": min(1.0, resampled.interval.high),
        "p": resampled.p,
    }


def moved_shares(
    before: Floats, domain: NDArray[np.integer], rows: NDArray[np.int64], new_format: Floats, new_content: Floats
) -> dict[str, float]:
    """The fields of `FormatSwapRow` that say how many documents are nearest to another domain; `before` of all
    documents, the others of `rows`, all of one domain."""
    own = int(domain[rows[0]])
    half = np.zeros(len(domain), dtype=np.int64)
    for number in np.unique(domain):
        half[domain == number] = np.arange(np.count_nonzero(domain == number)) % 2

    def moved(shares: Floats) -> float:
        away = [_nearest(shares[place], before, domain, half != half[row]) != own for place, row in enumerate(rows)]
        return float(np.mean(away))

    return {
        "moved_before": moved(before[rows]),
        "moved_share": moved(new_format),
        "moved_content": moved(new_content),
    }


def _nearest(shares: Floats, before: Floats, domain: NDArray[np.integer], fitted: NDArray[np.bool_]) -> int:
    numbers = np.unique(domain[fitted])
    means = np.stack([before[fitted & (domain == number)].mean(0) for number in numbers])
    return int(numbers[divergence(np.broadcast_to(shares, means.shape), means).argmin()])


def _beginnings(data: PreparedData) -> list[str]:
    """Each probe document's text up to the last white space within its share of a block."""
    size = data.probe.tokens.shape[1]
    texts = [text[: _CHARACTERS * size] for text in data.probe.texts]
    found = []
    for row, (ids, text) in enumerate(zip(encode(data.tokenizer, texts), texts, strict=True)):
        name = data.documents[data.probe.document[row]]["id"]
        kept = ids[: max(1, int(ROOM * size))]
        end = int(character_offsets(kept, text, data.tokenizer, document=name)[-1, 1])
        whole = len(kept) == len(ids) and len(text) == len(data.probe.texts[row])
        found.append(text if whole else _LAST_WORD.sub("", text[:end]) or text[:end])
    return found


def _swaps(data: PreparedData, texts: Sequence[str], originals: Sequence[list[int]]) -> Iterator[_Swapped]:
    domain = data.probe.domain
    for number, scheme in enumerate(domain_schemes(data.probe.texts, domain, len(data.domains))):
        rows = np.flatnonzero(domain == number).tolist()
        for place, (name, change) in enumerate(changes_of(scheme.name).items()):
            after = encode(data.tokenizer, [change(texts[row]) for row in rows])
            size, rng = data.probe.tokens.shape[1], generator(place)
            altered = [(row, ids[:size]) for row, ids in zip(rows, after, strict=True) if ids and ids != originals[row]]
            if len(altered) < 2:
                continue
            changes = [stretches(originals[row], ids) for row, ids in altered]
            shares = [
                sum(max(removed, added) for _, removed, added in change) / len(originals[row])
                for change, (row, _) in zip(changes, altered, strict=True)
            ]
            yield _Swapped(
                domain=number,
                name=name,
                rows=np.array([row for row, _ in altered]),
                format=[ids for _, ids in altered],
                content=[
                    other_content(originals[row], change, [originals[n] for n in rows if n != row], rng)
                    for change, (row, _) in zip(changes, altered, strict=True)
                ],
                changed_share=float(np.mean(shares)),
            )


def _router(model: Any) -> Route:
    """Routes token ids through `model`, documents of like length together."""

    @torch.no_grad()
    def route(documents: Sequence[Sequence[int]]) -> dict[tuple[int, Counted], Floats]:
        found: dict[tuple[int, Counted], Floats] = {}
        order = sorted(range(len(documents)), key=lambda row: len(documents[row]))
        for start in range(0, len(order), _BATCH):
            stop_if_asked()
            rows = order[start : start + _BATCH]
            ids = pad_sequence([torch.tensor(documents[row]) for row in rows], batch_first=True)
            kept = torch.arange(ids.shape[1])[None] < torch.tensor([len(documents[row]) for row in rows])[:, None]
            output = model(input_ids=ids.to(getattr(model, "device", "cpu")), use_cache=False, logits_to_keep=1)
            for record in getattr(output, "routes", None) or ():
                for counted, shares in _shares(record, kept):
                    key = (int(record.layer_idx or 0), counted)
                    found.setdefault(key, np.zeros((len(documents), shares.shape[1])))[rows] = shares
        return found

    return route


def _shares(record: RouterOutput, kept: torch.Tensor) -> Iterator[tuple[Counted, Floats]]:
    """[documents, experts] shares of one batch, in the ways to count them."""
    chosen, experts = record.topk_indices.cpu(), record.router_probs_clean.shape[1]
    ways: list[tuple[Counted, torch.Tensor]] = [(SLOTS, chosen)] if chosen.shape[1] > 1 else []
    for counted, slots in [*ways, (FIRST_CHOICE, chosen[:, :1])]:
        counts = expert_counts(slots, experts, kept.reshape(-1), groups=len(kept))
        yield counted, load_of_counts(counts, torch.float64).numpy()
