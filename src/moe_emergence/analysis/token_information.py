"""What an expert tells of the token, and of the domain beyond it: I(E;D,X) = I(E;X) + I(E;D|X), in bits.

X is the token's id, or any whole number a token (a class); D its document's domain. Domains weigh equally: with n the
counts of tokens of some labels, p(d,x,e) = n(d,x,e) / (D · n(d)), and both terms are of that one distribution. A router
that goes by the token alone has I(E;D|X) = 0 however well its routes separate the domains. The terms have ceilings of
their own, H(E) and H(D|X), so bits of one do not compare with bits of the other; shares of the ceilings do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from moe_emergence.analysis.information import entropy, measured_domain_information, mutual_information
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.sequences import turned
from moe_emergence.analysis.specialisation import FIRST_CHOICE, SLOTS, Counted, measurable
from moe_emergence.analysis.statistics import (
    Domains,
    Estimate,
    Interval,
    central_range,
    documents_per_domain,
    generator,
    jackknife,
    null_p_value,
)
from moe_emergence.analysis.traces import LayerTrace, Trace
from moe_emergence.errors import AnalysisError

SHIFTS = 199
"""Draws of each null; p is at least 1/200."""
OCCURRENCES, DOCUMENTS = 50, 5
"""How often, and in how many documents, a label occurs in each of two domains at least to be counted."""
_REPLICATES = 1_000
_CELLS = 1 << 21
"""How many numbers are held at a time while resampling."""

Labels = Int[np.ndarray, " tokens"]
Experts = Int[np.ndarray, "tokens slots"]
Tokens = Int[np.ndarray, " tokens"]


@dataclass(frozen=True, kw_only=True)
class Term:
    """An information in bits.

    Attributes:
        value: less its bias; interval: 95 % over documents, around it.
        plug_in: of the counts as they are, biased upwards; null_mean, null_range, p: the same under its null, mean and
            central 95 %; how often the null shows as much, one-sided.
    """

    value: float
    interval: Interval
    plug_in: float
    null_mean: float
    null_range: Interval
    p: float


@dataclass(frozen=True, kw_only=True)
class TokenSplit:
    """The two terms of I(E;D,X), and I(E;D) of the same tokens.

    Attributes:
        labels: how many are counted; tokens: how many bear one; documents: with such tokens, of the smallest domain.
        token: I(E;X), 0..H(E). Null: each document's labels turned in a circle against its routes, which keeps what
            whole documents share and the runs of both.
        domain_given_token: I(E;D|X), 0..H(D|X); 0 when a token's label settles what its expert depends on. Null: what
            each document has beyond its labels' own routes, with a random sign; p of its second-order value.
        domain: I(E;D), 0..H(D). Null: domains dealt anew to documents.
        maximum: H(D) = log2 D; token_maximum: H(E) of these tokens as counted, 0..log2 E; given_maximum: H(D|X), what a
            label leaves open of the domain, 0..H(D): the largest that each term can be.
    """

    labels: int
    tokens: int
    documents: int
    token: Term
    domain_given_token: Term
    domain: Term
    maximum: float
    token_maximum: float
    given_maximum: float


@dataclass(frozen=True, kw_only=True)
class TokenSplitRow:
    """I(E;X), I(E;D|X) and I(E;D) of the same tokens, of one layer of one run at one trace, in bits.

    Attributes:
        counted: all slots or the first choice.
        x: what a token's label is: "token id", or the name of a set of classes.
        ids: labels with enough occurrences in enough documents of two domains; tokens: that bear one;
            share_of_tokens: the same ÷ all tokens of the trace, 0..1.
        documents: with such tokens, of the smallest domain.
        maximum: H(D), the largest that I(E;D) can be; token_maximum: H(E) of these tokens as counted, the largest that
            I(E;X) can be; given_maximum: H(D|X), the largest that I(E;D|X) can be.
        token_information, domain_given_token, domain_information: less their bias; …_low, …_high:
            95 % over documents; …_plug_in: as counted; …_null_mean, …_null_low, …_null_high: plug-in under the null of
            that term, mean and central 95 %; …_p: how often the null shows as much.
        token_share, …: I(E;X) and its interval ÷ H(E), 0..1; domain_given_token_share, …: I(E;D|X) and its interval ÷
            H(D|X), 0..1; 0 where the ceiling is 0.
    """

    arm: str
    seed: int
    step: int
    layer: int
    counted: Counted
    x: str
    ids: int
    tokens: int
    share_of_tokens: float
    documents: int
    maximum: float
    token_maximum: float
    given_maximum: float
    token_information: float
    token_low: float
    token_high: float
    token_plug_in: float
    token_null_mean: float
    token_null_low: float
    token_null_high: float
    token_p: float
    token_share: float
    token_low_share: float
    token_high_share: float
    domain_given_token: float
    domain_given_token_low: float
    domain_given_token_high: float
    domain_given_token_plug_in: float
    domain_given_token_null_mean: float
    domain_given_token_null_low: float
    domain_given_token_null_high: float
    domain_given_token_p: float
    domain_given_token_share: float
    domain_given_token_low_share: float
    domain_given_token_high_share: float
    domain_information: float
    domain_low: float
    domain_high: float
    domain_plug_in: float
    domain_null_mean: float
    domain_null_low: float
    domain_null_high: float
    domain_p: float


def token_split_rows(
    run: Run,
    trace: Trace,
    labels: Labels | None = None,
    x: str = "token id",
    *,
    min_occurrences: int = OCCURRENCES,
    min_documents: int = DOCUMENTS,
) -> Iterator[TokenSplitRow]:
    """One row a layer and way of counting; none where too few labels occur often enough, or domains are too small.

    `labels` [tokens] are the trace's token ids where not given; below 0 for tokens that have none.
    """
    own = trace.token_id if labels is None else labels
    for layer in trace.layers if measurable(trace) else ():
        for counted, experts in ways_of_tokens(layer):
            found = token_split(
                own,
                experts,
                trace.document,
                trace.domain,
                layer.slots.shape[1],
                min_occurrences=min_occurrences,
                min_documents=min_documents,
            )
            if found is not None:
                yield _row(run, trace, layer, counted, x, found)


def ways_of_tokens(layer: LayerTrace) -> Iterator[tuple[Counted, NDArray[np.int64]]]:
    """[tokens, slots] experts in the ways to count them: for one expert a token both are the same."""
    if layer.experts.shape[1] > 1:
        yield SLOTS, layer.experts
    yield FIRST_CHOICE, layer.experts[:, :1]


def token_split(
    labels: Labels,
    experts: Experts,
    document: Tokens,
    domain: Domains,
    n_experts: int,
    *,
    min_occurrences: int = OCCURRENCES,
    min_documents: int = DOCUMENTS,
    draws: int = SHIFTS,
    replicates: int = _REPLICATES,
    seed: int = 0,
) -> TokenSplit | None:
    """The split on the tokens of labels with support, the same in every term; None where no domain may lack them and
    one does, or has them in fewer than 2 documents.

    Args:
        labels: a whole number a token, below 0 for tokens to leave out.
        document: each token's row in `domain`; a document's tokens are consecutive and in order.

    Raises:
        AnalysisError: there are fewer than 2 documents in a domain, or labels, experts and documents do not fit.
    """
    _check(labels, experts, document, domain)
    number = supported(labels, document, domain, min_occurrences, min_documents)
    kept = number >= 0
    n_labels = int(number.max(initial=-1)) + 1
    bearing = np.bincount(domain[np.unique(document[kept])], minlength=len(documents_per_domain(domain)))
    if n_labels == 0 or bearing.min() < 2:
        return None
    shape = (len(domain), n_labels, n_experts)
    counts = cell_counts(document[kept], number[kept], experts[kept], shape)
    plug_in, (token, given) = jackknife(in_batches(split_terms, counts, domain), domain)
    by_turn = turned_information(number, experts, document, domain, n_experts, draws, seed)
    second_order, by_sign = flipped_information(counts, domain, draws, seed)
    of_domain = measured_domain_information(counts.sum(1), domain, replicates=replicates, seed=seed)
    of_experts, of_domains = ceilings(domain_joint(counts, domain, np.ones((1, len(domain)), dtype=np.int64))[0])
    return TokenSplit(
        labels=n_labels,
        tokens=int(kept.sum()),
        documents=int(bearing.min()),
        token=term_of(token, plug_in[0], by_turn, of_experts),
        domain_given_token=term_of(given, plug_in[1], by_sign, of_domains, second_order),
        domain=Term(
            value=of_domain.corrected,
            interval=of_domain.interval,
            plug_in=of_domain.plug_in,
            null_mean=of_domain.null_mean,
            null_range=Interval(of_domain.null_low, of_domain.null_high),
            p=of_domain.p,
        ),
        maximum=of_domain.maximum,
        token_maximum=of_experts,
        given_maximum=of_domains,
    )


def supported(
    labels: Labels, document: Tokens, domain: Domains, min_occurrences: int, min_documents: int
) -> Int[np.ndarray, " tokens"]:
    """Each token's label numbered from 0 among those that occur `min_occurrences` times in `min_documents` documents in
    each of at least two domains; −1 for every other token."""
    names, place = np.unique(labels, return_inverse=True)
    n_domains = int(domain.max()) + 1
    occurrences = np.bincount(place * n_domains + domain[document], minlength=len(names) * n_domains)
    pairs = np.unique(place * len(domain) + document)
    at, where = np.divmod(pairs, len(domain))
    documents = np.bincount(at * n_domains + domain[where], minlength=len(names) * n_domains)
    enough = ((occurrences >= min_occurrences) & (documents >= min_documents)).reshape(-1, n_domains).sum(1) >= 2
    enough &= names >= 0
    return np.where(enough, np.cumsum(enough) - 1, -1)[place]


def cell_counts(
    document: Tokens, labels: Labels, experts: Experts, shape: tuple[int, int, int]
) -> Int[np.ndarray, "documents labels experts"]:
    """How many assignments each label of each document has to each expert; sums to tokens × slots."""
    cells = (document * shape[1] + labels)[:, None] * shape[2] + experts
    return np.bincount(cells.reshape(-1), minlength=int(np.prod(shape))).reshape(shape)


def domain_joint(
    counts: Int[np.ndarray, "documents ..."], domain: Domains, weights: Int[np.ndarray, "draws documents"]
) -> Float[np.ndarray, "draws domains ..."]:
    """p(d, cell) with domains weighted equally: each domain's cells sum to 1/D, or to 0 where it has no counts."""
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    tables = [weights[:, domain == d].astype(np.float64) @ flat[domain == d] for d in range(int(domain.max()) + 1)]
    return equal_domains(np.stack(tables, axis=1)).reshape(len(weights), len(tables), *counts.shape[1:])


def equal_domains(tables: Float[np.ndarray, "*draws domains cells"]) -> Float[np.ndarray, "*draws domains cells"]:
    """Each domain's counts ÷ their sum ÷ D."""
    total = tables.sum(-1, keepdims=True)
    return tables / np.where(total > 0, total, 1) / tables.shape[-2]


def split_terms(joint: Float[np.ndarray, "draws domains labels experts"]) -> Float[np.ndarray, "draws 2"]:
    """I(E;X) and I(E;D|X)."""
    by_label = joint.swapaxes(-3, -2)
    given = (by_label.sum((-2, -1)) * mutual_information(by_label)).sum(-1)
    return np.stack([mutual_information(joint.sum(-3)), given], axis=-1)


def ceilings(joint: Float[np.ndarray, "domains labels experts"]) -> tuple[float, float]:
    """H(E) and H(D|X) in bits: the largest that I(E;X) and I(E;D|X) can be."""
    labelled = joint.sum(-1)
    return entropy(joint.sum((0, 1))), max(entropy(labelled) - entropy(labelled.sum(0)), 0.0)


def in_batches(
    quantity: Callable[[NDArray[np.float64]], NDArray[np.float64]], counts: NDArray[np.int64], domain: Domains
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """The quantity of the joint distribution on each resample, a few resamples at a time."""

    def statistic(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        size = max(1, _CELLS // (counts[0].size * (int(domain.max()) + 1)))
        parts = [weights[start : start + size] for start in range(0, len(weights), size)]
        return np.concatenate([quantity(domain_joint(counts, domain, part)) for part in parts])

    return statistic


def turned_information(
    number: Labels, experts: Experts, document: Tokens, domain: Domains, n_experts: int, draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """Plug-in I(E;X) with each document's labels turned against its routes."""
    rng, kept = generator(seed), np.flatnonzero(number >= 0)
    shape = (int(domain.max()) + 1, int(number.max()) + 1, n_experts)
    found = np.empty(draws)
    for draw in range(draws):
        routes = experts[turned(document, rng)[kept]]
        table = cell_counts(domain[document[kept]], number[kept], routes, shape)
        joint = equal_domains(table.reshape(shape[0], -1).astype(np.float64)).reshape(shape)
        found[draw] = mutual_information(joint.sum(0))
    return found


def flipped_information(
    counts: Int[np.ndarray, "documents labels experts"], domain: Domains, draws: int = SHIFTS, seed: int = 0
) -> tuple[float, Float[np.ndarray, " draws"]]:
    """I(E;D|X) to second order in what domains add, Pearson's X² / (2 ln 2) in place of the plug-in, in bits: of the
    documents, and of draws in which the domain adds nothing.

    What a document's tokens of a label have beyond the label's own routes has mean 0 if the domain adds nothing, so its
    sign may be turned: the same for all labels of a document, whose tastes may be shared by them, and anew for every
    document and draw [the wild bootstrap of scores over clusters: Kline and Santos 2012]. Dealing domains anew to the
    (document, label) groups instead would take groups that differ in size between domains for alike.
    """
    n_domains = int(domain.max()) + 1
    scale = n_domains * np.bincount(domain, counts.sum((1, 2)))
    weighted = counts / scale[domain][:, None, None]
    of_domain = (domain == np.arange(n_domains)[:, None]).astype(np.float64)
    use = np.tensordot(of_domain, weighted.sum(-1), 1)
    label = use.sum(0)
    routes = weighted.sum(0) / np.where(label > 0, label, 1)[:, None]
    beyond = weighted - weighted.sum(-1, keepdims=True) * routes
    expected = use[..., None] * routes
    share = use / np.where(label > 0, label, 1)
    rng, found = generator(seed), np.empty(draws + 1)
    for draw in range(draws + 1):
        sign = rng.choice((-1.0, 1.0), len(domain)) if draw else np.ones(len(domain))
        sums = np.tensordot(of_domain * sign, beyond, 1)
        apart = sums - share[..., None] * sums.sum(0)  # the label's own routes follow what is drawn
        found[draw] = (apart**2 / np.where(expected > 0, expected, 1)).sum() / (2 * np.log(2))
    return float(found[0]), found[1:]


def term_of(
    found: Estimate, plug_in: float, null: NDArray[np.float64], maximum: float, compared: float | None = None
) -> Term:
    """A single information of 0..maximum from its estimate and its null; `compared` is what the null's draws are to be
    compared with, where that is not the plug-in."""
    value, low, high = np.clip([found.value, found.interval.low, found.interval.high], 0, maximum).tolist()
    return Term(
        value=value,
        interval=Interval(low, high),
        plug_in=float(plug_in),
        null_mean=float(null.mean()),
        null_range=central_range(null),
        p=null_p_value(plug_in if compared is None else compared, null),
    )


def check_tokens(counts: Int[np.ndarray, "documents ..."], domain: Domains) -> None:
    """Refuse counts that leave a domain without tokens.

    Raises:
        AnalysisError: names the domain.
    """
    documents_per_domain(domain)
    tokens = np.bincount(domain, weights=counts.reshape(len(domain), -1).sum(1))
    if not tokens.all():
        raise AnalysisError(f"every domain needs tokens; domain {tokens.argmin()} has none: leave it out")


def _check(labels: Labels, experts: Experts, document: Tokens, domain: Domains) -> None:
    sizes = documents_per_domain(domain)
    if sizes.min() < 2:
        raise AnalysisError(
            f"the split needs at least 2 documents in each domain; domain {sizes.argmin()} has {sizes.min()}: add "
            "documents to the probe, or leave the domain out"
        )
    if not len(labels) == len(experts) == len(document):
        raise AnalysisError(
            f"labels, experts and document must be of the same tokens; got {len(labels)}, {len(experts)} and "
            f"{len(document)}"
        )


def _row(run: Run, trace: Trace, layer: LayerTrace, counted: Counted, x: str, found: TokenSplit) -> TokenSplitRow:
    token, given, of_domain = found.token, found.domain_given_token, found.domain
    return TokenSplitRow(
        arm=run.arm,
        seed=run.seed,
        step=trace.step,
        layer=layer.layer,
        counted=counted,
        x=x,
        ids=found.labels,
        tokens=found.tokens,
        share_of_tokens=found.tokens / len(trace.document),
        documents=found.documents,
        maximum=found.maximum,
        token_maximum=found.token_maximum,
        given_maximum=found.given_maximum,
        token_information=token.value,
        token_low=token.interval.low,
        token_high=token.interval.high,
        token_plug_in=token.plug_in,
        token_null_mean=token.null_mean,
        token_null_low=token.null_range.low,
        token_null_high=token.null_range.high,
        token_p=token.p,
        token_share=_share(token.value, found.token_maximum),
        token_low_share=_share(token.interval.low, found.token_maximum),
        token_high_share=_share(token.interval.high, found.token_maximum),
        domain_given_token=given.value,
        domain_given_token_low=given.interval.low,
        domain_given_token_high=given.interval.high,
        domain_given_token_plug_in=given.plug_in,
        domain_given_token_null_mean=given.null_mean,
        domain_given_token_null_low=given.null_range.low,
        domain_given_token_null_high=given.null_range.high,
        domain_given_token_p=given.p,
        domain_given_token_share=_share(given.value, found.given_maximum),
        domain_given_token_low_share=_share(given.interval.low, found.given_maximum),
        domain_given_token_high_share=_share(given.interval.high, found.given_maximum),
        domain_information=of_domain.value,
        domain_low=of_domain.interval.low,
        domain_high=of_domain.interval.high,
        domain_plug_in=of_domain.plug_in,
        domain_null_mean=of_domain.null_mean,
        domain_null_low=of_domain.null_range.low,
        domain_null_high=of_domain.null_range.high,
        domain_p=of_domain.p,
    )


def _share(bits: float, maximum: float) -> float:
    return bits / maximum if maximum > 0 else 0.0
