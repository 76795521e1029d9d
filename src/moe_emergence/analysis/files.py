"""Writing results: a file is replaced in one move, so that a reader never meets half of one."""

import os
from pathlib import Path

from moe_emergence.errors import AnalysisError


def replace_file(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, making its folder; lone surrogates, which UTF-8 cannot hold, become `\\udc80`.

    Raises:
        AnalysisError: it cannot be written; names the path and why.
    """
    raw = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(raw)
        os.replace(temporary, path)
    except OSError as error:
        raise AnalysisError(f"cannot write {path}: {error.strerror}") from error
