"""A corpus: the embedded one as it ships, a user's folder, and the steps both go through."""

import dataclasses
import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from moe_emergence.data import corpora
from moe_emergence.data.corpora import Corpus, corpus_digest, load_corpus, make_corpus, write_corpus
from moe_emergence.data.documents import Document
from moe_emergence.data.splits import ARM_SPLITS, SPLITS, embedded_held_out_count
from moe_emergence.errors import DataError
from moe_emergence.models.base import ASSETS as BASE


def words(seed: int, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices([f"w{n}" for n in range(500)], k=count))


def document(name: str, text: str, domain: str = "prose") -> Document:
    return Document(id=f"{domain}/{name}", domain=domain, source="s", licence="MIT", text=text)


@pytest.fixture
def plain() -> list[Document]:
    """Two domains of 40 different documents."""
    return [
        document(str(n), words(1000 * d + n), domain) for d, domain in enumerate(("code", "prose")) for n in range(40)
    ]


@pytest.fixture
def damaged_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded corpora in the place of the real ones, for a test to damage."""
    for name in (corpora.PARQUET, corpora.MANIFEST):
        (tmp_path / name).write_bytes((corpora.ASSETS / name).read_bytes())
    monkeypatch.setattr(corpora, "ASSETS", tmp_path)
    corpora._embedded_corpus.cache_clear()
    yield tmp_path
    corpora._embedded_corpus.cache_clear()


# The embedded corpora


def test_embedded_corpora_are_what_their_manifest_says() -> None:
    corpus = load_corpus()
    manifest = json.loads((corpora.ASSETS / corpora.MANIFEST).read_text("utf-8"))
    assert corpus.domains == ("code", "math", "prose")
    assert len(corpus.documents) == manifest["documents"] == manifest["record"]["duplicates"]["kept"]
    assert corpus_digest(corpus.documents, corpus.splits) == corpus.digest == manifest["digest"]
    assert {document.licence for document in corpus.documents}.isdisjoint({"", "unstated"})


def test_embedded_corpora_fit_in_the_package() -> None:
    parquet = Path(str(corpora.ASSETS)) / corpora.PARQUET
    assert parquet.stat().st_size <= 9_000_000
    columns = pq.ParquetFile(parquet).metadata.row_group(0)
    assert {columns.column(i).compression for i in range(columns.num_columns)} == {"ZSTD"}


def test_every_embedded_domain_has_two_sources_and_enough_held_out_documents() -> None:
    corpus = load_corpus()
    for domain in corpus.domains:
        members = [d for d in corpus.documents if d.domain == domain]
        assert len({d.source for d in members}) >= 2
        wanted = embedded_held_out_count(len(members))
        for split in ("dev", "test"):
            assert len(corpus.members(split, domain)) >= wanted >= 30


def test_a_damaged_embedded_corpus_is_refused(damaged_assets: Path) -> None:
    parquet = damaged_assets / corpora.PARQUET
    raw = bytearray(parquet.read_bytes())
    raw[len(raw) // 2] ^= 1
    parquet.write_bytes(raw)
    with pytest.raises(DataError, match=r"embedded corpora are damaged: sha256 \w{16}… where \w{16}… was recorded"):
        load_corpus()


def test_the_embedded_base_saw_its_own_documents_alone() -> None:
    """Its record lists exactly the documents set apart for it, of the corpus that ships: none that an arm reads."""
    corpus = load_corpus()
    record = json.loads((BASE / "training.json").read_text("utf-8"))
    assert record["corpus_digest"] == corpus.for_base().digest
    seen, own = set(record["train_documents"]), {name for name, split in corpus.splits.items() if split == "base"}
    assert len(record["train_documents"]) == len(own)
    assert seen == own
    assert not seen & {name for name, split in corpus.splits.items() if split in ARM_SPLITS}


def test_no_held_out_text_is_a_training_document() -> None:
    """Equal but for case and white space; near duplicates were removed before the split."""
    corpus = load_corpus()

    def texts(*splits: str) -> set[bytes]:
        return {
            hashlib.sha256(" ".join(d.text.casefold().split()).encode()).digest()
            for d in corpus.documents
            if corpus.splits[d.id] in splits
        }

    assert texts("train").isdisjoint(texts("dev", "test"))
    assert texts("dev").isdisjoint(texts("test"))


# Making one


def test_planted_duplicates_are_removed(plain: list[Document]) -> None:
    """Exact but for white space, nearly equal, contained in a longer one; across domains too."""
    long = words(77, 200)
    planted = [
        document("exact", "  " + plain[3].text.replace(" ", "\n") + "\n"),
        document("other domain", plain[50].text, "code"),
        document("long", long),
        document("near", long.replace(long.split()[100], "changed", 1)),
        document("contained", " ".join(long.split()[40:140])),
    ]
    corpus = make_corpus("planted", [*plain, *planted], embedded=False)
    kept = {d.id for d in corpus.documents}
    assert kept == {d.id for d in [*plain, planted[2]]}
    assert corpus.record["duplicates"] == {"exact": 2, "near": 2, "kept": 81}
    assert corpus.record["cleaning"]["seen"] == 85


def test_documents_are_cleaned_and_lost_ones_counted(plain: list[Document]) -> None:
    dirty = [document("dirty", "\ufeff" + words(78) + "  \r\nend\x00 "), document("blank", " \n\n ")]
    corpus = make_corpus("dirty", [*plain, *dirty], embedded=False, unread={"binary": 2})
    assert corpus.documents[-1].text == words(78) + "\nend"
    assert corpus.record["cleaning"]["dropped"] == {"binary": 2, "empty": 1}
    assert corpus.record["cleaning"]["seen"] == 84
    assert set(corpus.record["format_audit"]) == {"before cleaning", "after cleaning"}


def test_the_digest_is_of_ids_domains_splits_and_texts(plain: list[Document]) -> None:
    splits = dict.fromkeys((d.id for d in plain), "train")
    digest = corpus_digest(plain, splits)
    assert corpus_digest(plain, splits) == digest
    changes = [
        [dataclasses.replace(plain[0], text="other"), *plain[1:]],
        [dataclasses.replace(plain[0], domain="prose"), *plain[1:]],
        list(reversed(plain)),
        plain[:-1],
    ]
    digests = [corpus_digest(changed, splits) for changed in changes]
    digests.append(corpus_digest(plain, splits | {plain[0].id: "dev"}))
    assert len({digest, *digests}) == 6


def test_reading_a_folder_is_deterministic_and_touches_no_global_generator(
    toy_folder: Path, toy_corpus: Corpus
) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    again = load_corpus(str(toy_folder))
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), before[2])
    assert again == toy_corpus


def test_members_are_indexed_as_documents_are(toy_corpus: Corpus) -> None:
    listed = [
        (index, d)
        for split in SPLITS
        for domain in toy_corpus.domains
        for index, d in toy_corpus.members(split, domain)
    ]
    assert sorted(index for index, _ in listed) == list(range(len(toy_corpus.documents)))
    assert all(toy_corpus.documents[index] is d for index, d in listed)


def test_a_folder_of_one_domain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("One.\n\nTwo.\n")
    with pytest.raises(DataError, match="at least two are needed"):
        load_corpus(str(tmp_path))


def test_a_corpus_is_written_and_read_back(plain: list[Document], damaged_assets: Path, tmp_path: Path) -> None:
    """As `scripts/build_corpora.py` writes the embedded one."""
    made = make_corpus(
        "embedded", [*plain, *(document(f"more{n}", words(9000 + n)) for n in range(60))], embedded=False
    )
    write_corpus(made, damaged_assets / corpora.PARQUET)
    raw = (damaged_assets / corpora.PARQUET).read_bytes()
    manifest = {"sha256": hashlib.sha256(raw).hexdigest(), "digest": made.digest, "record": dict(made.record)}
    (damaged_assets / corpora.MANIFEST).write_text(json.dumps(manifest))
    read = load_corpus()
    assert read.documents == made.documents
    assert dict(read.splits) == dict(made.splits)


# Domains dealt at random


def test_dealt_domains_keep_texts_splits_and_how_many_documents_each_has() -> None:
    corpus, null = load_corpus(), load_corpus(deal_domains=True)
    assert null.domains == corpus.domains
    assert null.splits == corpus.splits
    assert {d.id: d.text for d in null.documents} == {d.id: d.text for d in corpus.documents}

    def counts(of: Corpus) -> Counter[tuple[str, str]]:
        return Counter((document.domain, of.splits[document.id]) for document in of.documents)

    assert counts(null) == counts(corpus)


def test_dealt_domains_tell_nothing_of_the_text() -> None:
    """Of the documents now called prose, about the share of prose among all documents is prose."""
    corpus, null = load_corpus(), load_corpus(deal_domains=True)
    own = {document.id: document.domain for document in corpus.documents}
    renamed = [own[d.id] for d in null.documents if d.domain == "prose"]
    expected = len(renamed) * sum(domain == "prose" for domain in own.values()) / len(own)
    assert abs(renamed.count("prose") - expected) < 5 * expected**0.5
    assert null.digest != corpus.digest
    assert load_corpus(deal_domains=True).digest == null.digest
