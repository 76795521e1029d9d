"""What causal tests measured, kept a run in one file, so that statistics are computed again without the model."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moe_emergence.analysis.causal.knockout import Arrays
from moe_emergence.analysis.files import replace_file

_FORMAT = 1
_RECORD = "causal"
Made = Mapping[str, Any]
"""What a part was made from: digests and settings, as JSON has them."""
Compute = Callable[[Sequence[str]], Mapping[str, Arrays]]
"""Names of parts to their arrays."""


class Kept:
    """A file of parts, each with what it was made from; replaced whole, in one move, after every new part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made, self.arrays = _read(path)

    def part(self, name: str, made: Made, compute: Callable[[], Arrays]) -> Mapping[str, NDArray[Any]]:
        """The part's arrays: those kept, if they were made from exactly this, else what `compute` gives, kept from now.

        Raises:
            AnalysisError: the file cannot be written.
        """
        return self.parts({name: made}, lambda missing: dict.fromkeys(missing, compute()))[name]

    def parts(self, made: Mapping[str, Made], compute: Compute) -> dict[str, Mapping[str, NDArray[Any]]]:
        """As `part`, of several that are made together; `compute` is asked once, for those that are missing alone.

        Raises:
            AnalysisError: the file cannot be written.
        """
        wanted = {name: json.loads(json.dumps({"format": _FORMAT, **one})) for name, one in made.items()}
        missing = [name for name, one in wanted.items() if self.made.get(name) != one]
        if missing:
            for name, arrays in compute(missing).items():
                own = {f"{name}.{key}": np.ascontiguousarray(value) for key, value in arrays.items()}
                self.arrays = {key: v for key, v in self.arrays.items() if not key.startswith(f"{name}.")} | own
                self.made |= {name: wanted[name]}
            replace_file(self.path, save(self.arrays, {_RECORD: json.dumps(self.made, sort_keys=True)}))
        return {name: self._arrays_of(name) for name in made}

    def _arrays_of(self, name: str) -> dict[str, NDArray[Any]]:
        return {key.removeprefix(f"{name}."): v for key, v in self.arrays.items() if key.startswith(f"{name}.")}


def digest_of(tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of names, types, shapes and bytes, in the order of names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {values.dtype} {values.shape} ".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Nothing, where there is no such file or not one of ours: all is then computed again."""
    try:
        with safe_open(path, framework="numpy") as file:
            made = json.loads((file.metadata() or {})[_RECORD])
            return made, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError, KeyError):
        return {}, {}
