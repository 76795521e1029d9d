"""Prepared data: what is in the blocks, what the probe is, what batch a step takes, and that a damaged folder shows."""

import json
import random
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from moe_emergence.config import DataConfig, RunConfig
from moe_emergence.data.blocks import (
    MANIFEST,
    TENSORS,
    TEXTS,
    TOKENIZER,
    PreparedData,
    batch_rows,
    load_prepared,
    prepare,
    prepared_data,
    prepared_folder,
    save_prepared,
    token_byte_lengths,
)
from moe_emergence.data.corpora import Corpus, load_corpus, make_corpus
from moe_emergence.data.documents import Document
from moe_emergence.data.splits import ARM_SPLITS
from moe_emergence.data.tokenizer import encode, end_of_text_id
from moe_emergence.errors import DataError
from moe_emergence.models.base import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(toy_base: Path) -> Tokenizer:
    return load_tokenizer(str(toy_base))


def corpus_of(texts: dict[str, list[str]]) -> Corpus:
    documents = [
        Document(id=f"{domain}/{n}", domain=domain, source="s", licence="MIT", text=text)
        for domain, members in texts.items()
        for n, text in enumerate(members)
    ]
    return make_corpus("test", documents, embedded=False)


def words(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices([str(n) for n in range(50)], k=count))


def test_blocks_are_full_of_one_domain_and_of_their_split(toy_data: PreparedData) -> None:
    size = toy_data.manifest["block_size"]
    for split in ARM_SPLITS:
        blocks = toy_data.split(split)
        assert blocks.tokens.shape == blocks.document.shape == blocks.position.shape == (len(blocks), size)
        domain_of = np.array([toy_data.domains.index(document["domain"]) for document in toy_data.documents])
        assert (domain_of[blocks.document] == blocks.domain[:, None]).all(), "a block holds two domains"
        assert {toy_data.documents[i]["split"] for i in np.unique(blocks.document)} == {split}


def test_tokens_are_balanced_exactly_in_every_split(toy_data: PreparedData) -> None:
    for split in ARM_SPLITS:
        counts = np.bincount(toy_data.split(split).domain, minlength=len(toy_data.domains))
        assert len(set(counts.tolist())) == 1
        assert counts[0] == toy_data.manifest["blocks_per_domain"][split] > 0
        smallest = min(toy_data.manifest["tokens"][split].values())
        assert counts[0] == smallest // toy_data.manifest["block_size"], "no more is trimmed than balance needs"


def test_no_block_is_padded(toy_data: PreparedData, toy_corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Every token of every block is the one its document has at that place; the closing token ends documents alone."""
    ids = encode(tokenizer, [document.text for document in toy_corpus.documents])
    streams = [[*tokens, end_of_text_id(tokenizer)] for tokens in ids]
    for split in ARM_SPLITS:
        blocks = toy_data.split(split)
        places = zip(blocks.document.flat, blocks.position.flat, blocks.tokens.flat, strict=True)
        assert all(streams[document][position] == token for document, position, token in places)
        seen = set(zip(blocks.document.flat, blocks.position.flat, strict=True))
        assert len(seen) == blocks.tokens.size, "a token is used twice"


def test_training_blocks_hold_no_held_out_text(toy_data: PreparedData) -> None:
    """Neither a held-out document's index nor, decoded, any held-out document's text."""
    held_out = {index for index, document in enumerate(toy_data.documents) if document["split"] != "train"}
    assert held_out.isdisjoint(toy_data.train.document.flat)
    assert not {toy_data.documents[i]["id"] for i in np.unique(toy_data.dev.document)} & {
        toy_data.documents[i]["id"] for i in np.unique(toy_data.test.document)
    }


def test_trimming_spans_a_long_domain(toy_data: PreparedData) -> None:
    """The longest domain (code) is cut by half; what stays comes from all parts of its documents."""
    numbers = np.unique(toy_data.train.document[toy_data.train.domain == 0])
    trained = [i for i, d in enumerate(toy_data.documents) if d["domain"] == "code" and d["split"] == "train"]
    assert 2 * toy_data.manifest["blocks_per_domain"]["train"] * 32 < toy_data.manifest["tokens"]["train"]["code"] * 1.1
    tenths = np.bincount([10 * trained.index(number) // len(trained) for number in numbers], minlength=10)
    assert (tenths > 0).all()
    starts = toy_data.train.position[toy_data.train.domain == 0]
    assert starts.max() > 64, "the ends of long documents are kept too"


def test_the_probe_is_test_documents_balanced_and_at_most_a_block_each(toy_data: PreparedData) -> None:
    probe, size = toy_data.probe, toy_data.manifest["block_size"]
    assert {toy_data.documents[i]["split"] for i in probe.document} == {"test"}
    assert len(set(probe.document.tolist())) == len(probe.document), "a document is probed twice"
    assert probe.tokens.shape == (len(probe.length), size)
    assert 1 <= probe.length.min() <= probe.length.max() <= size
    tokens = [int(probe.length[probe.domain == number].sum()) for number in range(len(toy_data.domains))]
    assert len(set(tokens)) == 1
    assert 0 < sum(tokens) <= toy_data.manifest["probe_tokens"]
    assert [toy_data.documents[i]["domain"] for i in probe.document] == [toy_data.domains[d] for d in probe.domain]


def test_probe_tokens_are_the_beginnings_of_their_documents(
    toy_data: PreparedData, toy_corpus: Corpus, tokenizer: Tokenizer
) -> None:
    end = end_of_text_id(tokenizer)
    for row, document in enumerate(toy_data.probe.document):
        (ids,) = encode(tokenizer, [toy_corpus.documents[document].text])
        length = toy_data.probe.length[row]
        assert toy_data.probe.tokens[row].tolist() == ids[:length] + [end] * (32 - length)
        assert toy_data.probe.texts[row] == toy_corpus.documents[document].text


@pytest.fixture(scope="module")
def wide_data(toy_corpus: Corpus, tokenizer: Tokenizer) -> PreparedData:
    return prepare(toy_corpus, tokenizer, DataConfig(block_size=16, probe_tokens=240, wide_probe_tokens=1200))


def test_the_wide_probe_reads_test_documents_on_in_rounds(
    wide_data: PreparedData, toy_corpus: Corpus, tokenizer: Tokenizer
) -> None:
    """A second window of any document only once all have their first; the windows of one lie together, in order."""
    probe = wide_data.wide
    assert probe is not None
    for domain in range(3):
        mine = np.flatnonzero(probe.domain == domain)
        assert probe.length[mine].sum() == 1200 // 3
        lengths = {
            index: len(encode(tokenizer, [document.text])[0])
            for index, document in toy_corpus.members("test", wide_data.domains[domain])
        }
        rounds = {i: (probe.document[mine] == i).sum() for i in lengths}
        deepest = max(rounds.values())
        assert deepest > 1
        assert all(n >= min(deepest - 1, -(-lengths[i] // 16)) for i, n in rounds.items())
        order = list(dict.fromkeys(probe.document[mine].tolist()))
        first = wide_data.probe.document[wide_data.probe.domain == domain].tolist()
        assert order[: len(first)] == first, "the same seeded order"
        assert len(probe.document[mine]) == sum(rounds.values())
    for index in np.unique(probe.document):
        starts = probe.start[probe.document == index]
        assert starts.tolist() == list(range(0, 16 * len(starts), 16))
        rows = np.flatnonzero(probe.document == index)
        assert (np.diff(rows) == 1).all(), "its windows lie together"
    assert (probe.length < 16).sum() <= len(np.unique(probe.document)) + 3, "cut at a document's end, and to fit"


def test_wide_probe_tokens_are_those_of_their_place(
    wide_data: PreparedData, toy_corpus: Corpus, tokenizer: Tokenizer
) -> None:
    probe = wide_data.wide
    assert probe is not None
    for row, document in enumerate(probe.document):
        (ids,) = encode(tokenizer, [toy_corpus.documents[document].text])
        start, length = probe.start[row], probe.length[row]
        assert probe.tokens[row, :length].tolist() == ids[start : start + length]
        assert (probe.tokens[row, length:] == end_of_text_id(tokenizer)).all()
        assert probe.texts[row] == toy_corpus.documents[document].text


def test_a_wide_probe_changes_nothing_else(wide_data: PreparedData, toy_corpus: Corpus, tokenizer: Tokenizer) -> None:
    without = prepare(toy_corpus, tokenizer, DataConfig(block_size=16, probe_tokens=240, wide_probe_tokens=0))
    assert without.wide is None
    assert without.digest != wide_data.digest
    assert same(replace(wide_data, wide=None), without)


def test_a_wide_probe_takes_all_there_is_at_most(toy_corpus: Corpus, tokenizer: Tokenizer) -> None:
    found = prepare(toy_corpus, tokenizer, DataConfig(block_size=16, wide_probe_tokens=10**7)).wide
    assert found is not None
    smallest = min(
        sum(len(ids) for ids in encode(tokenizer, [d.text for _, d in toy_corpus.members("test", domain)]))
        for domain in toy_corpus.domains
    )
    assert np.bincount(found.domain, weights=found.length).tolist() == [smallest] * 3


def test_preparing_twice_gives_the_same_and_touches_no_global_generator(
    toy_folder: Path, toy_data: PreparedData, tokenizer: Tokenizer, toy_config: Callable[..., RunConfig]
) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    again = prepare(load_corpus(str(toy_folder)), tokenizer, toy_config().data)
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), before[2])
    assert again.digest == toy_data.digest
    assert same(again, toy_data)


def test_upcycling_touches_no_global_generator(toy_config: Callable[..., RunConfig]) -> None:
    from moe_emergence.models.base import load_base
    from moe_emergence.models.upcycle import upcycle

    config = toy_config()
    base = load_base(config.base)
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state(), torch.get_rng_state()
    upcycle(base.model, config.moe, seed=3)  # Python's generator is not looked at: the checker of shapes draws from it
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[0], strict=True))
    assert torch.equal(torch.get_rng_state(), before[1])


def same(one: PreparedData, other: PreparedData) -> bool:
    arrays = all(
        np.array_equal(getattr(part, f.name), getattr(twin, f.name))
        for part, twin in [
            (one.probe, other.probe),
            *([(one.wide, other.wide)] if one.wide is not None else []),
            *((one.split(s), other.split(s)) for s in ARM_SPLITS),
        ]
        for f in fields(part)
    )
    return (
        arrays
        and (one.wide is None) == (other.wide is None)
        and one.documents == other.documents
        and one.domains == other.domains
    )


# A folder of prepared data


def test_what_is_saved_is_what_is_loaded(toy_data: PreparedData, tmp_path: Path) -> None:
    save_prepared(toy_data, tmp_path)
    loaded = load_prepared(tmp_path)
    assert toy_data.wide is not None
    assert same(loaded, toy_data)
    assert loaded.digest == toy_data.digest
    assert loaded.manifest["blocks_per_domain"] == toy_data.manifest["blocks_per_domain"]
    assert np.array_equal(loaded.token_bytes, toy_data.token_bytes)
    assert loaded.train.tokens.dtype == np.uint16


def test_a_cache_is_used_again_and_told_apart(
    toy_corpus: Corpus, tokenizer: Tokenizer, toy_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = toy_config().data
    folder = prepared_folder(toy_corpus, tokenizer, config, tmp_path)
    written = (folder / MANIFEST).stat().st_mtime_ns
    assert prepared_folder(toy_corpus, tokenizer, config, tmp_path) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == written
    assert prepared_folder(toy_corpus, tokenizer, replace(config, block_size=16), tmp_path) != folder
    assert prepared_folder(toy_corpus, tokenizer, replace(config, probe_tokens=300), tmp_path) != folder
    assert prepared_folder(toy_corpus, tokenizer, replace(config, wide_probe_tokens=0), tmp_path) != folder


def test_an_unfinished_folder_is_made_again(
    toy_corpus: Corpus, tokenizer: Tokenizer, toy_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = toy_config().data
    folder = prepared_folder(toy_corpus, tokenizer, config, tmp_path)
    (folder / MANIFEST).unlink()
    (folder / TENSORS).write_bytes(b"half")
    assert prepared_data(toy_corpus, tokenizer, config, tmp_path).manifest["block_size"] == 32


def flip_a_byte(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize("name", [TENSORS, TEXTS, TOKENIZER])
def test_a_damaged_file_is_refused_by_name(toy_data: PreparedData, tmp_path: Path, name: str) -> None:
    save_prepared(toy_data, tmp_path)
    flip_a_byte(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} has changed since it was prepared: delete"):
        load_prepared(tmp_path)


@pytest.mark.parametrize("name", [TENSORS, TEXTS, TOKENIZER, MANIFEST])
def test_a_missing_file_is_refused_by_name(toy_data: PreparedData, tmp_path: Path, name: str) -> None:
    save_prepared(toy_data, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name):
        load_prepared(tmp_path)


def test_what_to_do_is_said_once_and_deleting_only_of_what_is_there(toy_data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"copied out of its suite needs the suite's data folder.*makes it again$"):
        load_prepared(tmp_path / "data")
    save_prepared(toy_data, tmp_path)
    (tmp_path / TENSORS).unlink()
    with pytest.raises(DataError, match=r"makes it again, once what is left of the folder is deleted$"):
        load_prepared(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_manifest_is_refused(toy_data: PreparedData, tmp_path: Path, content: str) -> None:
    save_prepared(toy_data, tmp_path)
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=str(tmp_path)):
        load_prepared(tmp_path)


# What cannot be prepared


def test_a_corpus_too_small_for_a_block_says_how_much_it_needs(tokenizer: Tokenizer) -> None:
    corpus = corpus_of({"long": [words(n, 60) for n in range(20)], "short": [f"word {n}" for n in range(100, 112)]})
    with pytest.raises(
        DataError, match=r"train split of domain 'short' has \d+ tokens in 10 documents; one block needs 256"
    ):
        prepare(corpus, tokenizer, DataConfig(block_size=256))


def test_a_probe_without_a_token_for_each_domain_is_refused(toy_corpus: Corpus, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"data.probe_tokens must be at least 3, one for each domain; got 2"):
        prepare(toy_corpus, tokenizer, DataConfig(block_size=32, probe_tokens=2))
    with pytest.raises(DataError, match=r"data.wide_probe_tokens must be at least 3, one for each domain; got 2"):
        prepare(toy_corpus, tokenizer, DataConfig(block_size=32, wide_probe_tokens=2))


def test_a_vocabulary_that_does_not_fit_is_refused(toy_corpus: Corpus, toy_base: Path) -> None:
    tokenizer = load_tokenizer(str(toy_base))
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"word{n}" for n in range(65_536 - size)])
    prepare(toy_corpus, tokenizer, DataConfig(block_size=32))  # 65,536 entries: the largest id is 65,535
    tokenizer.add_tokens(["one more"])
    with pytest.raises(DataError, match="has ids up to 65536; at most 65535"):
        prepare(toy_corpus, tokenizer, DataConfig(block_size=32))


def test_the_largest_id_counts_and_not_how_many_there_are(toy_corpus: Corpus, toy_base: Path) -> None:
    """A vocabulary may have gaps."""
    content = json.loads((toy_base / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"]["gap"] = 70_000
    with pytest.raises(DataError, match="70000"):
        prepare(toy_corpus, Tokenizer.from_str(json.dumps(content)), DataConfig(block_size=32))


# Bytes of tokens


def test_token_bytes_add_up_to_the_text(toy_corpus: Corpus, toy_data: PreparedData, tokenizer: Tokenizer) -> None:
    texts = [document.text for document in toy_corpus.documents] + ["漢字 €\n\t", "é"]
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        assert toy_data.token_bytes[ids].sum() == len(text.encode())
    assert toy_data.token_bytes[end_of_text_id(tokenizer)] == 0
    assert len(toy_data.token_bytes) == tokenizer.get_vocab_size()


def test_an_added_token_counts_its_own_bytes(toy_base: Path) -> None:
    """It is written as it reads, not one character a byte."""
    tokenizer = load_tokenizer(str(toy_base))
    tokenizer.add_tokens([AddedToken("naïve漢", special=False)])
    text = "so naïve漢 it is"
    assert token_byte_lengths(tokenizer)[encode(tokenizer, [text])[0]].sum() == len(text.encode())


# Batches


def test_batch_rows_are_a_function_of_their_arguments() -> None:
    steps = list(range(20))
    forwards = [batch_rows(seed=5, step=step, batch_size=4, blocks=7).tolist() for step in steps]
    random.Random(0).shuffle(steps)
    assert all(batch_rows(seed=5, step=s, batch_size=4, blocks=7).tolist() == forwards[s] for s in steps)
    other = [batch_rows(seed=6, step=step, batch_size=4, blocks=7).tolist() for step in range(20)]
    assert other != forwards


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_each_epoch_visits_each_block_once(batch_size: int, blocks: int, seed: int) -> None:
    """Also where a batch is larger than an epoch, or spans two."""
    steps = -(-3 * blocks // batch_size)
    rows = np.concatenate(
        [batch_rows(seed=seed, step=step, batch_size=batch_size, blocks=blocks) for step in range(steps)]
    )
    epochs = rows[: 3 * blocks].reshape(3, blocks)
    assert (np.sort(epochs, axis=1) == np.arange(blocks)).all()


def test_epochs_differ() -> None:
    epochs = [batch_rows(seed=1, step=epoch, batch_size=50, blocks=50).tolist() for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != sorted(epochs[0])


def test_cutting_a_batch_differently_does_not_change_the_order() -> None:
    """Sequence n of the run is the same block whatever the batch size."""
    whole = batch_rows(seed=2, step=0, batch_size=24, blocks=10).tolist()
    cut = [row for step in range(6) for row in batch_rows(seed=2, step=step, batch_size=4, blocks=10).tolist()]
    assert cut == whole
