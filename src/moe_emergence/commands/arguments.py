"""A command's arguments: typed by jsonargparse, refused in one line that names the nearest option."""

import difflib
import itertools
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from moe_emergence.commands.fields import Field, optional_groups
from moe_emergence.errors import ConfigError

_KEY, _VALUE = re.compile(r'Parser key "([^"]+)"'), re.compile(r"(?:Got|Given) value: (.*)")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_MANY = {int: "whole numbers", float: "numbers", str: "names"}


@dataclass(frozen=True)
class Arguments:
    """What a command was given.

    Attributes:
        options: the command's own, defaults included, by name.
        fields: dotted fields of a configuration: those that were given.
    """

    options: dict[str, Any]
    fields: dict[str, Any]

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def required(self, option: str, purpose: str) -> Any:
        """The value of an option that has no default."""
        if self.options[option] is None:
            raise ConfigError(f"--{option} is missing: give {purpose}")
        return self.options[option]


class Command:
    """A command's positions, options, and the fields it takes."""

    def __init__(self, name: str, purpose: str) -> None:
        self.name = f"moe-emergence {name}"
        self.parser = ArgumentParser(
            prog=self.name, usage=f"{self.name} [options]", description=purpose, exit_on_error=False, print_config=None
        )
        self._labels: dict[str, tuple[str, Any]] = {}
        self._fields: dict[str, Any] = {}

    def position(self, name: str, text: str) -> None:
        self.parser.add_argument(name, type=str, help=text)
        self.parser.usage = f"{self.parser.usage} {name.upper()}"
        self._labels[name] = (name.upper(), str)

    def positions(self, name: str, text: str) -> None:
        """One or more of them, as a list."""
        self.parser.add_argument(name, type=str, nargs="+", help=text)
        self.parser.usage = f"{self.parser.usage} {name.upper()}…"
        self._labels[name] = (name.upper(), str)

    def option(self, name: str, annotation: Any, default: Any, text: str) -> None:
        self.parser.add_argument(f"--{name}", type=annotation, default=default, help=text)
        self._labels[name.replace("-", "_")] = (f"--{name}", annotation)

    def flag(self, name: str, text: str) -> None:
        self.parser.add_argument(f"--{name}", action="store_true", help=text)
        self._labels[name.replace("-", "_")] = (f"--{name}", bool)

    def fields(self, fields: Iterable[Field]) -> None:
        """One option a field, grouped by the dataclass that declares it."""
        for owner, members in itertools.groupby(fields, key=lambda field: field.owner):
            group = self.parser.add_argument_group((owner.__doc__ or owner.__name__).splitlines()[0].rstrip("."))
            for field in members:
                text = field.text or None
                group.add_argument(f"--{field.name}", type=field.type, default=field.default, help=text)
                self._labels[field.name] = (field.name, field.type)
                self._fields[field.name] = field.type

    def parse(self, arguments: Sequence[str]) -> Arguments:
        """Raises ConfigError for an unknown option or a value of another type."""
        nulls, rest = _take_nulls(_assigned(arguments, {*self._fields, *optional_groups()}))
        self._refuse_unknown(rest)
        rest = [_bracketed(argument, self._fields) for argument in rest]
        try:
            given = vars(self.parser.parse_args(rest, defaults=False).as_flat())
        except (ArgumentError, ValueError) as error:
            raise ConfigError(self._worded(str(error), rest)) from None
        options = vars(self.parser.get_defaults().as_flat()) | given
        fields = {name: given[name] for name in self._fields if name in given}
        return Arguments({name: options[name] for name in options if name not in self._fields}, nulls | fields)

    def parse_values(self, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Dotted values of fields from a file, checked as options are; `where` opens the message."""
        for name, value in values.items():
            if name not in self._fields and not (name in optional_groups() and value is None):
                raise ConfigError(f"{where}: {self._no_field(name, value)}")
        try:
            return {name: None if name in optional_groups() else self._typed(name, values[name]) for name in values}
        except (ArgumentError, ValueError) as error:
            raise ConfigError(f"{where}: {self._worded(str(error))}") from None

    def _no_field(self, name: str, value: Any) -> str:
        if any(field.startswith(f"{name}.") for field in self._fields):
            return f"{name} must hold fields{' or be null' if name in optional_groups() else ''}; got {value!r}"
        near = nearest(name, self._fields)
        return f"there is no field {name}." + (f" Did you mean {near}?" if near else "")

    def _typed(self, name: str, value: Any) -> Any:
        annotation = self._fields[name]
        if value is None and NoneType not in typing.get_args(annotation):  # jsonargparse would take it for unset
            raise ValueError(f"{name} must be {type_in_words(annotation)}; got null")
        nested = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        return self.parser.parse_object(nested, defaults=False)[name]

    def _refuse_unknown(self, arguments: Iterable[str]) -> None:
        known = ["--help", *(label for label, _ in self._labels.values()), *(f"--{name}" for name in self._fields)]
        for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
            option = argument.partition("=")[0]
            if option.startswith("--") and option not in known:
                near = nearest(option, known)
                hint = f"Did you mean {near}?" if near else f"See {self.name} --help."
                raise ConfigError(f"there is no option {option}. {hint}")

    def _worded(self, error: str, arguments: Sequence[str] = ()) -> str:
        """jsonargparse's message in one line; in plain words where it is about a value's type."""
        key, values = _KEY.search(error), _VALUE.findall(error)
        if key is None or not values or key[1] not in self._labels:
            line, _, stray = " ".join(error.split()).partition("unrecognized arguments: ")
            return self._no_place(stray, arguments) if stray else line
        label, annotation = self._labels[key[1]]
        return f"{label} must be {type_in_words(annotation)}; got {values[-1]!r}"

    def _no_place(self, stray: str, arguments: Sequence[str]) -> str:
        """What to do with a value that no option precedes: it may be that of one that takes text and was not given."""
        given = {argument.partition("=")[0] for argument in arguments}
        texts = [
            label
            for label, annotation in self._labels.values()
            if label[:2] == "--" and label not in given and str in (annotation, *typing.get_args(annotation))
        ]
        ways = " or ".join(f"{label} {stray}" for label in texts) if " " not in stray and stray[:1] != "-" else ""
        hint = f"Did you mean {ways}?" if ways else f"See {self.name} --help."
        return f"there is no place for {stray}. {hint}"


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like `given`, or like its last part: `--top_k` finds `--moe.top_k`."""
    names = list(known)
    whole = difflib.get_close_matches(given, names, n=1, cutoff=0.75)
    last = {_last_part(name): name for name in names}
    part = difflib.get_close_matches(_last_part(given), last, n=1, cutoff=0.75)
    return whole[0] if whole else last[part[0]] if part else None


def _last_part(name: str) -> str:
    return name.lstrip("-").rpartition(".")[2]


def type_in_words(annotation: Any) -> str:
    """`a whole number`, `one of a, b`, `a list of whole numbers, or null` …"""
    parts = typing.get_args(annotation)
    if NoneType in parts:
        return " or ".join(type_in_words(part) for part in parts if part is not NoneType) + ", or null"
    if typing.get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if typing.get_origin(annotation) is tuple:
        return f"a list of {_MANY[parts[0]]}"
    return _WORDS.get(annotation, str(annotation))


def _assigned(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """`--name value` of each field as `--name=value`, so that every argument can be looked at alone."""
    given: list[str] = []
    for argument in arguments:
        if given and given[-1][:2] == "--" and given[-1][2:] in names:
            given[-1] += f"={argument}"
        else:
            given.append(argument)
    return given


def _take_nulls(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`--moe=null` apart from all other arguments."""
    nulls: dict[str, Any] = {}
    return nulls, list(_without_nulls(arguments, nulls))


def _without_nulls(arguments: Sequence[str], nulls: dict[str, Any]) -> Iterator[str]:
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name[:2] != "--" or name[2:] not in optional_groups():
            yield argument
        elif value == "null":
            nulls[name[2:]] = None
        else:
            raise ConfigError(f"{name} takes null alone, for none; its fields have names of their own, as {name}.top_k")


def _bracketed(argument: str, types: dict[str, Any]) -> str:
    """`--moe.layers=2,3` as `--moe.layers=[2,3]`."""
    name, equals, value = argument.partition("=")
    annotation = types.get(name[2:])
    is_list = any(typing.get_origin(part) is tuple for part in (annotation, *typing.get_args(annotation)))
    return f"{name}=[{value}]" if equals and is_list and value != "null" and value[:1] != "[" else argument
