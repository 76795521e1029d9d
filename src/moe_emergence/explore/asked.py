"""What the page asks for, taken from a request's body and checked: nothing of it is a path."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_emergence.analysis.fields import Fields
from moe_emergence.errors import ConfigError
from moe_emergence.explore.run import ExploredRun, Shape

LARGEST_BODY = 1_000_000
"""Bytes."""
TEMPERATURES = (0.01, 100.0)
"""Beyond these, logits divided by it are no longer numbers, or draws no longer depend on them."""
_FIELDS = {"new": "the number of new tokens", "temperature": "the temperature", "seed": "the seed"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A text to be read.

    Attributes:
        step: one of the run's.
        off: layer to the experts switched off.
    """

    step: int
    text: str
    off: Mapping[int, frozenset[int]]


@dataclass(frozen=True, kw_only=True)
class Continue:
    """How a text is to be continued."""

    new: int
    temperature: float
    seed: int


def parsed(body: bytes) -> Fields:
    """A body as JSON object.

    Raises:
        ConfigError: it is not one.
    """
    if not body:
        raise ConfigError("the request is empty: it must be a JSON object")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the request is not UTF-8: byte {error.start} cannot be read") from None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("the request is not JSON: it must be a JSON object") from None
    return Fields(values, "the request")


def asked(fields: Fields, run: ExploredRun, shape: Shape) -> Asked:
    """What to read.

    Raises:
        MoEEmergenceError: a field is missing, of the wrong kind, or names what the run does not have.
    """
    step = fields.whole("step")
    if step not in run.weights:
        raise ConfigError(f"step must be one of {_listed(run.steps)}; got {step}")
    return Asked(step=step, text=_text(fields), off=_off(fields, shape))


def asked_to_continue(fields: Fields) -> Continue:
    """How to continue; how many tokens fit is found out later."""
    new, seed = _whole(fields, "new"), _whole(fields, "seed")
    if new < 1:
        raise ConfigError(f"the number of new tokens must be at least 1; got {new}")
    if not 0 <= seed < 1 << 63:
        raise ConfigError(f"the seed must lie between 0 and {(1 << 63) - 1}; got {seed}")
    least, most = TEMPERATURES
    temperature = _number(fields, "temperature")
    if temperature != 0 and not (math.isfinite(temperature) and least <= temperature <= most):
        raise ConfigError(f"the temperature must be 0, or lie between {least} and {most:g}; got {temperature:g}")
    return Continue(new=new, temperature=temperature, seed=seed)


def _whole(fields: Fields, key: str) -> int:
    _refuse_empty(fields, key)
    return fields.whole(key)


def _refuse_empty(fields: Fields, key: str) -> None:
    """The page sends null for a field in which nothing stands."""
    if key in fields.values and fields.values[key] is None:
        raise ConfigError(f"{_FIELDS[key]} is empty: give a number")


def _number(fields: Fields, key: str) -> float:
    _refuse_empty(fields, key)
    try:
        return fields.number(key)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _text(fields: Fields) -> str:
    text = fields.text("text")
    if not text:
        raise ConfigError("there is no text: type some first")
    if "\0" in text:
        raise ConfigError(f"character {text.index(chr(0)) + 1:,} of the text is NUL: this is binary data, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"character {error.start + 1:,} of the text is half of one (a lone surrogate)") from None
    return text


def _off(fields: Fields, shape: Shape) -> dict[int, frozenset[int]]:
    off: dict[int, frozenset[int]] = {}
    for entry in fields.groups("off"):
        layer, expert = entry.whole("layer"), entry.whole("expert")
        if layer not in shape.layers:
            raise ConfigError(f"a layer with experts must be one of {_listed(shape.layers)}; got {layer}")
        if not 0 <= expert < shape.experts:
            raise ConfigError(f"an expert must lie between 0 and {shape.experts - 1}; got {expert}")
        off[layer] = off.get(layer, frozenset()) | {expert}
    for layer, experts in off.items():
        if len(experts) == shape.experts:
            raise ConfigError(f"all {shape.experts} experts of layer {layer} are off: leave at least one on")
    return off


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
