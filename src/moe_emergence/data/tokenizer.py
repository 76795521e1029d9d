"""The byte-level BPE tokenizer: trained once on training documents, shipped, never retrained at run time."""

import hashlib
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moe_emergence.errors import DataError

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's rule for splitting text into words; any text can be encoded and comes back
    exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """sha256 of the tokenizer's own JSON."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the token that closes each document.

    Raises:
        DataError: the tokenizer has none.
    """
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise DataError(f"the tokenizer has no {END_OF_TEXT} token, which closes each document: choose another base")
    return int(token)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text. A special token's name inside a text is text like any other."""
    tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
