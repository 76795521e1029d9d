"""The formats a domain may come in, each read into records: one a document, or the reason why there is none."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_emergence.data.cleaning import EMPTY, NOT_UTF8, UTF16, decode, unreadable
from moe_emergence.errors import DataError

FIELDS = ("text", "id", "source", "licence", "group")
NO_TEXT, LINKED_FOLDER, NO_FILE = "text is null", "link to a folder", "not a regular file"

Record = Mapping[str, Any]
Records = Iterator[tuple[str, Record | str]]
"""(name, record) a document; a string in the record's place says why the document cannot be had."""

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def txt_records(path: Path, separator: str | None) -> Records:
    """The non-blank parts of a text file between separators; None stands for one or more blank lines.

    Raises:
        DataError: the file is not UTF-8.
    """
    text = decode(path.read_bytes(), str(path)).removeprefix("\ufeff")
    parts = _split_at_blank_lines(text) if separator is None else _split_at(separator, text)
    for number, part in enumerate(part for part in parts if part.strip()):
        yield str(number), {"text": part}


def _split_at(separator: str, text: str) -> list[str]:
    # A line break in the separator stands for any kind of line break.
    return re.split(re.escape(separator).replace("\\\n", r"(?:\r\n|\r|\n)"), text)


def _split_at_blank_lines(text: str) -> Iterator[str]:
    # Line by line: a regular expression for blank lines takes quadratic time on a long run of spaces.
    lines: list[str] = []
    for match in _LINES.finditer(text):
        line = match.group()
        if line.strip(" \t\r\n"):
            lines.append(line)
        else:
            yield "".join(lines)
            lines = []
    yield "".join(lines)


def jsonl_records(path: Path, _: str | None = None) -> Records:
    """One object a line, named by the line's number from 0; blank lines are passed over, bad UTF-8 is a reason.

    Raises:
        DataError: the file is UTF-16, or a line is not an object with a string (or null) `text`.
    """
    data = path.read_bytes()
    if unreadable(data[:4]) == UTF16:
        decode(data, str(path))
    for number, line in enumerate(data.removeprefix("\ufeff".encode()).split(b"\n")):
        if not line.strip():
            continue
        reason = unreadable(line)
        yield str(number), reason if reason is not None else _json_record(line.decode(), f"{path}, line {number + 1}")


def _json_record(line: str, where: str) -> Record | str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); each line must be one object with a field 'text'") from None
    if not isinstance(record, dict) or "text" not in record:
        found = f"fields {', '.join(map(repr, record))}" if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{where} must be an object with a field 'text'; found {found}")
    return _checked(record, where)


def _checked(record: Record, where: str) -> Record | str:
    text = record["text"]
    if text is None:
        return NO_TEXT
    if not isinstance(text, str):
        raise DataError(f"{where}: 'text' must be a string; got {type(text).__name__}")
    return record if text.strip() else EMPTY


def parquet_records(path: Path, _: str | None = None) -> Records:
    """One row a document, named by the row's number from 0; null texts and bad UTF-8 are reasons.

    Raises:
        DataError: the file is not Parquet or damaged, or has no column `text` of strings.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow)
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in range(len(batch)):
                    yield str(number), _parquet_record(batch, row, f"{path}, row {number}")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}): write it again") from None


def _columns(path: Path, schema: pa.Schema) -> list[str]:
    if "text" not in schema.names:
        raise DataError(f"{path} has no column 'text'; its columns are {', '.join(map(repr, schema.names)) or 'none'}")
    kind = schema.field("text").type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{path}: column 'text' must hold strings; it holds {kind}")
    return [name for name in FIELDS if name in schema.names]


def _parquet_record(batch: pa.RecordBatch, row: int, where: str) -> Record | str:
    try:
        return _checked({name: batch.column(name)[row].as_py() for name in batch.schema.names}, where)
    except UnicodeDecodeError:
        return NOT_UTF8


def folder_records(folder: Path, root: Path) -> Records:
    """One file a document, named by its path in `folder`; hidden ones are passed over, one that is no text is a reason.

    Raises:
        DataError: a link out of `root`, or a file that holds many documents.
    """
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (link := Path(parent, name)).is_symlink():
                refuse_link_out(link, root)
                yield str(link), LINKED_FOLDER
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(parent, name)
            refuse_link_out(file, root)
            yield file.relative_to(folder).as_posix(), _file_record(file)


def _raise(error: OSError) -> None:
    raise error


def refuse_link_out(entry: Path, root: Path) -> None:
    """Raise DataError when `entry` is a link to nothing, or to something outside `root`."""
    if not entry.exists():
        raise DataError(f"{entry} is a link to something that does not exist: mend or delete it")
    if not entry.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{entry} is a link to {entry.resolve()}, outside {root}: put a copy into the folder instead")


def _file_record(file: Path) -> Record | str:
    if not file.is_file():
        return NO_FILE
    if file.suffix in (".jsonl", ".parquet"):
        raise DataError(
            f"{file} holds many documents, but in a domain's folder each file is one: put it beside the folder"
        )
    data = file.read_bytes()
    reason = unreadable(data)
    return reason if reason is not None else _checked({"text": data.decode()}, str(file))


READERS: dict[str, Callable[[Path, str | None], Records]] = {
    ".txt": txt_records,
    ".jsonl": jsonl_records,
    ".parquet": parquet_records,
}
"""File suffix to reader."""
