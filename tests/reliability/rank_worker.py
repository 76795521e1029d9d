"""One process of several: `torchrun … rank_worker.py CONFIG FOLDER FAULT` trains, or goes on, and does the fault.

FAULT is JSON: {"kill": [ranks], "step": n} ends those processes with SIGKILL in step n; {"poison": rank, "steps": [..]}
puts NaN into that process's loss; {} does nothing.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from poison import NAN, poison

from moe_emergence.config import from_dict
from moe_emergence.errors import MoEEmergenceError
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.loop import train
from moe_emergence.training.step import Stepper

RANK = int(os.environ["RANK"])


def main() -> None:
    config, folder, fault = from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3])
    if RANK in fault.get("kill", ()):
        _die_in_step(fault["step"])
    if fault.get("poison") == RANK:
        poison(pytest.MonkeyPatch(), "loss", NAN, fault["steps"])
    try:
        train(config, folder, resume=True, console=RunConsole(quiet=True))
    except MoEEmergenceError as error:
        sys.exit(f"rank {RANK}: {error}")


def _die_in_step(step: int) -> None:
    take = Stepper.take

    def dying(stepper: Stepper, batch: Any) -> Any:
        if batch.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(stepper, batch)

    Stepper.take = dying  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
