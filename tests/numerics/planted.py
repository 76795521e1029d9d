"""A corpus and a router whose every share is known: what measures of routing should find in it, in closed form.

A document of domain d has a format f (its domain's own with probability `own_format`, else any) and a distribution over
token ids of its own, Dirichlet around its domain's; its tokens come in bursts of one id. A token's expert is drawn by
its domain with probability `domain`, by its class with `token_class`, by its document's format with `format`, by its id
with `token_id`, and else from its document's own load, Dirichlet around a load that all share. So, with x the id,

    p(e|d,f,x) = domain·A(e|d) + token_class·B(e|class(x)) + format·C(e|f) + token_id·G(e|x) + rest·L(e)

and every quantity is a finite sum over p(d,f,x,e) = p(f|d) p(x|d) p(e|d,f,x)/D: documents are drawn around it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import rel_entr

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What drives routing, each a probability; the rest of the tokens go by load."""

    domain: float = 0.0
    token_class: float = 0.0
    format: float = 0.0
    token_id: float = 0.0

    @property
    def rest(self) -> float:
        return 1 - self.domain - self.token_class - self.format - self.token_id


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Tokens as a routing trace has them, with what it has not: their classes and the documents' formats.

    Attributes:
        document: [tokens] row of the document, rising; position: [tokens] place in it.
        token_id, token_class: [tokens].
        experts: [tokens, k], the driven choice first.
        domain, format: [documents].
    """

    document: Array
    position: Array
    token_id: Array
    token_class: Array
    experts: Array
    domain: Array
    format: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """The population that documents are drawn from, and what is true of it; information in bits.

    Attributes:
        tilt: how far domains differ in their ids: 0 not at all; ids are shared by all domains at any tilt.
        own_format: share of a domain's documents whose format is its own for certain; formats mean nothing at 0.
        document_ids: Dirichlet concentration of a document's distribution over ids; small is far from its domain's.
        document_load: the same of its load.
        burst: probability that a token repeats the one before it.
    """

    shares: Shares
    domains: int = 3
    experts: int = 8
    ids: int = 60
    classes: int = 6
    formats: int = 3
    tilt: float = 0.7
    own_format: float = 0.4
    document_ids: float = 40.0
    document_load: float = 40.0
    burst: float = 0.3
    seed: int = 5

    @cached_property
    def class_of_id(self) -> Array:
        return np.arange(self.ids) % self.classes

    @cached_property
    def id_given_domain(self) -> Array:
        """[domains, ids]: an uneven vocabulary that each domain tilts its way."""
        rng = np.random.default_rng(self.seed)
        common = 1 / np.arange(3, self.ids + 3)
        tilted = common * np.exp(self.tilt * rng.normal(size=(self.domains, self.ids)))
        return tilted / tilted.sum(1, keepdims=True)

    @cached_property
    def format_given_domain(self) -> Array:
        """[domains, formats]."""
        own = np.arange(self.domains)[:, None] % self.formats == np.arange(self.formats)
        return self.own_format * own + (1 - self.own_format) / self.formats

    @cached_property
    def load(self) -> Array:
        rng = np.random.default_rng(self.seed + 1)
        return rng.dirichlet(np.full(self.experts, 10.0))

    @cached_property
    def expert_given(self) -> Array:
        """[domains, formats, ids, experts]: p(e|d,f,x)."""
        by_domain, by_class, by_format, by_id = (
            self._preferences(rows, number)
            for number, rows in enumerate((self.domains, self.classes, self.formats, self.ids))
        )
        shares = self.shares
        return (
            shares.domain * by_domain[:, None, None]
            + shares.token_class * by_class[self.class_of_id][None, None]
            + shares.format * by_format[None, :, None]
            + shares.token_id * by_id[None, None]
            + shares.rest * self.load
        )

    @cached_property
    def joint(self) -> Array:
        """[domains, formats, ids, experts]: p(d,f,x,e), of the first choice."""
        documents = self.format_given_domain[:, :, None] * self.id_given_domain[:, None] / self.domains
        return documents[..., None] * self.expert_given

    @cached_property
    def joint_with_classes(self) -> Array:
        """[domains, formats, classes, experts]."""
        return _by_class(self.joint, self.class_of_id, axis=2)

    @property
    def share_of_domain(self) -> Array:
        """[domains, experts]: p(e|d), of the first choice."""
        return self.domains * self.joint.sum((1, 2))

    def share_of_slots(self, top_k: int) -> Array:
        """[domains, experts]: a domain's share of assignments, where the other choices are any of the other experts."""
        first = self.share_of_domain
        return (first + (top_k - 1) * (1 - first) / (self.experts - 1)) / top_k

    @property
    def expert_and_domain(self) -> float:
        """I(E;D)."""
        return information(self.joint.sum((1, 2)))

    @property
    def expert_and_id(self) -> float:
        """I(E;X)."""
        return information(self.joint.sum((0, 1)))

    @property
    def expert_and_class(self) -> float:
        return information(self.joint_with_classes.sum((0, 1)))

    @property
    def expert_and_format(self) -> float:
        return information(self.joint.sum((0, 2)))

    @property
    def expert_and_domain_given_id(self) -> float:
        """I(E;D|X)."""
        return conditional_information(np.moveaxis(self.joint.sum(1), 1, 0))

    @property
    def expert_and_domain_given_class(self) -> float:
        return conditional_information(np.moveaxis(self.joint_with_classes.sum(1), 1, 0))

    @property
    def expert_and_class_given_domain(self) -> float:
        """I(E;class|D)."""
        return conditional_information(self.joint_with_classes.sum(1))

    @property
    def expert_and_domain_given_format(self) -> float:
        """I(E;D|F)."""
        return conditional_information(np.moveaxis(self.joint.sum(2), 1, 0))

    def expert_and_class_within_documents(self, length: int) -> float:
        """I(E;class) less what is left of it when each document of `length` tokens has its classes turned in a circle.

        Two tokens of a document share their id when no burst ended between them, and by chance of the document's own
        distribution over ids: with probability 1/(1 + document_ids) they are as alike as one token is to itself.
        """
        lag = np.arange(1, length)
        one_burst = (length + 2 * np.sum((length - lag) * self.burst**lag)) / length**2
        alike = one_burst + (1 - one_burst) / (1 + self.document_ids)
        whole = self.joint_with_classes
        documents = whole.sum((2, 3), keepdims=True)
        apart = whole.sum(2, keepdims=True) * whole.sum(3, keepdims=True) / documents
        return information(whole.sum((0, 1))) - information((alike * whole + (1 - alike) * apart).sum((0, 1)))

    def agreement_with(self, other: "Planted") -> Array:
        """[experts, experts]: probability that this router gives a token to i and the other, of the same documents and
        ids and with no draw in common, to j; domains weighted equally."""
        documents = self.joint.sum(-1)
        return np.einsum("dfx,dfxi,dfxj->ij", documents, self.expert_given, other.expert_given)

    def tokens(self, documents: int, length: int, seed: int = 0, top_k: int = 1) -> Tokens:
        """Drawn tokens: `documents` a domain, each of `length` tokens in order."""
        rng = np.random.default_rng(seed)
        domain = np.repeat(np.arange(self.domains), documents)
        formats = self._formats(domain, rng)
        own_ids = self._own_ids(domain, rng)
        ids = _choose(np.repeat(own_ids, length, axis=0), rng).reshape(len(domain), length)
        fresh = rng.random(ids.shape) >= self.burst
        fresh[:, 0] = True
        started = np.maximum.accumulate(np.where(fresh, np.arange(length), 0), axis=1)
        ids = np.take_along_axis(ids, started, axis=1)
        first = self._first_choice(domain, formats, ids, rng)
        return Tokens(
            document=np.repeat(np.arange(len(domain)), length),
            position=np.tile(np.arange(length), len(domain)),
            token_id=ids.reshape(-1),
            token_class=self.class_of_id[ids].reshape(-1),
            experts=self._with_others(first, top_k, rng),
            domain=domain,
            format=formats,
        )

    def rerouted(self, tokens: Tokens, seed: int, top_k: int = 1) -> Array:
        """[tokens, k]: what this router gives to tokens of another draw; given the tokens, independent of what they
        got before."""
        rng = np.random.default_rng((seed, 1))
        ids = tokens.token_id.reshape(len(tokens.domain), -1)
        return self._with_others(self._first_choice(tokens.domain, tokens.format, ids, rng), top_k, rng)

    def counts(
        self, documents: int, length: int, simulations: int, seed: int = 0, batch: int = 50
    ) -> Iterator[tuple[Array, Array]]:
        """Counts of many corpora without the order of their tokens: (domain [documents], counts [batch, documents,
        experts]) a time, as of `tokens` with no bursts. Documents differ as there; the sum of their tokens is exact."""
        rng = np.random.default_rng(seed)
        domain = np.repeat(np.arange(self.domains), documents)
        for start in range(0, simulations, batch):
            shape = (min(batch, simulations - start), len(domain))
            formats = self._formats(np.broadcast_to(domain, shape), rng)
            own_ids = self._own_ids(np.broadcast_to(domain, shape), rng)
            routes = np.einsum("sdx,sdxe->sde", own_ids, self.expert_given[domain, formats], optimize=True)
            own_load = _dirichlet(self.document_load * self.load, shape, rng)
            routes = routes + self.shares.rest * (own_load - self.load)
            yield domain, rng.multinomial(length, routes / routes.sum(-1, keepdims=True))

    def scaled(self, **shares: float) -> "Planted":
        """The same population with other shares."""
        return replace(self, shares=Shares(**shares))

    def _preferences(self, rows: int, number: int) -> Array:
        """[rows, experts]: most of a row's tokens to one expert, a different one for neighbouring rows."""
        rng = np.random.default_rng((self.seed, number))
        favourite = (rng.permutation(self.experts)[np.arange(rows) % self.experts])[:, None] == np.arange(self.experts)
        return 0.8 * favourite + 0.2 / self.experts

    def _formats(self, domain: Array, rng: np.random.Generator) -> Array:
        return _choose(self.format_given_domain[domain.reshape(-1)], rng).reshape(domain.shape)

    def _own_ids(self, domain: Array, rng: np.random.Generator) -> Array:
        return _dirichlet(self.document_ids * self.id_given_domain[domain], (), rng)

    def _first_choice(self, domain: Array, formats: Array, ids: Array, rng: np.random.Generator) -> Array:
        """[tokens], of [documents, length] ids; a document's own load is drawn here."""
        own_load = _dirichlet(self.document_load * self.load, (len(domain),), rng)
        driven = self.expert_given[domain[:, None], formats[:, None], ids]
        driven = driven + self.shares.rest * (own_load - self.load)[:, None]
        return _choose(driven.reshape(-1, self.experts), rng)

    def _with_others(self, first: Array, top_k: int, rng: np.random.Generator) -> Array:
        """[tokens, k]: beside the driven choice any of the other experts, each as likely."""
        order = rng.random((len(first), self.experts))
        order[np.arange(len(first)), first] = -1
        return np.argsort(order, axis=1)[:, :top_k] if top_k > 1 else first[:, None]


def information(joint: Array) -> float:
    """I of a table of probabilities [rows, columns], bits."""
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float(rel_entr(joint, independent).sum() / math.log(2))


def conditional_information(tables: Array) -> float:
    """Σ_z p(z) I of table z, for [z, rows, columns] probabilities that sum to 1 over all."""
    weights = tables.sum((1, 2))
    return float(sum(w * information(table / w) for w, table in zip(weights, tables, strict=True) if w > 0))


def _by_class(table: Array, class_of_id: Array, axis: int) -> Array:
    order = np.argsort(class_of_id, kind="stable")
    starts = np.flatnonzero(np.diff(class_of_id[order], prepend=-1))
    return np.add.reduceat(np.take(table, order, axis=axis), starts, axis=axis)


def _dirichlet(concentration: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    drawn = rng.standard_gamma(concentration, size=(*shape, concentration.shape[-1]) if shape else None) + 1e-300
    return drawn / drawn.sum(-1, keepdims=True)


def _choose(probabilities: Array, rng: np.random.Generator) -> Array:
    """[rows]: one column of each row, by its probabilities."""
    edges = np.cumsum(probabilities, axis=1)
    return (rng.random((len(edges), 1)) * edges[:, -1:] >= edges).sum(1)
