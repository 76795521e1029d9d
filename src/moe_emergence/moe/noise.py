"""Random numbers as a pure function of a key, for noise that no batching, rank or device may change."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_WORD = 2**64


def keyed_normal(shape: Sequence[int], *, seed: int, stream: Sequence[int] = ()) -> Float[Tensor, "..."]:
    """Standard normal float32 numbers on the CPU, the same for the same (seed, stream); up to 4 stream words.

    Philox is counter-based: seed and first word are its key, the other words the upper three quarters of its counter,
    so that streams cannot overlap. (A CPU `torch.Generator` keeps only the low 32 bits of its seed.)
    """
    first, *rest = (*stream, 0, 0, 0, 0)[:4]
    key = np.array([seed % _WORD, first % _WORD], dtype=np.uint64)
    counter = np.array([0, *(word % _WORD for word in rest)], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


def sequence_noise(
    seed: int, step: int, layer: int, sequences: Sequence[int], tokens: int, experts: int
) -> Float[Tensor, "rows experts"]:
    """Standard normal numbers for the tokens of each sequence, keyed by (seed, step, layer, sequence)."""
    rows = [keyed_normal((tokens, experts), seed=seed, stream=(layer, step, sequence)) for sequence in sequences]
    return torch.cat(rows)
