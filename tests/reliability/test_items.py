"""A run is not continued from less than it had, or from more: the item is named, and nothing is moved."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import FAILED, Runs, checkpoints, tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_emergence.config import RunConfig

STEP = 9
GATE = "transformer.h.1.mlp.moe.router.gate.weight"
MOMENT = f"{GATE}:exp_avg"
Change = Callable[[dict[str, Tensor]], object]


def tensors(name: str, change: Change) -> Callable[[Path], None]:
    """Change a file of the newest checkpoint, and its manifest so that all digests agree."""

    def act(run: Path) -> None:
        path = checkpoints(run)[-1] / name
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        held = load_file(path)
        change(held)
        save_file(held, path, metadata=metadata)
        sign(path.parent)

    return act


def sign(checkpoint: Path) -> None:
    """Give the manifest the sizes and digests of the files as they are, and its own."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        content = (checkpoint / name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del manifest["sha256"]
    digest = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"sha256": digest}, indent=1) + "\n")


def state(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        path = checkpoints(run)[-1] / "state.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
        sign(path.parent)

    return act


def lines(change: Callable[[list[str]], object]) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        kept = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        change(kept)
        (run / "metrics.jsonl").write_text("".join(kept))

    return act


def of_step(kept: list[str], step: int) -> str:
    return next(line for line in kept if f'"event": "step", "step": {step},' in line)


ITEMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "metrics missing": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl"),
    "a step missing": (lines(lambda kept: kept.remove(of_step(kept, 4))), "step 4"),
    "a step twice": (lines(lambda kept: kept.insert(0, of_step(kept, 4))), "metrics.jsonl"),
    "a trace missing": (lambda run: (run / "traces" / "step-000000.parquet").unlink(), "step-000000.parquet"),
    "its neighbour missing": (
        lambda run: (run / "traces" / "step-000000.safetensors").unlink(),
        "step-000000.safetensors",
    ),
    "the run's manifest missing": (lambda run: (run / "manifest.json").unlink(), "manifest.json"),
    "a moment missing": (tensors("optimizer.safetensors", lambda held: held.pop(MOMENT)), MOMENT),
    "all moments missing": (tensors("optimizer.safetensors", lambda held: held.clear()), "optimizer.safetensors"),
    "an unknown moment": (
        tensors("optimizer.safetensors", lambda held: held.update({"head:exp_avg": torch.zeros(1)})),
        "head",
    ),
    "a moment's shape": (
        tensors("optimizer.safetensors", lambda held: held.update({MOMENT: torch.zeros(3, 32)})),
        MOMENT,
    ),
    "a moment's type": (
        tensors("optimizer.safetensors", lambda held: held.update({MOMENT: held[MOMENT].double()})),
        MOMENT,
    ),
    "a weight missing": (tensors("model.safetensors", lambda held: held.pop(GATE)), GATE),
    "an unknown weight": (tensors("model.safetensors", lambda held: held.update({"head": torch.zeros(1)})), "head"),
    "a weight's shape": (tensors("model.safetensors", lambda held: held.update({GATE: torch.zeros(3, 32)})), GATE),
    "a weight's type": (tensors("model.safetensors", lambda held: held.update({GATE: held[GATE].half()})), GATE),
    "no step in the state": (state(lambda values: values.pop("step")), "state.json"),
    "another step in the state": (state(lambda values: values.update(step=8)), "state.json"),
    "no collapse detector": (state(lambda values: values.pop("collapse")), "state.json"),
}


@pytest.mark.parametrize("name", ITEMS)
def test_a_lacking_or_unknown_item_is_named(
    runs: Runs, twelve: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], name: str
) -> None:
    """Refused with exit code 2, not gone on with; what is there stays as it is."""
    case_of("items")
    folder = runs.stopped(twelve, STEP, next(folders))
    change, item = ITEMS[name]
    change(folder)
    before = tree(folder)
    outcome = runs.zygote.command(twelve, folder)
    outcome.check(FAILED)
    assert item in outcome.error, outcome.error
    after = tree(folder)
    assert {path: content for path, content in after.items() if path in before} == before
