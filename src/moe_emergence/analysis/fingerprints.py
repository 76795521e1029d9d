"""Which weights and kept results a run's tables were made from, told in little time: of large files by samples."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from moe_emergence.analysis.records import Run, Suite
from moe_emergence.training.checkpoint import MANIFEST, checkpoints_in, newest_checkpoint
from moe_emergence.training.run_directory import ANCESTOR, CONFIG
from moe_emergence.training.tensors import MODEL

_SAMPLE = 256
"""Bytes read at the beginning, in the middle and at the end of each tensor."""
_WHOLE = 1 << 20
"""Files up to so many bytes are read whole."""


def fingerprints(suite: Suite) -> dict[str, str]:
    """arm/seed and file to a fingerprint of it, for every file of weights and every kept result that is there."""
    return {
        f"{run.arm}/{run.seed}/{file.relative_to(run.folder)}": fingerprint(file)
        for run in suite.runs
        if run.manifest.moe_layers  # of a dense run the records alone are measured
        for file in _files(run)
    }


def are_current(recorded: Mapping[str, str], suite: Suite) -> bool:
    """Whether every file that is there is the one recorded. One that was deleted since, to save room, leaves what was
    made from it as true as it was."""
    return all(recorded.get(name) == found for name, found in fingerprints(suite).items())


def fingerprint(file: Path) -> str:
    """sha256 of a file's size and content: of all of it, or, of a large safetensors file, of its header and three
    samples of each tensor. Any training step changes nearly every number, so that other weights show; single damaged
    bytes need not, and checkpoints are compared with their manifest's sha256 before they are used."""
    digest, size = hashlib.sha256(str(file.stat().st_size).encode()), file.stat().st_size
    with file.open("rb") as content:
        if size <= _WHOLE:
            digest.update(content.read())
        else:
            for part in _samples(content, size):
                digest.update(part)
    return digest.hexdigest()


def _samples(content: BinaryIO, size: int) -> Iterator[bytes]:
    length = int.from_bytes(content.read(8), "little")
    header, begin = content.read(min(length, size)), 8 + length
    yield header
    try:
        tensors = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
        places = [place for start, end in tensors for place in (start, (start + end) // 2, max(start, end - _SAMPLE))]
    except (ValueError, TypeError, LookupError, AttributeError):  # not a header: torn, or no safetensors at all
        begin, places = 0, list(range(0, size, _WHOLE))
    for place in places:
        content.seek(begin + place)
        yield content.read(_SAMPLE)


def _files(run: Run) -> Iterator[Path]:
    """Those that are there, of all that the measures read besides the records."""
    newest = newest_checkpoint(run.folder / "checkpoints")
    folders = [*checkpoints_in(run.folder / "snapshots"), *([] if newest is None else [newest])]
    named = [folder / name for folder in folders for name in (MANIFEST, CONFIG, MODEL)]
    kept = sorted((run.folder / "analysis").glob("causal*.safetensors"))
    yield from (file for file in (*named, run.folder / ANCESTOR, *kept) if file.is_file())
