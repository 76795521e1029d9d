"""Starting several processes of one worker script."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "ranks.py"
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    # accelerate launch --cpu starts one process whatever number it is given, unless MPI starts them.
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
}
SECONDS = 200

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Start two processes of a check of `workers/ranks.py` and wait for them; none outlives the call."""

    def call(launcher: str, check: str, folder: Path) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *LAUNCHERS[launcher], str(WORKER), check, str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"{check} did not end within {SECONDS} s:\n{output}")
        return subprocess.CompletedProcess(check, process.returncode, output)

    return call
