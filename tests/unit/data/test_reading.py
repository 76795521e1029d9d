import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe_emergence.data.cleaning import BINARY, EMPTY, NOT_UTF8, UTF16
from moe_emergence.data.documents import Document
from moe_emergence.data.reading import Reading, read_folder
from moe_emergence.data.records import LINKED_FOLDER, NO_FILE, NO_TEXT
from moe_emergence.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sound domain, to which each test adds its own."""
    (tmp_path / "prose.txt").write_text("First.\n\nSecond.\n")
    return tmp_path


def of(reading: Reading, domain: str) -> list[Document]:
    return [document for document in reading.documents if document.domain == domain]


def texts(reading: Reading, domain: str) -> list[str]:
    return [document.text.strip() for document in of(reading, domain)]


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_four_ways_to_give_a_domain(folder: Path) -> None:
    (folder / "math.jsonl").write_text(lines({"text": "1 + 1"}, {"text": "2 + 2", "id": "two", "licence": "MIT"}))
    pq.write_table(pa.table({"text": ["x", "y"], "source": ["book", None]}), folder / "law.parquet")
    (folder / "code" / "sub").mkdir(parents=True)
    (folder / "code" / "b.py").write_text("b = 1\n")
    (folder / "code" / "sub" / "a.md").write_text("# a\n")
    reading = read_folder(folder)
    assert [d.id for d in reading.documents] == [
        "code/b.py", "code/sub/a.md", "law/0", "law/1", "math/0", "math/two", "prose/0", "prose/1",
    ]  # fmt: skip
    assert [d.source for d in of(reading, "law")] == ["book", "law.parquet"]
    assert [d.licence for d in of(reading, "math")] == ["unstated", "MIT"]
    assert texts(reading, "code") == ["b = 1", "# a"]
    assert (reading.dropped, reading.ignored) == ({}, ())


def test_a_document_is_its_own_group_unless_one_is_given(folder: Path) -> None:
    (folder / "math.jsonl").write_text(lines({"text": "1"}, {"text": "2", "group": "t"}, {"text": "3", "group": "t"}))
    assert [d.group for d in of(read_folder(folder), "math")] == ["math/0", "math/t", "math/t"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_txt_is_divided_at_blank_lines_whatever_their_kind(folder: Path, end: str) -> None:
    text = "\n \none\nmore of one\n\n  \t\n\n\tindented two\n\nthree"
    (folder / "notes.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", end).encode())
    found = [d.text for d in of(read_folder(folder), "notes")]
    assert [t.rstrip("\r\n").replace(end, "\n") for t in found] == ["one\nmore of one", "\tindented two", "three"]


@pytest.mark.parametrize(
    ("separator", "text"),
    [
        ("<|endoftext|>", "a\n\nb<|endoftext|>c"),
        ("\n---\n", "a\n\nb\r\n---\r\nc"),
        (".*", "a\n\nb.*c.*  "),
    ],
)
def test_txt_is_divided_at_a_stated_separator_taken_literally(folder: Path, separator: str, text: str) -> None:
    (folder / "notes.txt").write_bytes(text.encode())
    assert texts(read_folder(folder, separator=separator), "notes") == ["a\n\nb", "c"]


@pytest.mark.timeout(20)
def test_a_huge_line_of_spaces_takes_linear_time(folder: Path) -> None:
    (folder / "notes.txt").write_text(" " * 3_000_000 + "x")
    assert texts(read_folder(folder), "notes") == ["x"]


def test_jsonl_documents_that_cannot_be_read_are_counted(folder: Path) -> None:
    data = b'{"text": "good"}\n\n{"text": "caf\xe9"}\r\n{"text": null}\n{"text": " "}\n{"text": "\\ud800 half"}'
    (folder / "math.jsonl").write_bytes(b"\xef\xbb\xbf" + data)
    reading = read_folder(folder)
    assert [d.id for d in of(reading, "math")] == ["math/0", "math/5"]
    assert reading.dropped == {NOT_UTF8: 1, NO_TEXT: 1, EMPTY: 1}


def test_parquet_documents_that_cannot_be_read_are_counted(folder: Path) -> None:
    good = pa.array(["good", None, "", "last"])
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xe9\xff")]
    )
    pq.write_table(pa.table({"text": pa.chunked_array([good, bad])}), folder / "law.parquet")
    reading = read_folder(folder)
    assert [d.id for d in of(reading, "law")] == ["law/0", "law/3"]
    assert reading.dropped == {NO_TEXT: 1, EMPTY: 1, NOT_UTF8: 1}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_of_any_string_type(folder: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["x", "y"]).cast(kind)}), folder / "law.parquet")
    assert texts(read_folder(folder), "law") == ["x", "y"]


def test_files_of_a_folder_that_are_no_text_are_counted(folder: Path) -> None:
    code = folder / "code"
    (code / ".git").mkdir(parents=True)
    (code / ".git" / "HEAD").write_text("hidden")
    (code / ".hidden.py").write_text("hidden")
    (code / "good.py").write_text("x = 1")
    (code / "empty.py").write_text("\n")
    (code / "latin.py").write_bytes(b"# caf\xe9")
    (code / "wide.txt").write_bytes("text".encode("utf-16"))
    (code / "picture.png").write_bytes(b"PNG" + bytes(40))
    os.mkfifo(code / "pipe")
    reading = read_folder(folder)
    assert [d.id for d in of(reading, "code")] == ["code/good.py"]
    assert reading.dropped == {EMPTY: 1, NOT_UTF8: 1, UTF16: 1, BINARY: 1, NO_FILE: 1}


def test_links_that_stay_inside_are_followed_for_files_and_counted_for_folders(folder: Path) -> None:
    (folder / "code" / "real").mkdir(parents=True)
    (folder / "code" / "real" / "a.py").write_text("x = 1")
    (folder / "code" / "loop").symlink_to(folder / "code")
    (folder / "code" / "b.py").symlink_to(folder / "code" / "real" / "a.py")
    reading = read_folder(folder)
    assert [d.id for d in of(reading, "code")] == ["code/b.py", "code/real/a.py"]
    assert reading.dropped == {LINKED_FOLDER: 1}


@pytest.mark.parametrize("place", ["code.txt", "code", "code/sub", "code/a.py"])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "corpus"
    (outside / "secret").mkdir(parents=True)
    (outside / "file").write_text("secret")
    (root / place).parent.mkdir(parents=True)
    (root / "prose.txt").write_text("text")
    target = outside / ("file" if "." in place else "secret")
    (root / place).symlink_to(target)
    with pytest.raises(DataError, match=rf"{place} is a link to {target}, outside {root}: put a copy"):
        read_folder(root)


@pytest.mark.parametrize("target", ["nowhere.txt", "code.txt"])
def test_links_to_nothing_or_to_themselves_are_refused(folder: Path, target: str) -> None:
    (folder / "code.txt").symlink_to(folder / target)
    with pytest.raises(DataError, match=r"code.txt is a link to something that does not exist"):
        read_folder(folder)


def test_hidden_entries_are_passed_over_and_others_listed(folder: Path) -> None:
    (folder / "math.txt").write_text("1")
    for name in (".DS_Store", "README.md", "data.csv"):
        (folder / name).write_text("x")
    assert read_folder(folder).ignored == ("README.md", "data.csv")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has one domain \(prose.txt\); at least two are needed, each as <domain>.txt"),
        ({"README.md": b"x"}, r"has one domain \(prose.txt\).*; passed over: README.md$"),
        ({"math.txt": b""}, r"math.txt holds no document; domain 'math' needs text"),
        ({"math.txt": b" \n\n\t\n"}, r"math.txt holds no document; "),
        ({"math.jsonl": b""}, r"math.jsonl holds no document; "),
        ({"math.jsonl": b'{"text": ""}\n{"text": null}'}, r"that can be used \(empty: 1, text is null: 1\)"),
        ({"math.txt": b"caf\xe9"}, r"math.txt must be text in UTF-8; it is not UTF-8 \(byte 0xe9 at offset 3"),
        ({"math.txt": "text".encode("utf-16")}, r"math.txt must be text in UTF-8; it is UTF-16 or UTF-32"),
        ({"math.jsonl": '{"text": "x"}'.encode("utf-16")}, r"math.jsonl must be text in UTF-8; it is UTF-16 or UTF-32"),
        ({"math.jsonl": b'{"text": "x"}\n\n{"text": \n'}, r"math.jsonl, line 3 is not JSON \(Expecting value.*\);"),
        ({"math.jsonl": b'{"body": "x", "n": 1}'}, r"math.jsonl, line 1 must be .* 'text'; found fields 'body', 'n'"),
        ({"math.jsonl": b'["x"]'}, r"math.jsonl, line 1 must be an object with a field 'text'; found list"),
        ({"math.jsonl": b'{"text": 5}'}, r"math.jsonl, line 1: 'text' must be a string; got int"),
        ({"math.jsonl": b"[" * 100_000}, r"math.jsonl, line 1 is not JSON"),
        ({"math.jsonl": b'{"text":"a","id":1}\n{"text":"b","id":"1"}'}, r"math.jsonl: id 'math/1' occurs twice"),
        ({"math.jsonl": b'{"text":"a","id":"\\ud800"}'}, r"id 'math/\\ud800' holds half of a surrogate pair"),
        ({"math.parquet": b"no parquet"}, r"math.parquet cannot be read as Parquet \(.*\): write it again"),
        ({"math.parquet": b""}, r"math.parquet cannot be read as Parquet"),
        ({"math.txt": b"x", "math.jsonl": b"{}"}, r"domain 'math' is in both math.jsonl and math.txt: keep one"),
        ({"math.txt": b"x", "math/a.txt": b"x"}, r"domain 'math' is in both math and math.txt: keep one"),
        ({"m th.txt": b"x"}, r"a domain's name must be of letters .*; got 'm th': rename it"),
        ({"math/a.jsonl": b"{}"}, r"math/a.jsonl holds many documents, but in a domain's folder each file is one"),
        ({"math/.keep": b""}, r"math holds no document; "),
    ],
)  # fmt: skip
def test_each_mistake_is_named(folder: Path, files: dict[str, bytes], message: str) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_folder(folder)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder; give one with at least two domains, each as"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no domain; at least two are needed"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="separator between documents must hold at least one character"):
        read_folder(tmp_path, separator="")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"body": ["x"], "n": [1]}, r"math.parquet has no column 'text'; its columns are 'body', 'n'"),
        ({"text": [1, 2]}, r"math.parquet: column 'text' must hold strings; it holds int64"),
        ({"text": [b"x"]}, r"math.parquet: column 'text' must hold strings; it holds binary"),
        ({"text": pa.array([], pa.string())}, r"math.parquet holds no document; "),
    ],
)
def test_each_mistake_in_a_parquet_file_is_named(folder: Path, table: dict[str, object], message: str) -> None:
    pq.write_table(pa.table(table), folder / "math.parquet")
    with pytest.raises(DataError, match=message):
        read_folder(folder)


def test_a_damaged_row_group_is_named(folder: Path) -> None:
    file = folder / "math.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" * 50 for n in range(500)]}), file, compression="zstd")
    data = bytearray(file.read_bytes())
    data[40:400] = bytes(360)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"math.parquet cannot be read as Parquet"):
        read_folder(folder)


def test_a_file_without_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (folder / "math.txt").write_text("x")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"math.txt cannot be read: .*Permission denied"):
        read_folder(folder)


@pytest.mark.parametrize("domain", ["", "a b", "a/b", "é", "a\n"])
def test_domain_names_have_few_characters(domain: str) -> None:
    with pytest.raises(DataError, match="a domain's name must be of letters"):
        Document(id="i", domain=domain, source="s", licence="l", text="t")


def test_a_document_needs_an_id() -> None:
    with pytest.raises(DataError, match="a document of domain 'a' has an empty id"):
        Document(id="", domain="a", source="s", licence="l", text="t")


def test_global_random_state_is_untouched(folder: Path) -> None:
    (folder / "math.txt").write_text("1\n\n2")
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert read_folder(folder) == read_folder(folder)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
