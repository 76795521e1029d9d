"""The probe text that the Emergence section shows: the first documents of each domain, none picked by its looks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.text_classes import SCHEMES
from moe_emergence.analysis.token_types import Scheme, character_offsets, token_bytes, token_classes
from moe_emergence.analysis.traces import Trace
from moe_emergence.data.blocks import PreparedData
from moe_emergence.report.passages import token_texts
from moe_emergence.report.visible import visible

DOCUMENTS, TOKENS = 2, 160
"""Documents a domain, and tokens of each, at most."""
_SHORTEST = 40
"""Where the budget leaves two documents fewer tokens than this, one is shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownDocument:
    """The beginning of one probe document.

    Attributes:
        tokens: [tokens] places in the trace.
        texts: what each adds to the text (`passages.token_texts`), safe to look at.
        classes: names of the tokens' classes; None where the domain was not classified.
    """

    domain: str
    name: str
    source: str
    tokens: Int[np.ndarray, " tokens"]
    texts: tuple[str, ...]
    classes: tuple[str, ...] | None


def shown_documents(
    data: PreparedData, trace: Trace, schemes: Mapping[str, Scheme], tokens: int
) -> tuple[ShownDocument, ...]:
    """Of each domain with documents the first ones, together at most `tokens` of their tokens."""
    number = DOCUMENTS if tokens >= DOCUMENTS * _SHORTEST else 1
    each = max(1, min(TOKENS, tokens // number))
    rows = [row for domain in np.unique(trace.domain) for row in np.flatnonzero(trace.domain == domain)[:number]]
    return tuple(_shown(data, trace, int(row), schemes, each) for row in rows)


def domain_schemes_of(tables: Tables) -> dict[str, Scheme]:
    """Domain to what its classes are names of, where the analysis classified its tokens."""
    by_name = {scheme.name: scheme for scheme in SCHEMES}
    return {row.domain: by_name[row.scheme] for row in tables.token_classes}


def text_payload(documents: Sequence[ShownDocument]) -> Iterator[dict[str, object]]:
    """The documents as the page's script reads them: `start` is where their tokens begin in every array of routes."""
    start = 0
    for document in documents:
        yield {
            "domain": visible(document.domain),
            "name": visible(document.name),
            "source": visible(document.source),
            "start": start,
            "texts": list(document.texts),
            "classes": None if document.classes is None else list(document.classes),
        }
        start += len(document.texts)


def _shown(data: PreparedData, trace: Trace, row: int, schemes: Mapping[str, Scheme], most: int) -> ShownDocument:
    places = np.flatnonzero(trace.document == row)[:most]
    ids = trace.token_id[places].tolist()
    record, domain = data.documents[trace.index[row]], data.domains[trace.domain[row]]
    return ShownDocument(
        domain=domain,
        name=str(record["id"]),
        source=str(record["source"]),
        tokens=places,
        texts=tuple(visible(text) for text in token_texts(token_bytes(ids, data.tokenizer))),
        classes=_classes(data, row, ids, schemes[domain], str(record["id"])) if domain in schemes else None,
    )


def _classes(data: PreparedData, row: int, ids: list[int], scheme: Scheme, name: str) -> tuple[str, ...]:
    text = data.probe.texts[row]
    offsets = character_offsets(ids, text, data.tokenizer, document=name)
    return tuple(scheme.label(kind) for kind in token_classes(text, offsets, scheme).tolist())
