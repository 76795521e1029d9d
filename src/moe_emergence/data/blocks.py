"""A corpus made ready for a model: balanced blocks of each split, the probe set, and the batch of any step.

Prepared once a suite and kept in a folder, so that every arm reads the same numbers.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from moe_emergence.config import DataConfig
from moe_emergence.data.corpora import Corpus
from moe_emergence.data.packing import Blocks, balance, concatenate, pack
from moe_emergence.data.probe import Encoded, Probe, probe_of, wide_probe_of
from moe_emergence.data.splits import ARM_SPLITS, Split
from moe_emergence.data.tokenizer import encode, end_of_text_id, tokenizer_digest
from moe_emergence.errors import DataError
from moe_emergence.interrupt import stop_if_asked

TENSORS, MANIFEST, TOKENIZER = "blocks.safetensors", "manifest.json", "tokenizer.json"
TEXTS = "probe.json"
_FORMAT = 3
_PROBE_ARRAYS = ("tokens", "length", "document", "domain", "start")
_BALANCE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """What training, evaluation and tracing read.

    Attributes:
        domains: names, in the order of their indices.
        train, dev, test: blocks, as many of each domain within a split.
        probe: the probe set, one window a document: its beginning.
        wide: the wide probe set, in which the same documents read on; None where the configuration wants none.
        documents: id, domain, source, licence and split of every document, in index order.
        token_bytes: [vocabulary] UTF-8 bytes each token stands for (0 for special tokens).
        tokenizer: the tokenizer that made the ids.
        digest: sha256 of corpus, tokenizer and cutting.
    """

    domains: tuple[str, ...]
    train: Blocks
    dev: Blocks
    test: Blocks
    probe: Probe
    wide: Probe | None
    documents: tuple[dict[str, str], ...]
    token_bytes: NDArray[np.int64]
    tokenizer: Tokenizer
    digest: str
    manifest: dict[str, Any]

    def split(self, name: Split) -> Blocks:
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]


def batch_rows(*, seed: int, step: int, batch_size: int, blocks: int) -> NDArray[np.int64]:
    """Rows of the training blocks that make the batch of `step` (from 0): a function of its arguments alone.

    Blocks are visited in a fresh seeded order each epoch; a batch may span two epochs.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_epoch_order(seed, int(place // blocks), blocks)[place % blocks] for place in places])


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, blocks: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(blocks)


def token_byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """[vocabulary] bytes of text each token stands for: byte-level BPE writes one character a byte, an added token is
    written as it reads, and a special one stands for no text."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    lengths[list(vocabulary.values())] = list(map(len, vocabulary))
    for index, token in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if token.special else len(token.content.encode())
    return lengths


def prepare(corpus: Corpus, tokenizer: Tokenizer, config: DataConfig, *, every_block: bool = False) -> PreparedData:
    """Encode, pack and balance every split of `corpus`, and choose the probe documents.

    With `every_block` no training block is left out for balance: for a mix of its own to be drawn from them.

    Raises:
        DataError: token ids above 65,535, a domain too small for one block in some split, or a probe too small.
    """
    token_bytes = token_byte_lengths(tokenizer)
    if len(token_bytes) > 1 << 16:
        raise DataError(f"the tokenizer has ids up to {len(token_bytes) - 1}; at most 65535 can be stored")
    end_of_text = end_of_text_id(tokenizer)
    encoded = {
        split: [_encoded_domain(corpus, tokenizer, split, domain) for domain in corpus.domains] for split in ARM_SPLITS
    }
    splits = {split: _blocks(encoded[split], corpus, split, config, end_of_text, every_block) for split in ARM_SPLITS}
    documents = tuple(
        {
            "id": document.id,
            "domain": document.domain,
            "source": document.source,
            "licence": document.licence,
            "split": corpus.splits[document.id],
        }
        for document in corpus.documents
    )
    manifest = {
        "format": _FORMAT,
        "corpus": corpus.name,
        "corpus_digest": corpus.digest,
        "corpus_record": dict(corpus.record),
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "block_size": config.block_size,
        "probe_tokens": config.probe_tokens,
        "wide_probe_tokens": config.wide_probe_tokens,
        "end_of_text": end_of_text,
        "domains": list(corpus.domains),
        "tokens": {
            split: {
                domain: sum(len(tokens) + 1 for _, tokens in encoded[split][number])
                for number, domain in enumerate(corpus.domains)
            }
            for split in ARM_SPLITS
        },
        "blocks_per_domain": {split: int(np.bincount(splits[split].domain).min()) for split in ARM_SPLITS},
        "documents": documents,
    }
    return PreparedData(
        domains=corpus.domains,
        train=splits["train"],
        dev=splits["dev"],
        test=splits["test"],
        probe=probe_of(encoded["test"], corpus, config, end_of_text),
        wide=wide_probe_of(encoded["test"], corpus, config, end_of_text),
        documents=documents,
        token_bytes=token_bytes,
        tokenizer=tokenizer,
        digest=_digest(corpus.digest, tokenizer, config, every_block),
        manifest=manifest,
    )


def _digest(corpus_digest: str, tokenizer: Tokenizer, config: DataConfig, every_block: bool) -> str:
    cutting = [config.block_size, config.probe_tokens, config.wide_probe_tokens]
    parts = [_FORMAT, corpus_digest, tokenizer_digest(tokenizer), *cutting, *(["every block"] if every_block else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _encoded_domain(corpus: Corpus, tokenizer: Tokenizer, split: Split, domain: str) -> Encoded:
    stop_if_asked()
    members = corpus.members(split, domain)
    ids = encode(tokenizer, [document.text for _, document in members])
    return [(index, tokens) for (index, _), tokens in zip(members, ids, strict=True)]


def _blocks(
    encoded: list[Encoded], corpus: Corpus, split: Split, config: DataConfig, end: int, every_block: bool
) -> Blocks:
    """One split's blocks: as many of every domain, unless every training block is wanted."""
    parts = [
        _packed_domain(domain, corpus, split, number, config.block_size, end) for number, domain in enumerate(encoded)
    ]
    return concatenate(parts) if every_block and split == "train" else balance(parts, seed=_BALANCE_SEED)


def _packed_domain(encoded: Encoded, corpus: Corpus, split: Split, number: int, block_size: int, end: int) -> Blocks:
    order = np.random.Generator(np.random.Philox(key=[_BALANCE_SEED, 1000 + number])).permutation(len(encoded))
    blocks = pack([encoded[place] for place in order], domain=number, block_size=block_size, end_of_text=end)
    if len(blocks) == 0:
        tokens = sum(len(ids) + 1 for _, ids in encoded)
        raise DataError(
            f"the {split} split of domain {corpus.domains[number]!r} has {tokens} tokens in {len(encoded)} "
            f"documents; one "
            f"block needs {block_size}: add text, or choose a smaller data.block_size"
        )
    return blocks


def prepared_folder(
    corpus: Corpus, tokenizer: Tokenizer, config: DataConfig, cache: Path, *, every_block: bool = False
) -> Path:
    """The folder under `cache` with what `prepare` makes of these, made now unless it is there."""
    folder = cache / _digest(corpus.digest, tokenizer, config, every_block)[:16]
    if not (folder / MANIFEST).exists():
        save_prepared(prepare(corpus, tokenizer, config, every_block=every_block), folder)
    return folder


def prepared_data(
    corpus: Corpus, tokenizer: Tokenizer, config: DataConfig, cache: Path, *, every_block: bool = False
) -> PreparedData:
    """`prepare`, kept in and read from `cache`."""
    return load_prepared(prepared_folder(corpus, tokenizer, config, cache, every_block=every_block))


def save_prepared(data: PreparedData, folder: Path) -> None:
    """Write `data` to `folder`; the manifest comes last, so that a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{split}.{name}": np.ascontiguousarray(getattr(data.split(split), name))
        for split in ARM_SPLITS
        for name in ("tokens", "domain", "document", "position")
    }
    probes = {"probe": data.probe} | ({} if data.wide is None else {"wide": data.wide})
    for kind, probe in probes.items():
        tensors |= {f"{kind}.{name}": np.ascontiguousarray(getattr(probe, name)) for name in _PROBE_ARRAYS}
    temporary = folder / f".{os.getpid()}"
    save_file(tensors, temporary)
    os.replace(temporary, folder / TENSORS)
    (folder / TOKENIZER).write_text(data.tokenizer.to_str(), "utf-8")
    (folder / TEXTS).write_text(json.dumps(_texts_by_document(probes.values())), "utf-8")
    digests = {name: _file_digest(folder / name) for name in (TENSORS, TEXTS)}
    temporary.write_text(json.dumps(data.manifest | {"digest": data.digest, "sha256": digests}, indent=1), "utf-8")
    os.replace(temporary, folder / MANIFEST)


def load_prepared(folder: Path) -> PreparedData:
    """What `save_prepared` wrote.

    Raises:
        DataError: files are missing or do not match their recorded digest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        recorded = {**manifest["sha256"], TOKENIZER: manifest["tokenizer_digest"]}
        found = {name: _file_digest(folder / name) for name in recorded}
    except (OSError, ValueError, LookupError, TypeError) as error:
        first = ", once what is left of the folder is deleted" if folder.exists() else ""
        raise DataError(
            f"no prepared data in {folder} ({error}): a run copied out of its suite needs the suite's data folder, in "
            f"its own folder or two folders up; the command that trained the run makes it again{first}"
        ) from error
    changed = [name for name in recorded if found[name] != recorded[name]]
    if changed:
        raise DataError(f"{folder / changed[0]} has changed since it was prepared: delete {folder} and run again")
    with safe_open(folder / TENSORS, framework="numpy") as tensors:
        read = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a mapping)
    parts = {
        split: Blocks(**{name: read[f"{split}.{name}"] for name in ("tokens", "domain", "document", "position")})
        for split in ARM_SPLITS
    }
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    texts = json.loads((folder / TEXTS).read_text("utf-8"))
    return PreparedData(
        domains=tuple(manifest["domains"]),
        train=parts["train"],
        dev=parts["dev"],
        test=parts["test"],
        probe=_loaded_probe(read, texts, "probe"),
        wide=_loaded_probe(read, texts, "wide") if "wide.tokens" in read else None,
        documents=tuple(manifest["documents"]),
        token_bytes=token_byte_lengths(tokenizer),
        tokenizer=tokenizer,
        digest=manifest["digest"],
        manifest=manifest,
    )


def _texts_by_document(probes: Iterable[Probe]) -> dict[str, str]:
    return {str(index): text for probe in probes for index, text in zip(probe.document, probe.texts, strict=True)}


def _loaded_probe(read: Mapping[str, NDArray[Any]], texts: Mapping[str, str], kind: str) -> Probe:
    arrays = {name: read[f"{kind}.{name}"] for name in _PROBE_ARRAYS}
    return Probe(**arrays, texts=tuple(texts[str(index)] for index in arrays["document"]))


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
