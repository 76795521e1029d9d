"""Writing so that it lasts: what is named here is on the disk, whole, when the call returns. No torch."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from moe_emergence.errors import RunDirectoryError

_PARTIAL = re.compile(r"\.(removed-)?step-\d{6,}(\.\d+)?")
_LEFTOVER = re.compile(r"\..+\.\d+|\.tmp\w+")
"""Files on their way: `.name.pid` of ours, and the safetensors library's own."""


def sync(path: Path) -> None:
    """Make a file's contents, or a folder's entries, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno == errno.EINVAL):  # some network file systems sync no folders
            raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, size: int) -> Iterator[Path]:
    """Where to write what is to replace `path` in one move: there is the old file or the new one, never a part.

    Raises:
        RunDirectoryError: the disk refuses; names the path and the `size` in bytes. What was there is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunDirectoryError(trouble(error, path, size)) from error


def is_leftover(path: Path) -> bool:
    """Whether a process that was killed while replacing a file has left this behind."""
    return _LEFTOVER.fullmatch(path.name) is not None


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file of this text."""
    with replacing(path, len(text.encode())) as temporary:
        temporary.write_text(text, "utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        RunDirectoryError: it cannot be made.
    """
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync(folder.parent)
    except OSError as error:
        raise RunDirectoryError(f"cannot make the folder {folder}: {error.strerror}") from error


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Where to fill what is to appear as `folder`, whole or not at all. The files in it are synced by whoever writes
    them."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        make_folder(folder.parent)
        partial.mkdir()
        yield partial
        sync(partial)
        rename(partial, folder)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partial_folders(folder: Path) -> None:
    """Delete the folders of steps that a process which was killed while making or removing them has left."""
    for path in folder.glob(".*"):
        if _PARTIAL.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)  # another try comes with the next start


def rename(folder: Path, to: Path) -> None:
    """Give a folder its final name, and let that last."""
    os.rename(folder, to)
    sync(to.parent)


def remove(folder: Path) -> None:
    """Delete a folder such that what a crash leaves of it has no name that anything reads.

    Raises:
        RunDirectoryError: the disk refuses; names the folder.
    """
    condemned = folder.with_name(f".removed-{folder.name}")
    try:
        shutil.rmtree(condemned, ignore_errors=True)
        rename(folder, condemned)
        shutil.rmtree(condemned)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot delete {folder}: {error.strerror}. Nothing newer is harmed: mend it, or delete it by hand, and "
            "continue with the same command (train: with --resume)"
        ) from error


def trouble(error: Exception, path: Path, size: int) -> str:
    """`cannot write 1,234 bytes to PATH: No space left on device (5,678 bytes are free there)`."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"cannot write {size:,} bytes to {path}: {reason}{_room(path)}"


def free_bytes(folder: Path) -> int:
    """Room on the disk of `folder`, which need not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise RunDirectoryError(f"cannot tell the room in {there}: {error.strerror}") from error


def _room(path: Path) -> str:
    try:
        return f" ({free_bytes(path.parent):,} bytes are free there)"
    except RunDirectoryError:
        return ""
