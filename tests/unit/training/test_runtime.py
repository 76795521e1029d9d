"""Device, threads and keys."""

import json
import subprocess
import sys

import pytest
import torch

from moe_emergence.config import ExecutionConfig
from moe_emergence.errors import ConfigError
from moe_emergence.training.runtime import choose_device, environment, peak_memory_mib, prepare_process, random_key


def available(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    available(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto").type == chosen
    assert choose_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, cuda=False, mps=True)
    with pytest.raises(
        ConfigError, match=r"execution\.device is 'cuda', which this machine lacks: choose auto or one of mps, cpu"
    ):
        choose_device("cuda")


def test_threads_are_set_where_asked() -> None:
    code = (
        "import torch; from moe_emergence.config import ExecutionConfig as E;"
        "from moe_emergence.training.runtime import prepare_process as p; before = torch.get_num_threads();"
        "p(E(device='cpu')); same = torch.get_num_threads() == before; p(E(device='cpu', threads=3));"
        "assert same and torch.get_num_threads() == 3 and torch.are_deterministic_algorithms_enabled()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_depend_on_all_parts() -> None:
    keys = {random_key(*parts) for parts in ((1, 2, 3), (1, 23), (12, 3), (1, 2, 4), ("1", 2, 3), (1, 2, 3, 0))}
    assert len(keys) == 6
    assert random_key(1, 2, 3) == random_key(1, 2, 3)
    assert all(0 <= random_key(n) < 2**63 for n in range(200))


def test_the_environment_is_plain_json() -> None:
    prepare_process(ExecutionConfig(device="cpu", threads=1))
    device = choose_device("cpu")
    found = environment(ExecutionConfig(device="cpu"), device)
    assert json.loads(json.dumps(found)) == found
    assert (found["device"], found["threads"], found["experts_implementation"]) == ("cpu", 1, "grouped_mm")


def test_the_environment_tells_builds_of_torch_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI's wheel for CUDA and a build for the CPU alone may have one version in their metadata."""
    monkeypatch.setattr(torch, "__version__", "2.13.0+of_its_own")
    assert environment(ExecutionConfig(), torch.device("cpu"))["torch"] == "2.13.0+of_its_own"


def test_peak_memory_is_in_mebibytes() -> None:
    assert 100 < peak_memory_mib() < 100_000
