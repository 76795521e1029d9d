"""Which documents the base sees, which train, which are held out: decided by document, never by block, and by nothing
but their names."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, cast

from moe_emergence.data.documents import Document
from moe_emergence.errors import DataError

Split = Literal["base", "train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("base", "train", "dev", "test")
"""`base`, of the embedded corpora alone: documents that the embedded base was trained on, and no arm is."""
ARM_SPLITS: tuple[Split, ...] = ("train", "dev", "test")
"""What arms read."""


def held_out_count(documents: int) -> int:
    """Documents held out for dev, and again for test, of a user's domain: min(max(10, ⌊0.05 n⌋), ⌊0.10 n⌋).

    0 for n < 10, 1 at n = 10, 10 at n = 100 to 200, 50 at n = 1000.
    """
    return min(max(10, documents * 5 // 100), documents * 10 // 100)


def embedded_held_out_count(documents: int) -> int:
    """The same for the embedded corpora: 10 %, and at least 30."""
    return max(30, documents // 10)


def split_documents(documents: Sequence[Document], *, embedded: bool) -> dict[str, Split]:
    """Each document's split by id.

    In each domain the groups (a document alone, unless it declares a wider one) are ranked by the hash of their name;
    from the top they go to test until it holds its count of documents, then to dev, then, of embedded corpora, to the
    base until it holds half of what is left; the rest trains.

    Raises:
        DataError: a domain is too small to hold anything out or to leave anything for training.
    """
    by_domain: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_domain[document.domain].append(document)
    splits: dict[str, Split] = {}
    for domain, members in by_domain.items():
        wanted = embedded_held_out_count(len(members)) if embedded else held_out_count(len(members))
        if wanted == 0:
            raise DataError(
                f"domain {domain!r} has {len(members)} documents; at least 10 are needed to hold one out for dev "
                f"and one "
                "for test: add documents, or divide the text into smaller ones"
            )
        splits.update(_split_domain(members, wanted, with_base=embedded))
        if "train" not in {splits[d.id] for d in members}:
            raise DataError(
                f"domain {domain!r} has {len(members)} documents, all of which are held out ({wanted} each for dev and "
                "test): add documents, or make the groups smaller"
            )
    return splits


def _split_domain(members: Sequence[Document], wanted: int, *, with_base: bool) -> dict[str, Split]:
    groups: dict[str, list[str]] = defaultdict(list)
    for document in members:
        groups[document.group].append(document.id)
    left = {"test": wanted, "dev": wanted, "base": (len(members) - 2 * wanted) // 2 if with_base else 0}
    splits: dict[str, Split] = {}
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        target = cast(Split, next((split for split, places in left.items() if places > 0), "train"))
        if target != "train":
            left[target] -= len(groups[group])
        splits.update(dict.fromkeys(groups[group], target))
    return splits
