import random

import numpy as np
import pytest

from moe_emergence.data.audit import FEATURES, audit_format, surface_features
from moe_emergence.data.documents import Document
from moe_emergence.errors import DataError


def make(domain: str, texts: list[str], group: str = "") -> list[Document]:
    return [
        Document(id=f"{domain}/{n}", domain=domain, source="s", licence="l", text=text, group=group)
        for n, text in enumerate(texts)
    ]


def prose(rng: random.Random) -> str:
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 8))) for _ in range(rng.randint(40, 80))]
    return " ".join(words).capitalize() + "."


def test_features_of_a_text_worked_by_hand() -> None:
    [row] = surface_features(["Ab 12,\n\n(c)"])
    assert row[:6] == pytest.approx([1 / 11, 1 / 11, 2 / 11, 2 / 11, 3 / 11, np.log(12)])
    assert row[6:].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(("text", "kind"), [("A", 0), ("É", 0), ("a", 1), ("7", 2), ("\tx", 3), ("(", 4), ("中", 4)])
def test_class_of_the_first_character(text: str, kind: int) -> None:
    assert surface_features([text])[0, 6:].argmax() == kind


def test_an_empty_text_is_all_zeros_and_surrogates_do_no_harm() -> None:
    rows = surface_features(["", "\ud800"])
    assert not rows[0].any()
    assert np.isfinite(rows).all()


def test_a_marked_format_is_found_and_its_feature_named() -> None:
    rng = random.Random(1)
    documents = make("a", [prose(rng) for _ in range(100)]) + make("b", [prose(rng).upper() for _ in range(100)])
    audit = audit_format(documents)
    assert (audit.documents, audit.chance) == (200, 0.5)
    assert audit.accuracy >= 0.99
    rows = {row.name: row for row in audit.features}
    assert tuple(rows) == tuple(FEATURES)
    assert rows["upper-case share"].accuracy >= 0.99
    assert rows["upper-case share"].means["a"] < 0.05 < 0.5 < rows["upper-case share"].means["b"]
    assert rows["digit share"].accuracy <= 0.6


def test_one_format_for_all_domains_stays_near_chance() -> None:
    rng = random.Random(2)
    documents = [d for name in "abc" for d in make(name, [prose(rng) for _ in range(200)])]
    audit = audit_format(documents)
    assert audit.chance == pytest.approx(1 / 3)
    assert abs(audit.accuracy - audit.chance) < 0.08


def test_chance_is_the_share_of_the_largest_domain() -> None:
    rng = random.Random(3)
    audit = audit_format(make("a", [prose(rng) for _ in range(90)]) + make("b", [prose(rng) for _ in range(10)]))
    assert audit.chance == 0.9
    assert audit.accuracy == pytest.approx(0.9, abs=0.03)


def test_what_only_memory_of_a_group_could_tell_is_not_counted() -> None:
    # Each group has its own share of digits, which says nothing about the domain of another group.
    rng = random.Random(4)
    documents = []
    for number in range(40):
        digits, domain = rng.random(), rng.choice("ab")
        texts = ["".join(rng.choices("0x", (digits, 1 - digits), k=400)) for _ in range(20)]
        documents += [
            Document(id=f"{number}/{n}", domain=domain, source="s", licence="l", text=text, group=f"g{number}")
            for n, text in enumerate(texts)
        ]
    assert audit_format(documents).accuracy < 0.75


def test_documents_are_predicted_by_a_model_that_did_not_see_them() -> None:
    # Domains drawn by lot, and few documents: a model could learn most of those it sees by heart.
    rng = random.Random(7)
    found = []
    for _ in range(10):
        texts = [prose(rng) for _ in range(30)]
        found.append(audit_format(make("a", texts[:15]) + make("b", texts[15:])).accuracy)
    assert np.mean(found) < 0.6


def test_more_than_two_domains_are_told_apart_in_any_order() -> None:
    rng = random.Random(5)
    documents = make("a", [prose(rng) for _ in range(60)])
    documents += make("b", [prose(rng).replace(" ", "\n") for _ in range(60)])
    documents += make("c", ["9" + prose(rng).replace("a", "1").replace("e", "2") for _ in range(60)])
    forward, backward = audit_format(documents), audit_format(documents[::-1])
    assert forward.accuracy >= 0.98
    assert backward.accuracy == pytest.approx(forward.accuracy, abs=0.01)


@pytest.mark.parametrize(
    ("documents", "found"),
    [
        ([], "got 0 and 0"),
        (make("a", list("abcdefg")), "got 1 and 7"),
        (make("a", list("abc")) + make("b", ["x"]), "got 2 and 4"),
        (make("a", list("abc"), "g") + make("b", list("xyz"), "h"), "got 2 and 2"),
    ],
)
def test_too_little_to_audit_is_named(documents: list[Document], found: str) -> None:
    with pytest.raises(DataError, match=f"needs at least 2 domains and 5 groups of documents; {found}$"):
        audit_format(documents)


def test_a_thousand_documents_leave_the_global_random_state_untouched() -> None:
    rng = random.Random(6)
    documents = [d for name in "abc" for d in make(name, [prose(rng) * 10 for _ in range(350)])]
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert audit_format(documents) == audit_format(documents)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
