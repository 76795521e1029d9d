"""A user's own corpus: a folder with one file or sub-folder a domain."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_emergence.data.documents import Document, check_domain
from moe_emergence.data.records import FIELDS, READERS, Record, Records, folder_records, refuse_link_out
from moe_emergence.errors import DataError
from moe_emergence.interrupt import stop_if_asked

LAYOUT = "<domain>.txt, <domain>.jsonl, <domain>.parquet or a folder <domain>/ of text files"
UNSTATED = "unstated"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a folder held.

    Attributes:
        documents: domains in the order of their names, documents in the order of the file, or of the files' paths.
        dropped: reason to the number of documents that could not be read; len(documents) + these is all there were.
        ignored: names in the folder that are no domain (hidden ones are not listed).
    """

    documents: list[Document]
    dropped: Mapping[str, int]
    ignored: tuple[str, ...]


def read_folder(path: Path, *, separator: str | None = None) -> Reading:
    """Read at least two domains.

    A domain is `<domain>.txt`, `<domain>.jsonl` or `<domain>.parquet` with a field or column `text` (and optional `id`,
    `source`, `licence`, `group`), or a folder `<domain>/` of text files, each a document. Hidden files are passed over.
    Ids are `<domain>/<id>` where one is given, else `<domain>/<n>` (part, line or row, from 0) or the file's path.

    Args:
        path: the folder.
        separator: what stands between two documents of a `.txt`; None is one or more blank lines.

    Raises:
        DataError: no such folder, fewer than two domains, two sources or no document for one domain, a link out of the
            folder, a file that cannot be read or is not what its name says, or an id given twice.
    """
    if separator == "":
        raise DataError("the separator between documents must hold at least one character; got an empty one")
    sources, ignored = _domains(path)
    documents: list[Document] = []
    dropped: Counter[str] = Counter()
    for domain, source in sorted(sources.items()):
        found, lost = _read_domain(path, domain, source, separator)
        documents += found
        dropped.update(lost)
    return Reading(documents=documents, dropped=dict(dropped), ignored=tuple(ignored))


def _domains(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Domain to the file or folder that holds it, and the names that are neither."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one with at least two domains, each as {LAYOUT}")
    sources: dict[str, Path] = {}
    ignored = []
    for entry in _visible(root):
        if not entry.is_dir() and not (entry.is_file() and entry.suffix in READERS):
            ignored.append(entry.name)
            continue
        domain = entry.name if entry.is_dir() else entry.stem
        check_domain(domain)
        if domain in sources:
            raise DataError(f"domain {domain!r} is in both {sources[domain].name} and {entry.name}: keep one of them")
        sources[domain] = entry
    if len(sources) < 2:
        raise DataError(_too_few(root, [entry.name for entry in sources.values()], ignored))
    return sources, ignored


def _visible(root: Path) -> list[Path]:
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error}") from None
    for entry in entries:
        refuse_link_out(entry, root)
    return entries


def _too_few(root: Path, sources: Sequence[str], ignored: Sequence[str]) -> str:
    found = f"one domain ({sources[0]})" if sources else "no domain"
    besides = f"; passed over: {', '.join(ignored[:5])}" if ignored else ""
    return f"{root} has {found}; at least two are needed, each as {LAYOUT}{besides}"


def _read_domain(root: Path, domain: str, path: Path, separator: str | None) -> tuple[list[Document], Counter[str]]:
    dropped: Counter[str] = Counter()
    documents: dict[str, Document] = {}
    for name, record in _records(root, path, separator):
        stop_if_asked()
        if isinstance(record, str):
            dropped[record] += 1
            continue
        document = _document(domain, name, record, path.name)
        if document.id in documents:
            raise DataError(f"{path}: id {document.id!r} occurs twice; ids must differ within a domain")
        documents[document.id] = document
    if not documents:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        lost = f" that can be used ({reasons})" if dropped else ""
        raise DataError(f"{path} holds no document{lost}; domain {domain!r} needs text: add some, or delete it")
    return list(documents.values()), dropped


def _records(root: Path, path: Path, separator: str | None) -> Records:
    try:
        yield from folder_records(path, root) if path.is_dir() else READERS[path.suffix](path, separator)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _document(domain: str, name: str, record: Record, default_source: str) -> Document:
    given = {key: str(record[key]) for key in FIELDS if record.get(key) not in (None, "")}
    return Document(
        id=f"{domain}/{given.get('id', name)}",
        domain=domain,
        source=given.get("source", default_source),
        licence=given.get("licence", UNSTATED),
        text=given["text"],
        group=f"{domain}/{given['group']}" if "group" in given else "",
    )
