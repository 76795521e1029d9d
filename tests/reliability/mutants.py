"""Known bugs, to be put back one at a time: a check that finds none of them proves nothing."""

import os
from collections.abc import Callable
from typing import Any

from board import wrap


def order_off_by_one() -> None:
    """A process that continues a run takes every batch of the step after."""
    from moe_emergence.training import loop

    first: list[int] = []

    def around(real: Callable[..., Any], *arguments: Any, step: int, **options: Any) -> Any:
        first.append(step)
        return real(*arguments, step=step + (first[0] > 0), **options)

    wrap(loop, "make_batch", around)


def moments_lost() -> None:
    """A continued run starts with fresh moments."""
    from moe_emergence.training import resume

    wrap(resume, "load_optimizer", lambda real, *arguments, **options: None)


def dropout_not_keyed() -> None:
    """Dropout draws from wherever the generator of the process stands."""
    import torch

    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
    wrap(torch, "manual_seed", lambda real, *arguments: None)


def records_kept() -> None:
    """What was recorded after the checkpoint is not cut off."""
    from moe_emergence.training.run_directory import RunDirectory

    wrap(RunDirectory, "cut_back", lambda real, *arguments, **options: None)


MUTANTS = {
    "order off by one": order_off_by_one,
    "moments lost": moments_lost,
    "dropout not keyed": dropout_not_keyed,
    "records kept": records_kept,
}
