"""The format audit: how well a document's domain can be told from its surface alone.

Where that is easy, a router may separate domains by spelling, spacing or case and look like a specialist; the accuracy
here, beside chance, says how much room there is for that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from moe_emergence.data.documents import Document
from moe_emergence.errors import DataError

FOLDS = 5
PENALTY = 1e-3
SHARES = {
    "upper-case share": range(ord("A"), ord("Z") + 1),
    "space share": (ord(" "),),
    "digit share": range(ord("0"), ord("9") + 1),
    "newline share": (ord("\n"),),
    "punctuation share": [code for code in range(33, 127) if not chr(code).isalnum()],
}
FIRST = ("upper", "lower", "digit", "blank", "other")
FEATURES = {name: (column,) for column, name in enumerate((*SHARES, "log length"))} | {
    "first character": tuple(range(len(SHARES) + 1, len(SHARES) + 1 + len(FIRST)))
}
"""Feature to its columns in `surface_features`."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FeatureRow:
    """One surface feature.

    Attributes:
        name: a key of `FEATURES`.
        accuracy: share of documents whose domain this feature alone predicts, 0..1.
        means: domain to the feature's mean; for the first character, the share of its commonest class.
    """

    name: str
    accuracy: float
    means: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FormatAudit:
    """How well surface features predict the domain.

    Attributes:
        documents: how many there were.
        accuracy: share of documents predicted right by a model that did not see them, 0..1.
        chance: share of the largest domain: what naming it always would reach.
        features: one row a feature.
    """

    documents: int
    accuracy: float
    chance: float
    features: tuple[FeatureRow, ...]


def audit_format(documents: Sequence[Document]) -> FormatAudit:
    """Predict each document's domain from surface features, by multinomial logistic regression on five folds.

    Folds are of whole groups, by the hash of their name. Characters count as upper case, digit and punctuation within
    ASCII only; shares are of the UTF-8 bytes.

    Raises:
        DataError: fewer than two domains, or fewer than five groups.
    """
    domains = tuple(dict.fromkeys(document.domain for document in documents))
    folds = _folds([document.group for document in documents])
    if len(domains) < 2 or len(set(folds.tolist())) < FOLDS:
        raise DataError(
            f"the format audit needs at least 2 domains and {FOLDS} groups of documents; got {len(domains)} and "
            f"{len({document.group for document in documents})}"
        )
    labels = np.array([domains.index(document.domain) for document in documents], dtype=np.int64)
    features = surface_features([document.text for document in documents])
    return FormatAudit(
        documents=len(documents),
        accuracy=_accuracy(features, labels, folds),
        chance=float(np.bincount(labels).max() / len(labels)),
        features=tuple(_feature_row(name, features, labels, folds, domains) for name in FEATURES),
    )


def surface_features(texts: Sequence[str]) -> Floats:
    """[texts, columns]: shares of bytes, ln(1 + characters), class of the first character as one-hot."""
    rows = np.zeros((len(texts), len(SHARES) + 1 + len(FIRST)))
    for row, text in zip(rows, texts, strict=True):
        counts = np.bincount(np.frombuffer(text.encode(errors="surrogatepass"), dtype=np.uint8), minlength=128)
        row[: len(SHARES)] = [counts[list(codes)].sum() for codes in SHARES.values()]
        row[: len(SHARES)] /= max(int(counts.sum()), 1)
        row[len(SHARES)] = np.log1p(len(text))
        if text:
            row[len(SHARES) + 1 + _first_class(text[0])] = 1
    return rows


def _first_class(character: str) -> int:
    tests = (character.isupper(), character.islower(), character.isdigit(), character.isspace(), True)
    return tests.index(True)


def _feature_row(name: str, features: Floats, labels: Labels, folds: Labels, domains: tuple[str, ...]) -> FeatureRow:
    columns = features[:, FEATURES[name]]
    means = {domain: float(columns[labels == number].mean(axis=0).max()) for number, domain in enumerate(domains)}
    return FeatureRow(name=name, accuracy=_accuracy(columns, labels, folds), means=means)


def _folds(groups: Sequence[str]) -> Labels:
    """Each document's fold: groups in the order of their hashes, dealt round."""
    ranked = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    fold = {group: rank % FOLDS for rank, group in enumerate(ranked)}
    return np.array([fold[group] for group in groups], dtype=np.int64)


def _accuracy(features: Floats, labels: Labels, folds: Labels) -> float:
    right = np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        held_out = folds == fold
        scores = _fitted_scores(features[~held_out], labels[~held_out], features[held_out], int(labels.max()) + 1)
        right[held_out] = scores.argmax(axis=1) == labels[held_out]
    return float(right.mean())


def _fitted_scores(features: Floats, labels: Labels, unseen: Floats, domains: int) -> Floats:
    """[unseen, domains] scores of a penalised softmax regression fitted on standardised `features`."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1
    inputs = np.column_stack([(features - mean) / deviation, np.ones(len(features))])
    targets = np.eye(domains)[labels]

    # einsum rather than @: matrices this thin are slower, and not reproducible, over BLAS threads.
    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(-1, domains)
        scores = np.einsum("dc,ck->dk", inputs, weights)
        scores -= scores.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(scores).sum(axis=1, keepdims=True))
        value = ((log_total - scores) * targets).sum() / len(inputs) + PENALTY / 2 * (weights**2).sum()
        errors = np.exp(scores - log_total) - targets
        gradient = np.einsum("dc,dk->ck", inputs, errors) / len(inputs) + PENALTY * weights
        return float(value), gradient.ravel()

    weights = minimize(loss, np.zeros(inputs.shape[1] * domains), jac=True, method="L-BFGS-B").x.reshape(-1, domains)
    fitted: Floats = np.column_stack([(unseen - mean) / deviation, np.ones(len(unseen))]) @ weights
    return fitted
