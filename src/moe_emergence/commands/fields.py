"""A run's fields as options: dotted name, type, default, and the text beneath the field in its dataclass."""

import ast
import dataclasses
import inspect
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Any

from moe_emergence.config import RunConfig
from moe_emergence.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Field:
    """One leaf of a configuration.

    Attributes:
        name: dotted, as in `moe.top_k`.
        type: the annotation.
        owner: the dataclass that declares it.
    """

    name: str
    type: Any
    default: Any
    text: str
    owner: type


@cache
def fields_of(config: type, prefix: str = "") -> tuple[Field, ...]:
    """Every leaf of a dataclass, groups that may be None included, in declared order."""
    types, texts = typing.get_type_hints(config), _texts(config)
    leaves: list[Field] = []
    for f in dataclasses.fields(config):
        name, group = prefix + f.name, group_of(types[f.name])
        if group is not None:
            leaves += fields_of(group, f"{name}.")
            continue
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        leaves.append(Field(name=name, type=types[f.name], default=default, text=texts.get(f.name, ""), owner=config))
    return tuple(leaves)


def group_of(annotation: Any) -> type | None:
    """The dataclass in `Group` or `Group | None`; None for any other annotation."""
    inner = [part for part in typing.get_args(annotation) or (annotation,) if part is not NoneType]
    is_group = len(inner) == 1 and isinstance(inner[0], type) and dataclasses.is_dataclass(inner[0])
    return typing.cast(type, inner[0]) if is_group else None


@cache
def optional_groups() -> tuple[str, ...]:
    """The groups of a run that may be null: `moe`."""
    types = typing.get_type_hints(RunConfig)
    return tuple(name for name, tp in types.items() if group_of(tp) is not None and group_of(tp) is not tp)


def _texts(config: type) -> dict[str, str]:
    """Field to the string beneath it: Python itself does not keep those."""
    body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(config)).body[0]).body
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def build_run(layers: Iterable[Mapping[str, Any]]) -> RunConfig:
    """The run that layers of dotted values amount to; a later layer wins.

    `moe: None` drops what earlier layers said of experts; a layer with a field of `moe` has them again.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        _refuse_contradiction(layer)
        for name, value in layer.items():
            if name in optional_groups():
                values = {other: kept for other, kept in values.items() if not other.startswith(f"{name}.")}
            else:
                values.pop(name.partition(".")[0], None)
            values[name] = value
    return typing.cast(RunConfig, _build(RunConfig, values))


def _build(config: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    arguments = {}
    for name, annotation in typing.get_type_hints(config).items():
        dotted, group = prefix + name, group_of(annotation)
        if dotted in values:
            arguments[name] = values[dotted]
        elif group is not None and any(given.startswith(f"{dotted}.") for given in values):
            arguments[name] = _build(group, values, f"{dotted}.")
    return config(**arguments)


def _refuse_contradiction(layer: Collection[str]) -> None:
    for group in optional_groups():
        inside = [name for name in layer if name.startswith(f"{group}.")]
        if group in layer and inside:
            raise ConfigError(f"{group} is null and {inside[0]} is set: leave one of them out")
