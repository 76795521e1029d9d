"""What follows from the order of a document's tokens."""

import numpy as np
from jaxtyping import Int

from moe_emergence.errors import AnalysisError

Tokens = Int[np.ndarray, " tokens"]


def turned(document: Tokens, rng: np.random.Generator) -> Int[np.ndarray, " tokens"]:
    """For each token the one that takes its place when each document's tokens are turned in a circle by an offset of
    its own, any of its length alike.

    Raises:
        AnalysisError: the tokens of a document are not consecutive.
    """
    first = np.flatnonzero(np.r_[True, document[1:] != document[:-1]])
    if len(np.unique(document[first])) < len(first):
        raise AnalysisError("the tokens of a document must be consecutive: sort the trace by document and place")
    length = np.diff(np.r_[first, len(document)])
    start, of = np.repeat(first, length), np.repeat(length, length)
    offset = np.repeat(rng.integers(0, length), length)
    return start + (np.arange(len(document)) - start + offset) % of
