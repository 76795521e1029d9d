"""What causal tests measured, kept a run in one file, so that statistics are computed again without the model."""

import hashlib
import json
from collections.abc import Callable, Mapping
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
        wanted = json.loads(json.dumps({"format": _FORMAT, **made}))
        if self.made.get(name) != wanted:
            own = {f"{name}.{key}": np.ascontiguousarray(value) for key, value in compute().items()}
            others = {key: value for key, value in self.arrays.items() if not key.startswith(f"{name}.")}
            self.arrays, self.made = others | own, self.made | {name: wanted}
            replace_file(self.path, save(self.arrays, {_RECORD: json.dumps(self.made, sort_keys=True)}))
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
