"""The unit of everything about data: one text by one author, its domain, and where it comes from."""

import re
from dataclasses import dataclass

from moe_emergence.errors import DataError

_DOMAIN = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text that is in one split as a whole.

    Attributes:
        id: unique in its corpus.
        domain: one or more of the letters A-Z and a-z, digits, `_`, `-` and `.`.
        source: the work or file it was taken from.
        licence: an SPDX name, or `unstated`.
        text: any text; never changed in place.
        group: documents of one group never straddle a split; left empty it becomes the id.

    Raises:
        DataError: the domain's name has other characters, the id is empty, or a field cannot be written as UTF-8.
    """

    id: str
    domain: str
    source: str
    licence: str
    text: str
    group: str = ""

    def __post_init__(self) -> None:
        check_domain(self.domain)
        if not self.id:
            raise DataError(f"a document of domain {self.domain!r} has an empty id; give it one, or leave the id out")
        if not self.group:
            object.__setattr__(self, "group", self.id)
        for name in ("id", "source", "licence", "group"):
            _check_encodable(name, getattr(self, name))


def check_domain(name: str) -> None:
    """Raise DataError unless `name` can be a domain's."""
    if _DOMAIN.fullmatch(name) is None:
        raise DataError(f"a domain's name must be of letters A-Z, a-z, digits, '_', '-', '.'; got {name!r}: rename it")


def _check_encodable(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name} {value!r} holds half of a surrogate pair, which cannot be written as UTF-8") from None
