"""A corpus: documents of at least two domains, cleaned, without duplicates, each in one split.

The embedded corpora are built once by `scripts/build_corpora.py` and shipped; a user's folder goes through the same
steps.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moe_emergence.config import EMBEDDED
from moe_emergence.data.audit import audit_format
from moe_emergence.data.cleaning import clean_documents
from moe_emergence.data.dedup import deduplicate
from moe_emergence.data.documents import Document
from moe_emergence.data.reading import read_folder
from moe_emergence.data.splits import SPLITS, Split, split_documents
from moe_emergence.errors import DataError

ASSETS = resources.files("moe_emergence.data") / "assets"
PARQUET, MANIFEST = "corpora.parquet", "corpora.json"
_DEALING_SEED = 0
COLUMNS = ("id", "domain", "source", "licence", "group", "split", "text")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents in a fixed order with their splits.

    Attributes:
        name: `embedded`, or the folder it was read from.
        documents: in the order in which they are indexed everywhere else.
        splits: document id to base, train, dev or test.
        digest: sha256 over every document's id, domain, split and text.
        record: what cleaning and de-duplication did, with counts.
    """

    name: str
    documents: tuple[Document, ...]
    splits: Mapping[str, Split]
    digest: str
    record: Mapping[str, Any]

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in the order of their indices."""
        return tuple(dict.fromkeys(document.domain for document in self.documents))

    def for_base(self) -> "Corpus":
        """The corpus as the base is trained on it: its own documents train, and those of the arms are out of reach.

        The corpus itself where no document is set apart for a base: there a base and its arms share `train`.
        """
        if "base" not in self.splits.values():
            return self
        turned: dict[Split, Split] = {"base": "train", "train": "base"}
        splits = {name: turned.get(split, split) for name, split in self.splits.items()}
        return dataclasses.replace(self, splits=splits, digest=corpus_digest(self.documents, splits))

    def members(self, split: Split, domain: str) -> list[tuple[int, Document]]:
        """(index, document) of one domain's documents in one split."""
        return [
            (index, document)
            for index, document in enumerate(self.documents)
            if document.domain == domain and self.splits[document.id] == split
        ]


def corpus_digest(documents: Sequence[Document], splits: Mapping[str, Split]) -> str:
    """sha256 over every document's id, domain, split and text, in order."""
    digest = hashlib.sha256()
    for document in documents:
        line = json.dumps([document.id, document.domain, splits[document.id], document.text])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def load_corpus(name: str = EMBEDDED, *, deal_domains: bool = False) -> Corpus:
    """The embedded corpora, or those in the folder `name`; with `deal_domains` as `dealt` makes it."""
    corpus = _embedded_corpus() if name == EMBEDDED else _folder_corpus(Path(name))
    return dealt(corpus) if deal_domains else corpus


def dealt(corpus: Corpus) -> Corpus:
    """The corpus with the domains dealt anew, at random, to the documents of each split: a null.

    Each split keeps how many documents a domain has; texts, ids and splits stay. One seed, so that all arms and seeds
    of a suite read the same.
    """
    domain = np.array([document.domain for document in corpus.documents])
    split = np.array([corpus.splits[document.id] for document in corpus.documents])
    random = np.random.Generator(np.random.Philox(_DEALING_SEED))
    for name in SPLITS:
        places = np.flatnonzero(split == name)
        domain[places] = domain[random.permutation(places)]
    order = {name: number for number, name in enumerate(corpus.domains)}
    documents = [dataclasses.replace(d, domain=str(name)) for d, name in zip(corpus.documents, domain, strict=True)]
    documents.sort(key=lambda document: order[document.domain])  # stable: domains keep their numbers
    return dataclasses.replace(corpus, documents=tuple(documents), digest=corpus_digest(documents, corpus.splits))


def write_corpus(corpus: Corpus, parquet: Path) -> None:
    """Store documents and splits as one zstd Parquet file; one page a column compresses best."""
    columns: dict[str, list[str]] = {
        name: [getattr(document, name) for document in corpus.documents] for name in COLUMNS if name != "split"
    }
    columns["split"] = [corpus.splits[document.id] for document in corpus.documents]
    table = pa.table({name: columns[name] for name in COLUMNS})
    pq.write_table(
        table,
        parquet,
        compression="zstd",
        compression_level=22,
        data_page_size=1 << 28,
        write_page_index=False,
        use_dictionary=[name for name in COLUMNS if name not in ("id", "text")],
    )


@cache
def _embedded_corpus() -> Corpus:
    manifest = json.loads((ASSETS / MANIFEST).read_text("utf-8"))
    raw = (ASSETS / PARQUET).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != manifest["sha256"]:
        raise DataError(
            f"the embedded corpora are damaged: sha256 {found[:16]}… where {manifest['sha256'][:16]}… was recorded; "
            "install the package again"
        )
    rows = pq.read_table(pa.BufferReader(raw)).to_pylist()
    documents = tuple(Document(**{name: row[name] for name in COLUMNS if name != "split"}) for row in rows)
    splits: dict[str, Split] = {row["id"]: row["split"] for row in rows}
    return Corpus(
        name=EMBEDDED, documents=documents, splits=splits, digest=manifest["digest"], record=manifest["record"]
    )


def _folder_corpus(folder: Path) -> Corpus:
    reading = read_folder(folder)
    return make_corpus(str(folder), reading.documents, unread=reading.dropped, embedded=False)


def make_corpus(
    name: str, documents: Sequence[Document], *, embedded: bool, unread: Mapping[str, int] | None = None
) -> Corpus:
    """Clean, de-duplicate and split `documents`; `unread` counts those that reading had to drop, by reason."""
    cleaned, cleaning = clean_documents(documents, unread=unread)
    texts = [document.text for document in cleaned]
    duplicates = deduplicate(texts)
    kept = [cleaned[index] for index in duplicates.keep]
    record = {
        "cleaning": dataclasses.asdict(cleaning),
        "duplicates": {"exact": len(duplicates.exact), "near": len(duplicates.near), "kept": len(kept)},
        "format_audit": {
            "before cleaning": dataclasses.asdict(audit_format(documents)),
            "after cleaning": dataclasses.asdict(audit_format(kept)),
        },
    }
    splits = split_documents(kept, embedded=embedded)
    return Corpus(name=name, documents=tuple(kept), splits=splits, digest=corpus_digest(kept, splits), record=record)
