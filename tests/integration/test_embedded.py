"""What ships in the package, prepared as the presets cut it."""

import json

import numpy as np
import pytest

from moe_emergence.data.blocks import PreparedData, prepare
from moe_emergence.data.corpora import load_corpus
from moe_emergence.data.splits import ARM_SPLITS
from moe_emergence.data.tokenizer import tokenizer_digest, train_tokenizer
from moe_emergence.experiments.presets import dense
from moe_emergence.models.base import ASSETS, load_base, load_tokenizer


@pytest.fixture(scope="module")
def embedded() -> PreparedData:
    return prepare(load_corpus(), load_tokenizer(), dense().data)


def test_the_tokenizer_was_trained_on_no_held_out_document() -> None:
    corpus, shipped = load_corpus(), load_tokenizer()
    texts = (document.text for document in corpus.documents if corpus.splits[document.id] in ("base", "train"))
    assert tokenizer_digest(train_tokenizer(texts, vocab_size=shipped.get_vocab_size())) == tokenizer_digest(shipped)


def test_every_split_is_full_balanced_and_of_its_own_documents(embedded: PreparedData) -> None:
    domain_of = np.array([embedded.domains.index(document["domain"]) for document in embedded.documents])
    for split in ARM_SPLITS:
        blocks = embedded.split(split)
        assert np.array_equal(
            domain_of[blocks.document], np.broadcast_to(blocks.domain[:, None], blocks.document.shape)
        )
        assert {embedded.documents[i]["split"] for i in np.unique(blocks.document)} == {split}
        assert len(set(np.bincount(blocks.domain, minlength=3).tolist())) == 1


def test_there_is_as_much_as_the_presets_evaluate(embedded: PreparedData) -> None:
    config = dense()
    blocks = embedded.manifest["blocks_per_domain"]
    assert blocks["dev"] >= config.data.dev_blocks
    assert blocks["test"] >= config.data.test_blocks
    assert config.data.probe_tokens - 3 < embedded.probe.length.sum() <= config.data.probe_tokens
    tokens = np.bincount(embedded.probe.domain, weights=embedded.probe.length)
    assert len(set(tokens.tolist())) == 1
    assert {embedded.documents[i]["split"] for i in embedded.probe.document} == {"test"}
    assert embedded.wide is not None
    assert np.bincount(embedded.wide.domain, weights=embedded.wide.length).tolist() == [100_000 // 3] * 3
    assert set(embedded.probe.document) <= set(embedded.wide.document)
    assert {embedded.documents[i]["split"] for i in embedded.wide.document} == {"test"}


def test_the_base_saw_no_document_of_the_arms_and_its_losses_are_those_recorded(embedded: PreparedData) -> None:
    import torch

    from moe_emergence.training.evaluation import evaluate

    record = json.loads((ASSETS / "training.json").read_text("utf-8"))
    assert record["corpus_digest"] == load_corpus().for_base().digest
    seen = set(record["train_documents"])
    assert seen == {d["id"] for d in embedded.documents if d["split"] == "base"}
    read = np.concatenate([embedded.train.document, embedded.dev.document, embedded.test.document])
    assert not seen & {embedded.documents[index]["id"] for index in np.unique(read)}
    last, base = record["curve"][-1], load_base()
    assert base.model.num_parameters() == record["parameters"]
    found = evaluate(
        base.model, embedded, embedded.dev, device=torch.device("cpu"), per_domain=record["recipe"]["dev_blocks"]
    )
    assert found["predicted_tokens"] == last["predicted_tokens"]
    for domain, loss in last["lm_loss"].items():
        assert found["lm_loss"][domain] == pytest.approx(loss, abs=1e-3), "also where it is shipped in half precision"
