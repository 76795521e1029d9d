"""The process a run lives in: device, threads, memory, randomness."""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from moe_emergence.config import ExecutionConfig
from moe_emergence.errors import ConfigError

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "pyarrow")
EXACT = (*LIBRARIES, "cpu", "cpu_capability", "device", "processes", "threads")
"""What of the environment must be the same for a continued run to have the bits of an uninterrupted one, besides the
configuration. (The kernel's release moves no bit.)"""


def prepare_process(config: ExecutionConfig) -> None:
    """Set threads, the allocator and determinism for this process."""
    _keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling costs a pass over every new tensor, and no kernel reads what none has written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, else Apple's MPS, else the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise ConfigError(f"execution.device is {name!r}, which this machine lacks: choose auto or one of {there}")
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Stop glibc from returning large buffers to the kernel each step; page faults cost up to half of a CPU step."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def random_key(*parts: int | str) -> int:
    """A 63-bit seed that depends on all of `parts`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def peak_memory_mib() -> float:
    """The largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def environment(config: ExecutionConfig, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What the bits of a run may depend on besides its configuration."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "torch": str(torch.__version__),  # names the build, which the metadata of PyPI's wheel leaves out
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "precision": config.precision,
        "experts_implementation": config.experts_implementation,
    }


def _cpu_model() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
