"""`data`: the tables add up to the corpus."""

from pathlib import Path

import pytest

from moe_emergence import cli
from moe_emergence.commands.data import source_rows, split_rows
from moe_emergence.config import DataConfig
from moe_emergence.data.blocks import prepare
from moe_emergence.data.corpora import load_corpus
from moe_emergence.models.base import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for domain in ("code", "prose"):
        texts = [" ".join(f"{domain}{number * 7919 % 1009}x{word}" for word in range(30)) for number in range(30)]
        (tmp_path / f"{domain}.txt").write_text("\n\n".join([*texts, texts[0]]) + "\n")
    return tmp_path


def test_counts_add_up(folder: Path) -> None:
    corpus = load_corpus(str(folder))
    data = prepare(corpus, load_tokenizer(), DataConfig(block_size=64))
    rows = split_rows(data)
    assert sum(row["documents"] for row in rows) == len(corpus.documents) == 60
    for row in rows:
        assert row["blocks"] == row["tokens"] // 64
        assert row["blocks used"] <= row["blocks"]
    assert [row["documents"] for row in source_rows(data)] == [30, 30]


def test_it_prints_splits_licences_cleaning_duplicates_and_audit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "--corpus", str(folder), "--block-size", "64"]) == 0
    shown = capsys.readouterr().out
    for part in ("sha256", "unstated", "cleaning: 62 of 62 documents kept", "duplicates", "format audit", "test"):
        assert part in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--corpus", "/no/corpus"], "/no/corpus"), (["--block-size", "4"], "data.block_size must be at least 8; got 4")],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
