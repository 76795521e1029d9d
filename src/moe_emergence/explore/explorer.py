"""A run's answers to what the page asks, as JSON values; one at a time, since they share the models."""

import math
from collections.abc import Sequence
from threading import Lock
from typing import Any

from tokenizers import Tokenizer

from moe_emergence.analysis.text_classes import COARSE
from moe_emergence.analysis.token_types import character_offsets, token_classes
from moe_emergence.data.tokenizer import encode
from moe_emergence.errors import AnalysisError
from moe_emergence.explore.asked import Asked, Continue
from moe_emergence.explore.generation import continuation
from moe_emergence.explore.reading import LayerRoutes, Reading, pieces, read_tokens
from moe_emergence.explore.run import ExploredRun, Loaded, Models, choose_threads
from moe_emergence.report.visible import visible

PREFILL, DECODE = "prefill", "decode"
"""Read at once as the prompt; written by the model, a token at a time."""


class Explorer:
    """Reads and continues texts at any of the run's steps.

    Raises:
        MoEEmergenceError: the newest weights cannot be loaded.
    """

    def __init__(self, run: ExploredRun) -> None:
        self.run = run
        self._models = Models(run)
        self._lock = Lock()
        newest = self._models.at(run.steps[-1])
        choose_threads(newest)
        self.shape = newest.shape

    def read(self, given: Asked) -> dict[str, Any]:
        """The text's tokens and routes, with all experts on, and with some off if they are to be."""
        with self._lock:
            loaded = self._models.at(given.step)
            ids = encode(loaded.tokenizer, [given.text])[0]
            kept = ids[: self.shape.context]
            return _answer(loaded, given, kept, note=_cut_note(len(ids), self.shape.context))

    def go_on(self, given: Asked, how: Continue) -> dict[str, Any]:
        """The same of the text with a continuation, which was written without the experts that are off.

        Raises:
            ConfigError: together they are more than the model's context.
        """
        with self._lock:
            loaded = self._models.at(given.step)
            prompt = encode(loaded.tokenizer, [given.text])[0]
            ids = continuation(
                loaded.model, prompt, new=how.new, temperature=how.temperature, seed=how.seed, off=given.off
            )
            return _answer(loaded, given, ids, prompt=len(prompt), note=_end_note(len(ids) - len(prompt), how.new))


def _answer(loaded: Loaded, given: Asked, ids: list[int], *, prompt: int | None = None, note: str) -> dict[str, Any]:
    texts = pieces(loaded.tokenizer, ids)
    marks = [None] * len(ids) if prompt is None else [PREFILL] * prompt + [DECODE] * (len(ids) - prompt)
    after = read_tokens(loaded.model, ids, given.off) if given.off else None
    return {
        "step": given.step,
        "note": note,
        "tokens": {
            "text": [visible(text) for text in texts],
            "label": _labels(ids, "".join(texts), loaded.tokenizer),
            "mark": marks,
        },
        "off": [{"layer": layer, "expert": n} for layer in sorted(given.off) for n in sorted(given.off[layer])],
        "before": _reading(read_tokens(loaded.model, ids), loaded.tokenizer),
        "after": None if after is None else _reading(after, loaded.tokenizer),
    }


def _cut_note(tokens: int, context: int) -> str:
    said = f"The text has {tokens:,} tokens and the model reads {context:,} at most: this is of its first {context:,}."
    return said if tokens > context else ""


def _end_note(new: int, asked: int) -> str:
    return "" if new == asked else f"The model ended the document after {new:,} of {asked:,} tokens."


def _labels(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> list[str | None]:
    """Each token's coarse class; none where tokens cannot be laid over text, as of a tokenizer that is no byte-level
    BPE or of a continuation that holds part of a character."""
    try:
        offsets = character_offsets(ids, text, tokenizer, document="typed")
    except AnalysisError:
        return [None] * len(ids)
    return [COARSE.label(kind) for kind in token_classes(text, offsets, COARSE).tolist()]


def _reading(reading: Reading, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "losses": [*map(_finite, reading.losses), None],
        "mean_loss": None if reading.mean_loss is None else _finite(reading.mean_loss),
        "following": [
            {"text": visible(tokenizer.decode([token], skip_special_tokens=False)), "probability": _finite(share)}
            for token, share in reading.following
        ],
        "layers": [_layer(layer) for layer in reading.layers],
    }


def _layer(layer: LayerRoutes) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "experts": layer.experts,
        "weights": [[_finite(weight) for weight in slots] for slots in layer.weights],
        "entropy": [_finite(value) for value in layer.entropy],
    }


def _finite(value: float) -> float | None:
    """None for what JSON has no word for, as a diverged run's losses."""
    return value if math.isfinite(value) else None
