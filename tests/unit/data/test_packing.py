"""Blocks: full, of one domain, none padded, the last full one kept; trimming takes from all of the source."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.data.packing import Blocks, balance, concatenate, pack

END = 999


def stream(documents: list[list[int]]) -> list[int]:
    return [token for tokens in documents for token in [*tokens, END]]


def packed(documents: list[list[int]], size: int, domain: int = 0) -> Blocks:
    return pack(list(enumerate(documents)), domain=domain, block_size=size, end_of_text=END)


@given(
    st.lists(st.lists(st.integers(0, 900), max_size=12), max_size=12),
    st.integers(1, 9),
)
@settings(deadline=None)
def test_blocks_are_the_stream_cut(documents: list[list[int]], size: int) -> None:
    whole, blocks = stream(documents), packed(documents, size, domain=3)
    assert len(blocks) == len(whole) // size
    assert blocks.tokens.reshape(-1).tolist() == whole[: len(blocks) * size]
    assert blocks.tokens.shape == blocks.document.shape == blocks.position.shape == (len(blocks), size)
    assert set(blocks.domain.tolist()) <= {3}


def test_every_token_knows_its_document_and_place() -> None:
    blocks = pack([(7, [1, 2]), (4, []), (9, [3, 4, 5])], domain=1, block_size=4, end_of_text=END)
    assert blocks.tokens.tolist() == [[1, 2, END, END], [3, 4, 5, END]]
    assert blocks.document.tolist() == [[7, 7, 7, 4], [9, 9, 9, 9]]
    assert blocks.position.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert blocks.document_starts().tolist() == [[True, False, False, True], [True, False, False, False]]
    assert blocks.domain.tolist() == [1, 1]


def test_a_stream_that_fits_exactly_keeps_its_last_block() -> None:
    assert packed([[1, 2, 3], [4, 5, 6]], 4).tokens.tolist() == [[1, 2, 3, END], [4, 5, 6, END]]
    assert packed([[1, 2, 3], [4, 5]], 4).tokens.tolist() == [[1, 2, 3, END]], "what is short of a block is left out"


def test_ids_up_to_65535_are_stored_exactly() -> None:
    assert packed([[65535, 0]], 3).tokens.tolist() == [[65535, 0, END]]
    with pytest.raises(OverflowError):
        packed([[65536, 0]], 3)


def test_balance_is_exact_and_keeps_domains_apart() -> None:
    parts = [packed([list(range(length))], 4, domain=n) for n, length in enumerate((400, 90, 203))]
    kept = balance(parts, seed=0)
    assert np.bincount(kept.domain).tolist() == [22, 22, 22]
    for number, part in enumerate(parts):
        rows = {tuple(row) for row in kept.tokens[kept.domain == number].tolist()}
        assert len(rows) == 22, "no block is taken twice"
        assert rows <= {tuple(row) for row in part.tokens.tolist()}


def test_trimming_spans_the_source() -> None:
    """Of 1,000 blocks of a long domain 100 stay: about 10 from each tenth, not the first tenth."""
    long = packed([[block] * 4 for block in range(1000)], 5)
    kept = balance([long, packed([[1] * 4] * 100, 5, domain=1)], seed=0)
    tenths = np.bincount(kept.document[kept.domain == 0, 0] // 100, minlength=10)
    assert tenths.sum() == 100
    assert tenths.min() >= 3
    assert tenths.max() <= 20


def test_balance_is_seeded() -> None:
    parts = [packed([[n] * 4 for n in range(50)], 5), packed([[n] * 4 for n in range(9)], 5, domain=1)]
    once, again, other = (balance(parts, seed=seed).tokens.tolist() for seed in (3, 3, 4))
    assert once == again != other


def test_take_and_concatenate_keep_rows_together() -> None:
    blocks = concatenate([packed([[1, 2], [3, 4]], 3), packed([[5, 6]], 3, domain=1)])
    taken = blocks.take(np.array([2, 0]))
    assert taken.tokens.tolist() == [[5, 6, END], [1, 2, END]]
    assert taken.domain.tolist() == [1, 0]
    assert taken.document.tolist() == [[0] * 3, [0] * 3]
    assert taken.position.tolist() == [[0, 1, 2]] * 2
