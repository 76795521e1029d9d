"""`data`: what a corpus holds, and what cleaning did to it."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moe_emergence.commands.arguments import Command
from moe_emergence.commands.printing import print_rows
from moe_emergence.config import EMBEDDED, DataConfig

if TYPE_CHECKING:
    from moe_emergence.data.blocks import PreparedData


def command() -> Command:
    """What `data` takes."""
    data = Command("data", "Show a corpus as training will see it: splits, tokens, licences, cleaning, format audit.")
    data.option("corpus", str, EMBEDDED, "embedded, or a folder with one .txt, .jsonl, .parquet or folder a domain")
    data.option("base", str, EMBEDDED, "whose tokenizer counts: embedded, gpt2, or a model's directory")
    data.option("block-size", int, DataConfig().block_size, "tokens in a training sequence")
    return data


def run(arguments: Sequence[str]) -> None:
    """Print every table."""
    given = command().parse(arguments)
    config = DataConfig(corpus=given["corpus"], block_size=given["block_size"])

    from moe_emergence.data.blocks import prepare
    from moe_emergence.data.corpora import load_corpus
    from moe_emergence.models.base import load_tokenizer

    corpus = load_corpus(config.corpus)
    data = prepare(corpus, load_tokenizer(given["base"]), config)
    print_rows(f"{corpus.name} (sha256 {corpus.digest[:16]}…)", split_rows(data))
    print_rows("sources and licences", source_rows(data))
    for title, rows in record_tables(corpus.record).items():
        print_rows(title, rows)


def split_rows(data: "PreparedData") -> list[dict[str, Any]]:
    """A row a domain and split; `blocks used` is what balancing leaves: as many of each domain."""
    size = data.manifest["block_size"]
    documents = Counter((d["domain"], d["split"]) for d in data.documents)
    return [
        {
            "domain": domain,
            "split": split,
            "documents": documents[domain, split],
            "tokens": tokens[domain],
            "blocks": tokens[domain] // size,
            "blocks used": data.manifest["blocks_per_domain"][split],
        }
        for domain in data.domains
        for split, tokens in data.manifest["tokens"].items()
    ]


def source_rows(data: "PreparedData") -> list[dict[str, Any]]:
    """A row a source."""
    counts = Counter((d["domain"], d["source"], d["licence"]) for d in data.documents)
    return [
        {"domain": domain, "source": source, "licence": licence, "documents": count}
        for (domain, source, licence), count in sorted(counts.items())
    ]


def record_tables(record: Any) -> dict[str, list[dict[str, Any]]]:
    """Title to rows of what `make_corpus` recorded."""
    cleaning, duplicates = record["cleaning"], record["duplicates"]
    audits = record["format_audit"]
    return {
        f"cleaning: {cleaning['kept']:,} of {cleaning['seen']:,} documents kept": [
            *(
                {"rule": rule, "times": n, "documents": cleaning["touched"][rule]}
                for rule, n in cleaning["applied"].items()
            ),
            *({"rule": f"dropped: {why}", "times": n, "documents": n} for why, n in cleaning["dropped"].items()),
        ],
        "duplicates": [
            {"exact": duplicates["exact"], "near": duplicates["near"], "documents kept": duplicates["kept"]}
        ],
        "format audit: share of documents whose domain the surface alone gives away": [
            {"when": when, "all features": audit["accuracy"], "chance": audit["chance"]}
            | {feature["name"]: feature["accuracy"] for feature in audit["features"]}
            for when, audit in audits.items()
        ],
    }
