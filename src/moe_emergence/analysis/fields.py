"""Values of a JSON record, taken by key and checked: what is missing or of the wrong kind is named with its file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from moe_emergence.errors import AnalysisError


class Fields:
    """One JSON object and where it comes from; every getter raises `AnalysisError` naming file and key."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise AnalysisError(f"{where} must be a JSON object; found {type(values).__name__}")
        self.values: dict[str, Any] = values
        self.where = where

    def any(self, key: str) -> Any:
        if key not in self.values:
            raise AnalysisError(f"{self.where}: no key {key!r}; found {', '.join(map(repr, self.values)) or 'none'}")
        return self.values[key]

    def text(self, key: str) -> str:
        value = self.any(key)
        return value if isinstance(value, str) else self._refuse(key, "a string")

    def optional_text(self, key: str) -> str | None:
        return None if self.any(key) is None else self.text(key)

    def flag(self, key: str) -> bool:
        value = self.any(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def number(self, key: str) -> float:
        value = self.any(key)
        return float(value) if _is_number(value) else self._refuse(key, "a number")

    def whole(self, key: str) -> int:
        value = self.any(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else self._refuse(key, "a whole number")

    def items(self, key: str) -> list[Any]:
        value = self.any(key)
        return value if isinstance(value, list) else self._refuse(key, "a list")

    def group(self, key: str) -> "Fields":
        return Fields(self.any(key), f"{self.where}: {key!r}")

    def groups(self, key: str) -> "list[Fields]":
        return [Fields(value, f"{self.where}: {key!r}[{place}]") for place, value in enumerate(self.items(key))]

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        return tuple(values) if all(isinstance(v, str) for v in values) else self._refuse(key, "a list of strings")

    def wholes(self, key: str) -> tuple[int, ...]:
        values = self.items(key)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
        return tuple(values) if whole else self._refuse(key, "a list of whole numbers")

    def decimals(self, key: str) -> tuple[float, ...]:
        values = self.items(key)
        return tuple(map(float, values)) if all(map(_is_number, values)) else self._refuse(key, "a list of numbers")

    def numbers(self, key: str) -> dict[str, float]:
        """An object whose values are all numbers."""
        group = self.group(key)
        return {name: group.number(name) for name in group.values}

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        raise AnalysisError(f"{self.where}: {key!r} must be {wanted}; found {self.values[key]!r:.80}")


def read_json(path: Path) -> Fields:
    """The object in a JSON file."""
    try:
        return Fields(json.loads(path.read_text("utf-8")), str(path))
    except OSError as error:
        raise AnalysisError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise AnalysisError(f"{path} is not whole JSON ({error})") from error


def read_lines(path: Path) -> Iterator[Fields]:
    """The objects of a JSON-lines file, in order; a last line that was cut off while being written is passed over."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    yield _line(line, f"{path}, line {number}")
    except OSError as error:
        raise AnalysisError(f"cannot read {path}: {error.strerror}") from error


def _line(line: str, where: str) -> Fields:
    try:
        return Fields(json.loads(line), where)
    except ValueError as error:
        raise AnalysisError(f"{where} is not whole JSON ({error})") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
