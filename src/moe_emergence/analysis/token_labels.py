"""What kind of token each token of a trace is: in its domain's own scheme, and coarsely in one that all share."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_emergence.analysis.text_classes import COARSE, domain_schemes
from moe_emergence.analysis.token_types import PYTHON, Scheme, character_offsets, token_classes, tokenises
from moe_emergence.analysis.traces import Trace
from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.probe import Probe
from moe_emergence.errors import AnalysisError

COARSE_LABEL = "coarse class"


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainClasses:
    """The classes of one domain's tokens.

    Attributes:
        scheme: what `classes` are numbers of.
        classes: [tokens of the domain] in the trace's order.
        documents: how many of the trace are of the domain; not_tokenised: of these, how many stop tokenising within the
            part that was read.
    """

    scheme: Scheme
    classes: NDArray[np.uint8]
    documents: int
    not_tokenised: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Document:
    """One document of a trace: domain, tokens' places in the trace, whole text, [tokens, 2] characters."""

    domain: int
    tokens: slice
    text: str
    offsets: NDArray[np.int64]


def probe_classes(data: PreparedData, trace: Trace, probe: Probe | None = None) -> dict[str, DomainClasses]:
    """Domain to the classes of its tokens; domains without a document in the trace are left out.

    Args:
        probe: the probe set that the trace is of, where it is not `data.probe`; a document's tokens are consecutive
            from its beginning, however many windows they were read in.

    Raises:
        AnalysisError: the trace's tokens are not those of the prepared documents.
    """
    schemes = domain_schemes(data.probe.texts, data.probe.domain, len(data.domains))
    parts: dict[int, list[tuple[NDArray[np.uint8], bool]]] = {}
    for document in _documents(data, trace, probe or data.probe):
        scheme = schemes[document.domain]
        reached = int(document.offsets.max(initial=0))
        whole = scheme is not PYTHON or tokenises(document.text, reached)
        found = token_classes(document.text, document.offsets, scheme)
        parts.setdefault(document.domain, []).append((found, whole))
    return {
        data.domains[number]: DomainClasses(
            scheme=schemes[number],
            classes=np.concatenate([classes for classes, _ in parts[number]]),
            documents=len(parts[number]),
            not_tokenised=sum(not whole for _, whole in parts[number]),
        )
        for number in sorted(parts)
    }


def probe_labels(data: PreparedData, trace: Trace, probe: Probe | None = None) -> dict[str, NDArray[np.uint8]]:
    """Name to a label of every token of the trace, in its order, that means the same in every domain: `CoarseClass`,
    as X in I(E;X) + I(E;D|X). Arguments and errors as in `probe_classes`."""
    labels = np.zeros(len(trace.token_id), dtype=np.uint8)
    for document in _documents(data, trace, probe or data.probe):
        labels[document.tokens] = token_classes(document.text, document.offsets, COARSE)
    return {COARSE_LABEL: labels}


def _documents(data: PreparedData, trace: Trace, probe: Probe) -> Iterator[_Document]:
    texts = dict(zip(probe.document.tolist(), probe.texts, strict=True))
    if not texts.keys() >= set(trace.index.tolist()):
        raise AnalysisError(
            f"the trace is of documents {trace.index[:3]}…, the prepared data probes {probe.document[:3]}…: give the "
            "data the run was made with"
        )
    bounds = np.searchsorted(trace.document, np.arange(len(trace.index) + 1))
    for row, index in enumerate(trace.index.tolist()):
        tokens = slice(int(bounds[row]), int(bounds[row + 1]))
        name = data.documents[index]["id"]
        yield _Document(
            domain=int(trace.domain[row]),
            tokens=tokens,
            text=texts[index],
            offsets=character_offsets(trace.token_id[tokens].tolist(), texts[index], data.tokenizer, document=name),
        )
