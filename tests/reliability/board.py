"""What a child tells the zygote while it lives: the phase it is in, and a few counts."""

import mmap
import struct
from collections.abc import Callable
from typing import Any

PHASES = {
    "data": [("moe_emergence.training.loop", "prepared_data")],
    "step": [("moe_emergence.training.step", "Stepper.take")],
    "evaluation": [("moe_emergence.training.look", "evaluate")],
    "trace": [("moe_emergence.training.look", "write_trace")],
    "save": [("moe_emergence.training.loop", "_Training._save")],
    "analysis": [("moe_emergence.analysis.tables", "information_rows")],
    "report": [("moe_emergence.report.page", "drawings")],
}
"""The functions whose time is a phase; where one is renamed, the child says so and every test fails."""

NAMES = ("starting", *PHASES)


class Board:
    """A few numbers shared with the zygote, which outlive the child that writes them."""

    _FIELDS = ("phase", "operations", "forwards")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self._FIELDS))

    def get(self, field: str) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * self._FIELDS.index(field))[0])

    def put(self, field: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self._FIELDS.index(field), value)

    def add(self, field: str) -> int:
        self.put(field, self.get(field) + 1)
        return self.get(field)

    def clear(self) -> None:
        for field in self._FIELDS:
            self.put(field, 0)

    @property
    def phase(self) -> str:
        return NAMES[self.get("phase")]


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a module's function, or a class' method given as Class.method, by one that calls `around` with it."""
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **options: around(real, *arguments, **options))
