"""Which documents are held out, and which are the base's: the published rule, the embedded one, and that nothing
straddles."""

import hashlib
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.data.corpora import Corpus, load_corpus
from moe_emergence.data.documents import Document
from moe_emergence.data.splits import ARM_SPLITS, SPLITS, embedded_held_out_count, held_out_count, split_documents
from moe_emergence.errors import DataError


def documents(count: int, domain: str = "prose", group: str = "") -> list[Document]:
    return [
        Document(id=f"{domain}/{n}", domain=domain, source="s", licence="MIT", text=f"{domain} {n}", group=group)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("documents", "held_out"), [(0, 0), (1, 0), (9, 0), (10, 1), (50, 5), (99, 9), (100, 10), (200, 10), (1000, 50)]
)
def test_published_rule(documents: int, held_out: int) -> None:
    assert held_out_count(documents) == held_out


@pytest.mark.parametrize(("documents", "held_out"), [(62, 30), (300, 30), (309, 30), (310, 31), (2000, 200)])
def test_embedded_rule(documents: int, held_out: int) -> None:
    assert embedded_held_out_count(documents) == held_out


@pytest.mark.parametrize("count", [10, 50, 99, 100, 200])
def test_each_of_dev_and_test_gets_its_count(count: int) -> None:
    splits = split_documents([*documents(count, "code"), *documents(200, "prose")], embedded=False)
    found = Counter(split for name, split in splits.items() if name.startswith("code"))
    wanted = held_out_count(count)
    assert found == {"test": wanted, "dev": wanted, "train": count - 2 * wanted}


def test_a_documents_split_depends_on_its_name_alone() -> None:
    """Not on the order of the documents, nor on what other domains hold."""
    prose = documents(100)
    alone = split_documents(prose, embedded=False)
    beside = split_documents([*documents(30, "code"), *reversed(prose)], embedded=False)
    assert {name: beside[name] for name in alone} == alone


@given(st.lists(st.integers(1, 6), min_size=40, max_size=80))
@settings(max_examples=30, deadline=None)
def test_groups_never_straddle(sizes: list[int]) -> None:
    members = [
        Document(id=f"{g}-{n}", domain="math", source="s", licence="MIT", text="x", group=f"template {g}")
        for g, size in enumerate(sizes)
        for n in range(size)
    ]
    splits = split_documents(members, embedded=False)
    by_group = defaultdict(set)
    for member in members:
        by_group[member.group].add(splits[member.id])
    assert all(len(found) == 1 for found in by_group.values())
    counts, wanted = Counter(splits.values()), held_out_count(len(members))
    assert wanted <= counts["test"] < wanted + max(sizes)
    assert wanted <= counts["dev"] < wanted + max(sizes)


def test_too_few_documents_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(DataError, match=r"domain 'code' has 9 documents; at least 10 are needed"):
        split_documents([*documents(9, "code"), *documents(20)], embedded=False)


def test_groups_that_leave_nothing_for_training_are_refused() -> None:
    with pytest.raises(DataError, match="'prose' has 40 documents, all of which are held out"):
        split_documents([*documents(20, group="a"), *(d for d in documents(40, group="b")[20:])], embedded=False)


def test_embedded_corpora_were_split_by_the_embedded_rule() -> None:
    """Worked out again from the rule's words: ranked by hash, test first, then dev, then half of the rest for the base,
    whole groups."""
    corpus = load_corpus()
    for domain in corpus.domains:
        groups: dict[str, list[str]] = defaultdict(list)
        for document in corpus.documents:
            if document.domain == domain:
                groups[document.group].append(document.id)
        documents = sum(map(len, groups.values()))
        held_out = max(30, documents // 10)
        wanted = {"test": held_out, "dev": held_out, "base": (documents - 2 * held_out) // 2}
        queue = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
        for split in ("test", "dev", "base"):
            held: list[str] = []
            while len(held) < wanted[split]:
                held += groups[queue.pop(0)]
            assert {name for name in held if corpus.splits[name] != split} == set()
        assert {corpus.splits[name] for group in queue for name in groups[group]} == {"train"}


def test_splitting_the_embedded_documents_again_gives_the_shipped_splits() -> None:
    corpus = load_corpus()
    assert split_documents(corpus.documents, embedded=True) == dict(corpus.splits)


@pytest.mark.parametrize("which", ["embedded", "toy"])
def test_no_document_is_in_two_splits(which: str, toy_corpus: Corpus) -> None:
    corpus = load_corpus() if which == "embedded" else toy_corpus
    ids = [document.id for document in corpus.documents]
    assert len(set(ids)) == len(ids), "an id is used twice"
    assert set(ids) == set(corpus.splits)
    split_of_text: dict[str, set[str]] = defaultdict(set)
    split_of_group: dict[str, set[str]] = defaultdict(set)
    for document in corpus.documents:
        split_of_text[" ".join(document.text.split()).casefold()].add(corpus.splits[document.id])
        split_of_group[document.group].add(corpus.splits[document.id])
    assert [text[:80] for text, splits in split_of_text.items() if len(splits) > 1] == []
    assert [group for group, splits in split_of_group.items() if len(splits) > 1] == []
    for domain in corpus.domains:
        kinds = SPLITS if which == "embedded" else ARM_SPLITS
        members = [{index for index, _ in corpus.members(split, domain)} for split in kinds]
        assert all(members)
        assert sum(map(len, members)) == len(set.union(*members))


def test_a_users_corpus_has_no_documents_of_the_base(toy_corpus: Corpus) -> None:
    assert set(toy_corpus.splits.values()) == set(ARM_SPLITS)
    assert toy_corpus.for_base() is toy_corpus


def test_what_the_base_trains_on_is_what_no_arm_reads() -> None:
    """The same documents with `base` and `train` changed about; dev and test stay what they are."""
    corpus = load_corpus()
    turned = corpus.for_base()
    assert turned.documents == corpus.documents
    assert turned.digest != corpus.digest, "prepared for the base is not prepared for the arms"
    changed = {"base": "train", "train": "base", "dev": "dev", "test": "test"}
    assert dict(turned.splits) == {name: changed[split] for name, split in corpus.splits.items()}
