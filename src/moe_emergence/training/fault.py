"""What can go wrong in a step: where a value stopped being finite, and what to do when memory runs out."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.errors import TrainingError
from moe_emergence.training.engine import Engine
from moe_emergence.training.runtime import peak_memory_mib

_BLOCK = re.compile(r"transformer\.h\.(\d+)\.")
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)
_TRIED = re.compile(r"allocate ([\d.]+ ?(?:bytes|[KMGT]iB))")


def source_of_fault(model: nn.Module, engine: Engine) -> tuple[str, int | None]:
    """Where the step's gradients stop being finite, in words, and the block.

    Going backward a fault spreads from where it arose to everything before it, so that the last bad parameter lies
    nearest to its source. Every process looks at its own part, and all give one answer.
    """
    own = [(name, p.grad is not None and not bool(p.grad.isfinite().all())) for name, p in model.named_parameters()]
    bad = [name for name, is_bad in own if engine.any(is_bad)]
    if not bad:
        return "all gradients are finite", None
    block = _BLOCK.match(bad[-1])
    return f"{len(bad)} of {len(own)} gradients, the last of {bad[-1]}", int(block[1]) if block else None


def diagnosis(config: RunConfig, lines: Iterable[dict[str, Any]], fault: Any) -> dict[str, Any]:
    """What is known of a run that too many steps in a row ended: for a person, and for whoever is asked."""
    lines = list(lines)
    skipped = [line for line in lines if line["event"] == "skipped"]
    return {
        "step": skipped[-1]["step"],
        "cause": fault.cause,
        "layer": fault.layer,
        "skipped": skipped,
        "last_metrics": next((line for line in reversed(lines) if line["event"] == "step"), None),
        "config": to_dict(config),
    }


@contextmanager
def memory_advice(config: RunConfig, step: int, doing: str, processes: int = 1) -> Iterator[None]:
    """Running out of memory is the user's to mend, and says with which numbers.

    Raises:
        TrainingError: instead of the library's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))):
            raise
        tried = _TRIED.search(str(error))
        raise TrainingError(
            f"step {step}, {doing}: out of memory{f' (it asked for {tried[1]})' if tried else ''}; this process held "
            f"up to {peak_memory_mib():,.0f} MiB. {_smaller(config, processes)}, or use a machine with more. The last "
            "checkpoint is as it was"
        ) from error


def _smaller(config: RunConfig, processes: int) -> str:
    """The setting that needs least memory next."""
    training = config.training
    share = training.batch_size // processes
    size = min(training.micro_batch_size or share, share)
    if size == 1:
        return f"One sequence of {config.data.block_size} tokens is all a forward holds: shorten data.block_size"
    half = next(part for part in range(size // 2, 0, -1) if share % part == 0)
    return (
        f"A forward holds {size} of the step's {training.batch_size} sequences: continue with "
        f"--training.micro_batch_size {half} --allow-inexact (train: and --resume), which differs by rounding, by "
        "dropout's draws, and by running counts"
    )
