"""The tokenizer: any text comes back exactly, and every token's bytes are known."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from moe_emergence.data.blocks import token_byte_lengths
from moe_emergence.data.corpora import Corpus
from moe_emergence.data.tokenizer import (
    END_OF_TEXT,
    encode,
    end_of_text_id,
    tokenizer_digest,
    train_tokenizer,
)
from moe_emergence.errors import DataError
from moe_emergence.models.base import load_tokenizer

TEXTS = {
    "multi-line string": 'def f():\n    """One.\n\n    Two, indented.\n    """\n    return 1\n',
    "tabs": "\tif x:\n\t\treturn\t# tab\t\tinside\n",
    "unicode": "naïve Ça — “quoted” ∀x ∈ ℝ: x² ≥ 0, 漢字 и кириллица",
    "emoji": "👩‍👩‍👧‍👦 and 🇫🇷, e\u0301 combined",
    "white space": "  two  spaces\r\n\u00a0no-break\u2028line ",
    "special name": f"before{END_OF_TEXT}after <|endoftext|> <|endof",
    "empty": "",
}


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return load_tokenizer()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_comes_back(embedded: Tokenizer, text: str) -> None:
    (ids,) = encode(embedded, [text])
    assert embedded.decode(ids, skip_special_tokens=False) == text
    assert token_byte_lengths(embedded)[ids].sum() == len(text.encode())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = load_tokenizer()
    (ids,) = encode(tokenizer, [text])
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert token_byte_lengths(tokenizer)[ids].sum() == len(text.encode())


def test_a_special_token_s_name_in_a_text_is_text() -> None:
    text = f"x{END_OF_TEXT}y"
    fresh = load_tokenizer()
    (ids,) = encode(fresh, [text])
    assert end_of_text_id(fresh) not in ids
    assert len(ids) > 3


def test_encoding_leaves_the_digest_alone(embedded: Tokenizer) -> None:
    before = tokenizer_digest(embedded)
    encode(embedded, ["text"])
    assert tokenizer_digest(embedded) == before == tokenizer_digest(Tokenizer.from_str(embedded.to_str()))


def test_training_is_deterministic_and_has_every_byte(toy_corpus: Corpus) -> None:
    texts = [document.text for document in toy_corpus.documents]
    first, second = (train_tokenizer(texts, vocab_size=300) for _ in range(2))
    assert tokenizer_digest(first) == tokenizer_digest(second)
    assert first.get_vocab_size() == 300
    assert end_of_text_id(first) == 0
    unseen = "".join(map(chr, range(256))) + string.printable
    assert first.decode(encode(first, [unseen])[0], skip_special_tokens=False) == unseen


def test_a_tokenizer_without_end_of_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"has no <\|endoftext\|> token"):
        end_of_text_id(Tokenizer(models.BPE()))
