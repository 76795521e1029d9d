"""Intervals and p-values over documents: tokens of one document are alike, so documents are resampled, never tokens.

n is the number of documents of the smallest domain involved, since documents are drawn within each domain; θ̂ is the
value on the documents themselves, θ* its value on a resample, m the mean of θ*.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logit
from scipy.stats import false_discovery_control, norm, sem, t

from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import stop_if_asked

REPLICATES = 2_000
PERMUTATIONS = 999
TAIL = 0.025
"""What an interval leaves out at each end: intervals are 95 %."""
ROUNDING = 1e-12
"""Values closer than this are one value that was rounded on two ways."""

Domains = Int[np.ndarray, " documents"]
Statistic = Callable[[Int[np.ndarray, "replicates documents"]], Float[np.ndarray, "replicates ..."]]
"""From how often each document was drawn in each resample to the quantity's value on each resample."""


@dataclass(frozen=True)
class Interval:
    """A 95 % range, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, in the value's unit."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """One arm's value minus another's; the interval leaves out 0 exactly when p < 0.05 (p two-sided, 0..1)."""

    value: float
    interval: Interval
    p: float


@dataclass(frozen=True)
class Equivalence:
    """Whether a difference is smaller than `margin`, in the value's unit.

    Attributes:
        interval: 90 %; it lies within −margin..margin exactly when p < 0.05.
        p: the larger p of two one-sided t tests, of value ≤ −margin and of value ≥ margin [Schuirmann 1987]: at least
            1/2 where |value| ≥ margin, towards 0 where the spread is small against margin − |value|.
    """

    value: float
    interval: Interval
    p: float
    margin: float


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A quantity on the documents and on resamples of them: one value, or an array of values on the same resamples."""

    observed: Float[np.ndarray, "*values"]
    """θ̂."""
    replicates: Float[np.ndarray, "replicates ..."]
    """θ*, one row a resample."""
    documents: int | Int[np.ndarray, "*values"]
    """n of each value: the documents of the smallest domain that the value is made of."""

    def single(self, place: int) -> "Bootstrap":
        """One of the values of a list."""
        documents = np.broadcast_to(self.documents, self.observed.shape)
        return Bootstrap(self.observed[place], self.replicates[:, place], int(documents[place]))

    @property
    def corrected(self) -> Float[np.ndarray, "*values"]:
        """θ̂ − (m − θ̂)·n/(n − 1), free of bias to first order: resamples are biased against θ̂ as θ̂ is against the truth,
        (n − 1)/n as much since a resample varies that much less [Efron and Tibshirani 1993, §10.6]. θ̂ if unbiased."""
        return self.observed - (self.replicates.mean(0) - self.observed) * self._inflation

    @property
    def standard_error(self) -> Float[np.ndarray, "*values"]:
        """Standard deviation of θ* × √(n/(n − 1)); 0 when all documents are alike."""
        return self.replicates.std(0) * np.sqrt(self._inflation)

    def reflected(self) -> tuple[Float[np.ndarray, "*values"], Float[np.ndarray, "*values"]]:
        """(low, high) of the reflected (basic) interval, slightly widened: corrected − s·(q − m) at the upper and the
        lower 2.5 % quantile q of θ*, with s = √(n/(n − 1)) · t/z, t and z the 97.5 % points of Student's t with n − 1
        degrees of freedom and of the normal: s = 1.10 at n = 20, 1.05 at 36, 1 for many. With s = 1 and n/(n − 1) = 1
        it is 2θ̂ − q [Davison and Hinkley 1997, §5.2]. Both ends are θ̂ when all documents are alike.

        Percentile intervals add the bias of mutual information twice instead of taking it off, and miss.
        """
        widening = np.sqrt(self._inflation) * self._student / norm.ppf(1 - TAIL)
        low, high = np.quantile(self.replicates, (TAIL, 1 - TAIL), axis=0)
        mean = self.replicates.mean(0)
        return self.corrected - widening * (high - mean), self.corrected + widening * (mean - low)

    def shares(self) -> tuple[Float[np.ndarray, "*values"], Float[np.ndarray, "*values"]]:
        """(low, high) of shares of a total: the logit of θ̂ ± t·standard_error/(θ̂(1 − θ̂)), turned back into a share;
        within 0..1, longer towards 1/2. A share of 0 or 1 has no spread: both ends are it. Tails are long.
        """
        share = self.observed
        inside = (share > 0) & (share < 1)
        student = t.ppf(1 - TAIL, self._degrees(long_tails=True))
        spread = student * self.standard_error / np.where(inside, share * (1 - share), 1)
        centre = logit(np.where(inside, share, 0.5))
        low, high = expit(centre - spread), expit(centre + spread)
        return np.where(inside, low, share), np.where(inside, high, share)

    def estimate(self) -> Estimate:
        """A single value that needs no correction, such as a mean: θ̂ ± t·standard_error, t as in `reflected`."""
        value, margin = float(self.observed), float(self._student * self.standard_error)
        return Estimate(value, Interval(value - margin, value + margin))

    def difference(self, biased: bool = False, long_tails: bool = False) -> Difference:
        """A single value read as a difference: θ̂ (`corrected` if biased) ± t·standard_error, and p of their ratio under
        Student's t; p = 1 when nothing differs, 0 when all documents differ alike."""
        value, error = float(self.corrected if biased else self.observed), float(self.standard_error)
        degrees = float(self._degrees(long_tails))
        margin = float(t.ppf(1 - TAIL, degrees)) * error
        return Difference(value, Interval(value - margin, value + margin), _two_sided(value, error, degrees))

    def equivalence(self, margin: float, biased: bool = False) -> Equivalence:
        """A single value tested for being within ±margin, on the standard error and the t of `difference`."""
        value = float(self.corrected if biased else self.observed)
        return _equivalence(value, float(self.standard_error), int(self.documents) - 1, margin)

    def _degrees(self, long_tails: bool = False) -> Float[np.ndarray, "*values"]:
        """Degrees of freedom of Student's t: n − 1. Where documents' values have long tails, as shares and divergences
        do, their spread is known about half as well as a normal's: (n − 1)/2, from 2n/(2 + γ) at an excess kurtosis γ
        of 2 [Satterthwaite 1946]."""
        return (np.asarray(self.documents) - 1) / (2 if long_tails else 1)

    @property
    def _inflation(self) -> Float[np.ndarray, "*values"]:
        documents = np.asarray(self.documents)
        return documents / (documents - 1)

    @property
    def _student(self) -> Float[np.ndarray, "*values"]:
        return np.asarray(t.ppf(1 - TAIL, self._degrees()))


def bootstrap(
    statistic: Statistic,
    domain: Domains,
    documents: int | Int[np.ndarray, "*values"] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Bootstrap:
    """A quantity on the documents (each drawn once) and on resamples of them within their domains.

    Args:
        domain: each document's domain, 0..D−1; any other grouping within which documents are alike will do.
        documents: n of each value; the documents of the smallest domain where not given.

    Raises:
        AnalysisError: a domain has fewer than 2 documents.
    """
    stop_if_asked()
    sizes = documents_per_domain(domain)
    if sizes.min() < 2:
        raise AnalysisError(
            f"an interval over documents needs at least 2 in each domain; domain {sizes.argmin()} has {sizes.min()}: "
            "add documents to the probe, or leave the domain out"
        )
    observed = statistic(np.ones((1, len(domain)), dtype=np.int64))[0]
    resampled = statistic(resampled_weights(domain, replicates, generator(seed)))
    return Bootstrap(np.asarray(observed), resampled, int(sizes.min()) if documents is None else documents)


def generator(seed: int) -> np.random.Generator:
    """Random numbers that depend on the seed alone."""
    return np.random.Generator(np.random.Philox(key=seed))


def documents_per_domain(domain: Domains) -> Int[np.ndarray, " domains"]:
    """How many documents each domain 0..D−1 has, all at least 1.

    Raises:
        AnalysisError: there are no documents, or a number between 0 and the largest has none.
    """
    if domain.ndim != 1 or not np.issubdtype(domain.dtype, np.integer) or len(domain) == 0 or domain.min() < 0:
        raise AnalysisError(
            f"domain must be a list of numbers from 0, one a document; got shape {domain.shape} of {domain.dtype}"
        )
    sizes = np.bincount(domain)
    if not sizes.all():
        raise AnalysisError(
            f"every domain from 0 to {len(sizes) - 1} needs documents; domain {sizes.argmin()} has none: number the "
            "domains that are there from 0"
        )
    return sizes


def resampled_weights(
    domain: Domains, replicates: int, rng: np.random.Generator
) -> Int[np.ndarray, "replicates documents"]:
    """How often each document is drawn when as many as there are in a domain are drawn from it, with replacement."""
    weights = np.empty((replicates, len(domain)), dtype=np.int64)
    for number, size in enumerate(documents_per_domain(domain)):
        weights[:, domain == number] = rng.multinomial(size, np.full(size, 1 / size), size=replicates)
    return weights


def permuted_labels(
    domain: Domains, permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "permutations documents"]:
    """Domains dealt anew to the documents, as many of each as before: what is left when they mean nothing."""
    return rng.permuted(np.tile(domain, (permutations, 1)), axis=1)


def document_halves(domain: Domains, seed: int = 0) -> Int[np.ndarray, " documents"]:
    """0 or 1 for each document: every domain's documents dealt at random into two halves, the first larger by one where
    they are odd. What is chosen on one half is tested on the other, where the choice has no luck to live on.

    Raises:
        AnalysisError: a domain has fewer than 4 documents, which leaves a half fewer than 2.
    """
    sizes, half = documents_per_domain(domain), np.empty(len(domain), dtype=np.int64)
    if sizes.min() < 4:
        raise AnalysisError(
            f"two halves of documents need at least 4 in each domain; domain {sizes.argmin()} has {sizes.min()}: add "
            "documents to the probe, or leave the domain out"
        )
    rng = generator(seed)
    for number, size in enumerate(sizes):
        half[domain == number] = rng.permutation(np.arange(size) % 2)
    return half


def labels_permuted_in_halves(
    domain: Domains, half: Int[np.ndarray, " documents"], permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "permutations documents"]:
    """`permuted_labels` within each half, so that both keep their number of documents of each domain."""
    labels = np.empty((permutations, len(domain)), dtype=domain.dtype)
    for side in (0, 1):
        labels[:, half == side] = permuted_labels(domain[half == side], permutations, rng)
    return labels


def null_p_value(observed: float, null: Float[np.ndarray, " draws"]) -> float:
    """(1 + draws ≥ observed) / (1 + draws), one-sided: 1 when every draw reaches it, 1/(1 + draws) when none does
    [Phipson and Smyth 2010]."""
    return float((1 + np.count_nonzero(null >= observed - ROUNDING)) / (1 + len(null)))


def central_range(values: Float[np.ndarray, " draws"]) -> Interval:
    """The middle 95 % of the draws."""
    low, high = np.quantile(values, (TAIL, 1 - TAIL))
    return Interval(float(low), float(high))


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Holm's adjusted p-values [Holm 1979], in the order given: the i-th smallest of m times m − i + 1, never below a
    smaller one's, at most 1. Below α for a test that may be rejected while the chance of any false one stays ≤ α."""
    ascending = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values)[ascending] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[ascending] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def benjamini_hochberg(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Benjamini and Hochberg's [1995] adjusted p-values, in the order given: the least over larger or equal ones of
    p·m/rank, at most 1. Calling those below α leaves at most α of them false on average, where tests are independent
    or go up together; a family of many tests loses less by it than by `holm`, which bounds the chance of any."""
    return np.asarray(false_discovery_control(p_values)) if len(p_values) else np.empty(0)


def seed_difference(differences: Float[np.ndarray, " seeds"]) -> Difference:
    """The mean of paired differences, one a seed, with its 95 % interval and p by the paired t test over seeds.

    Assumes that seeds' differences are normal around one mean: with 5 seeds nothing can show that they are, and a sign
    flip test, which assumes less, cannot reach p < 0.0625. p = 1 when the mean is 0, 0 when all seeds differ alike.

    Raises:
        AnalysisError: there are fewer than 2 seeds.
    """
    mean, error, degrees = _over_seeds(differences)
    margin = float(t.ppf(1 - TAIL, degrees)) * error
    return Difference(mean, Interval(mean - margin, mean + margin), _two_sided(mean, error, degrees))


def seed_equivalence(differences: Float[np.ndarray, " seeds"], margin: float) -> Equivalence:
    """The mean of paired differences, one a seed, tested for being within ±margin; assumes as `seed_difference` does.

    Raises:
        AnalysisError: there are fewer than 2 seeds, or the margin is not above 0.
    """
    return _equivalence(*_over_seeds(differences), margin)


def _over_seeds(differences: Float[np.ndarray, " seeds"]) -> tuple[float, float, int]:
    """(mean, standard error, degrees of freedom)."""
    if len(differences) < 2:
        raise AnalysisError(f"a t test over seeds needs at least 2; got {len(differences)}: train another seed")
    return float(np.mean(differences)), float(sem(differences)), len(differences) - 1


def _equivalence(value: float, error: float, degrees: int, margin: float) -> Equivalence:
    if not margin > 0:
        raise AnalysisError(f"the margin of an equivalence test must be above 0; got {margin}")
    p = float(t.sf((margin - abs(value)) / error, degrees)) if error > ROUNDING else float(abs(value) >= margin)
    spread = float(t.ppf(1 - 2 * TAIL, degrees)) * error
    return Equivalence(value, Interval(value - spread, value + spread), p, margin)


def _two_sided(value: float, error: float, degrees: float) -> float:
    if abs(value) <= ROUNDING:
        return 1.0
    return float(2 * t.sf(abs(value) / error, degrees)) if error > ROUNDING else 0.0
