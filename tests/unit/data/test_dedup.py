import itertools
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_emergence.data.dedup import deduplicate, exact_key

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Writer:
    """Made-up prose: words drawn by Zipf's law, so that common runs of words do recur."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = ["".join(self.rng.choices(LETTERS, k=self.rng.randint(2, 8))) for _ in range(3000)]
        self.weights = list(itertools.accumulate(1 / rank for rank in range(1, 3001)))

    def write(self, length: int) -> list[str]:
        return self.rng.choices(self.words, cum_weights=self.weights, k=length)

    def corpus(self, documents: int) -> list[str]:
        return [" ".join(self.write(self.rng.randint(60, 600))) for _ in range(documents)]

    def edited(self, text: str, share: float) -> str:
        """The text with a share of its words replaced, deleted or preceded by a new one."""
        words: list[str] = []
        for word in text.split():
            new = self.write(1)[0]
            words += [word] if self.rng.random() >= share else self.rng.choice([[new], [], [new, word]])
        return " ".join(words)


def sheet(rng: random.Random) -> str:
    """Exercises from a few templates: much the same words, other numbers."""
    templates = (
        "A train covers {} km in {} hours. How far does it go in {} hours at the same speed?",
        "Ann buys {} pens at {} cents each and pays with {} euros. How much change does she get?",
        "What is the remainder when {} times {} is divided by {}?",
        "A tank of {} litres fills at {} litres a minute and leaks {} a minute. When is it full?",
    )
    return "\n".join(rng.choice(templates).format(*(rng.randint(2, 99) for _ in range(3))) for _ in range(20))


def jaccard(left: str, right: str) -> float:
    sets = []
    for text in (left, right):
        words = text.casefold().split()
        size = min(5, len(words))
        sets.append({tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set())
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


def test_exact_copies_are_all_found_and_the_first_is_kept() -> None:
    texts = Writer(1).corpus(200)
    report = deduplicate([*texts, *texts[:50], texts[0]])
    assert report.keep == tuple(range(200))
    assert [(d.dropped, d.other, d.rule, d.share) for d in report.exact[-2:]] == [
        (249, 49, "exact", 1.0),
        (250, 0, "exact", 1.0),
    ]
    assert len(report.exact) == 51
    assert report.near == ()


@pytest.mark.parametrize("change", [str.split, lambda t: t.split(" "), lambda t: [f" {t}\n\n"]])
@pytest.mark.parametrize("space", ["\n", " \t ", "\r\n", "\u00a0", "\u2003"])
def test_copies_with_other_white_space_are_all_exact(change, space: str) -> None:  # type: ignore[no-untyped-def]
    texts = Writer(2).corpus(50)
    report = deduplicate(texts + [space.join(change(text)) + space for text in texts])
    assert report.keep == tuple(range(50))
    assert len(report.exact) == 50


def test_other_unicode_forms_are_exact_and_other_case_is_not() -> None:
    assert exact_key("caf\u00e9  au lait") == exact_key("cafe\u0301 au\nlait ")
    assert exact_key("Cafe") != exact_key("cafe")
    assert exact_key("a b") != exact_key("ab")
    assert exact_key("lone \ud800") != exact_key("lone ")


@pytest.mark.parametrize("share", [0.001, 0.005, 0.01, 0.02, 0.03])
def test_planted_near_duplicates_are_found(share: float) -> None:
    writer = Writer(3)
    texts = writer.corpus(300)
    planted = [writer.edited(text, share) for text in texts]
    report = deduplicate(texts + planted)
    gone = [{pair.dropped, pair.other} for pair in report.exact + report.near]
    found = [index for index in range(300) if {index, index + 300} in gone]
    assert len(found) >= 0.95 * 300
    assert len(report.exact + report.near) == len(found)
    assert sum(index < 300 for index in report.keep) >= 0.99 * 300


@pytest.mark.parametrize(("start", "stop"), [(0.0, 0.6), (0.4, 1.0), (0.2, 0.8)])
@pytest.mark.parametrize("container_first", [True, False])
def test_half_of_a_text_inside_a_longer_one_is_found_and_the_longer_one_stays(
    start: float, stop: float, container_first: bool
) -> None:
    writer = Writer(4)
    short = [" ".join(writer.write(120)) for _ in range(100)]
    long = []
    for text in short:
        part = text.split()[int(start * 120) : int(stop * 120)]
        long.append(" ".join(writer.write(400) + part + writer.write(400)))
    report = deduplicate(long + short if container_first else short + long)
    assert report.keep == (tuple(range(100)) if container_first else tuple(range(100, 200)))
    assert {d.rule for d in report.near} == {"contained"}
    assert all(0.5 <= d.share < 0.65 and abs(d.other - d.dropped) == 100 for d in report.near)


def test_a_third_of_a_text_inside_another_is_no_duplicate() -> None:
    writer = Writer(5)
    short = [writer.write(120) for _ in range(100)]
    long = [writer.write(400) + text[40:80] + writer.write(400) for text in short]
    assert len(deduplicate([" ".join(words) for words in short + long]).keep) == 200


@pytest.mark.parametrize(("words", "kept"), [(49, 2), (50, 1)])
def test_containment_counts_from_fifty_words(words: int, kept: int) -> None:
    writer = Writer(6)
    text = writer.write(words)
    assert len(deduplicate([" ".join(text), " ".join(writer.write(500) + text)]).keep) == kept


def test_made_up_prose_has_no_false_positive() -> None:
    assert len(deduplicate(Writer(7).corpus(1000)).keep) >= 990


def test_exercises_from_few_templates_are_no_duplicates() -> None:
    rng = random.Random(8)
    assert len(deduplicate([sheet(rng) for _ in range(500)]).keep) >= 495


def test_real_code_has_at_most_one_percent_false_positives() -> None:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [file.read_text("utf-8") for file in files]
    assert len(texts) > 100
    near = deduplicate(texts).near  # exact duplicates are no error: Debian has files under two names
    assert len(near) <= 0.01 * len(texts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), max_size=12))
def test_near_duplicates_are_those_of_the_plain_definition(texts: list[str]) -> None:
    keep: list[int] = []
    for index, text in enumerate(texts):
        if not any(texts[k] == text or jaccard(texts[k], text) >= 0.8 for k in keep):
            keep.append(index)
    report = deduplicate(texts)
    assert report.keep == tuple(keep)
    for pair in report.near:
        assert pair.share == pytest.approx(jaccard(texts[pair.dropped], texts[pair.other]))


@pytest.mark.parametrize("long_first", [True, False])
@pytest.mark.parametrize(("long", "short", "kept"), [(10, 8, 1), (15, 12, 1), (14, 11, 2), (9, 7, 2)])
def test_a_jaccard_index_of_0_8_is_the_least_that_counts(long: int, short: int, kept: int, long_first: bool) -> None:
    # n + 4 different words have n 5-grams; those of the short text are all in the long one.
    texts = [" ".join(f"w{n}" for n in range(grams + 4)) for grams in (long, short)]
    assert len(deduplicate(texts if long_first else texts[::-1]).keep) == kept


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["", "", " "], ["a", "b", "a b"], ["x " * 100, "y " * 100]])
def test_counts_add_up_for_small_inputs(texts: list[str]) -> None:
    report = deduplicate(texts)
    gone = [pair.dropped for pair in report.exact + report.near]
    assert sorted([*report.keep, *gone]) == list(range(len(texts)))


def test_counts_add_up_when_every_kind_is_planted() -> None:
    writer = Writer(9)
    texts = writer.corpus(100)
    mixed = (
        texts
        + texts[:20]
        + [writer.edited(t, 0.01) for t in texts[20:60]]
        + [f"{a} {b}" for a, b in zip(texts[60:80], texts[80:], strict=True)]
    )
    writer.rng.shuffle(mixed)
    report = deduplicate(mixed)
    gone = [pair.dropped for pair in report.exact + report.near]
    assert sorted([*report.keep, *gone]) == list(range(len(mixed)))
    assert deduplicate([mixed[index] for index in report.keep]).keep == tuple(range(len(report.keep)))


@pytest.mark.timeout(30)
def test_one_huge_line_is_read() -> None:
    texts = ["x" * 3_000_000, "y " * 1_000_000, "x" * 3_000_000]
    assert deduplicate(texts).keep == (0, 1)


def test_same_answer_twice_and_global_random_state_untouched() -> None:
    writer = Writer(10)
    texts = writer.corpus(60)
    texts += [writer.edited(t, 0.02) for t in texts]
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert deduplicate(texts) == deduplicate(texts)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
