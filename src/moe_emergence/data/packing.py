"""Documents to blocks: each document closed by the end-of-text token, the stream cut into equal blocks, none padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenArray = NDArray[np.uint16]
IndexArray = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Packed sequences of one split.

    Attributes:
        tokens: [blocks, block_size] token ids.
        domain: [blocks] index of the one domain each block holds.
        document: [blocks, block_size] index of the document each token comes from.
        position: [blocks, block_size] the token's place in its document, from 0; the closing token counts.
    """

    tokens: TokenArray
    domain: IndexArray
    document: IndexArray
    position: IndexArray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: NDArray[np.int64]) -> "Blocks":
        """The blocks at `rows`, in that order."""
        return Blocks(
            tokens=self.tokens[rows],
            domain=self.domain[rows],
            document=self.document[rows],
            position=self.position[rows],
        )

    def document_starts(self) -> NDArray[np.bool_]:
        """[blocks, block_size] true where a token is its document's first: the mask for document boundaries."""
        return self.position == 0


def pack(documents: Sequence[tuple[int, Sequence[int]]], *, domain: int, block_size: int, end_of_text: int) -> Blocks:
    """Cut (document index, token ids) pairs of one domain into blocks.

    The last block is kept when the stream fills it exactly; what does not fill a block is left out.
    """
    lengths = np.array([len(tokens) + 1 for _, tokens in documents], dtype=np.int64)
    total = int(lengths.sum())
    blocks = total // block_size
    stream = np.empty(total, dtype=np.uint16)
    start = 0
    for (_, tokens), length in zip(documents, lengths, strict=True):
        stream[start : start + length - 1] = tokens
        stream[start + length - 1] = end_of_text
        start += int(length)
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    shape = (blocks, block_size)
    used = blocks * block_size
    return Blocks(
        tokens=stream[:used].reshape(shape),
        domain=np.full(blocks, domain, dtype=np.int32),
        document=np.repeat(np.array([index for index, _ in documents], dtype=np.int32), lengths)[:used].reshape(shape),
        position=(np.arange(total) - firsts)[:used].astype(np.int32).reshape(shape),
    )


def concatenate(parts: Sequence[Blocks]) -> Blocks:
    """All blocks of `parts`, in order."""
    return Blocks(
        tokens=np.concatenate([part.tokens for part in parts]),
        domain=np.concatenate([part.domain for part in parts]),
        document=np.concatenate([part.document for part in parts]),
        position=np.concatenate([part.position for part in parts]),
    )


def balance(parts: Sequence[Blocks], *, seed: int) -> Blocks:
    """As many blocks of every domain as the smallest has, each a seeded sample over the whole of its source.

    Blocks are shuffled before they are trimmed, so that what is kept spans the source and is not its head.
    """
    keep = min(len(part) for part in parts)
    return concatenate(
        [
            part.take(np.random.Generator(np.random.Philox(key=[seed, number])).permutation(len(part))[:keep])
            for number, part in enumerate(parts)
        ]
    )
