"""Domain information, its nulls, shares and losses: by hand, at both extremes, and against independent code."""

import math

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from moe_emergence.analysis.information import (
    domain_information,
    domain_losses,
    domain_shares,
    fresh_gate_values,
    information_difference,
    loss_difference,
    measured_domain_information,
    miller_madow_bias,
    miller_madow_information,
    mutual_information,
    normalised_information,
)
from moe_emergence.analysis.statistics import bootstrap, generator, null_p_value, resampled_weights
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], [5, 8, 6])


def random_counts(seed: int = 0, experts: int = 4, tokens: int = 60, domain: np.ndarray = DOMAIN) -> np.ndarray:
    """Documents that differ within and between domains."""
    rng = generator(seed)
    routes = rng.dirichlet(np.full(experts, 2.0), size=domain.max() + 1)
    return np.stack([rng.multinomial(tokens, rng.dirichlet(10 * routes[number] + 0.1)) for number in domain])


def looped_information(counts: np.ndarray, domain: np.ndarray) -> float:
    """Mean over domains of KL to the mean distribution, one cell at a time."""
    rows = []
    for number in range(domain.max() + 1):
        own = [counts[document] for document in range(len(domain)) if domain[document] == number]
        total = [sum(float(row[expert]) for row in own) for expert in range(counts.shape[1])]
        rows.append([value / sum(total) for value in total])
    mean = [sum(row[expert] for row in rows) / len(rows) for expert in range(counts.shape[1])]
    return sum(p * math.log2(p / q) for row in rows for p, q in zip(row, mean, strict=True) if p > 0) / len(rows)


def test_by_hand() -> None:
    """Rows (¾, ¼) and (¼, ¾) equally likely: 1 − h(¼) = 0.188722 bit; the document with no tokens changes nothing."""
    counts = np.array([[2, 0], [1, 1], [10, 30], [0, 0]])
    assert domain_information(counts, np.array([0, 0, 1, 1])) == pytest.approx(0.1887218755)
    by_tokens = 0.8756633923 - 0.8112781245
    assert mutual_information(np.array([[3.0, 1], [10, 30]])) == pytest.approx(by_tokens), "h(13/44) − h(¼)"


def test_extremes_of_any_table() -> None:
    assert mutual_information(np.outer([1.0, 2, 3], [4.0, 5])) == pytest.approx(0, abs=1e-15)
    assert mutual_information(np.eye(3)) == pytest.approx(math.log2(3))
    assert mutual_information(np.zeros((2, 3))) == 0
    assert mutual_information(np.ones((4, 1))) == 0
    assert mutual_information(np.stack([np.eye(2), np.ones((2, 2))])) == pytest.approx([1, 0])


def test_extremes_of_domains() -> None:
    alike = np.tile([3, 5, 2], (6, 1)) * np.arange(1, 7)[:, np.newaxis]
    assert domain_information(alike, np.repeat([0, 1, 2], 2)) == pytest.approx(0, abs=1e-15)
    disjoint = np.eye(3, dtype=int)[[0, 0, 1, 1, 2, 2]] * np.arange(1, 7)[:, np.newaxis]
    assert domain_information(disjoint, np.repeat([0, 1, 2], 2)) == pytest.approx(math.log2(3))


def test_agrees_with_scikit_learn_on_single_tokens() -> None:
    domain = np.repeat([0, 1, 2], 6)
    counts = random_counts(3, domain=domain)
    experts = np.concatenate([np.repeat(np.arange(4), row) for row in counts])
    theirs = mutual_info_score(np.repeat(domain, counts.sum(1)), experts) / math.log(2)
    assert float(domain_information(counts, domain)) == pytest.approx(theirs, abs=1e-10)
    joint = np.stack([random_counts(4)[number == DOMAIN].sum(0) for number in range(3)])
    tokens = np.repeat(np.indices(joint.shape).reshape(2, -1), joint.reshape(-1), axis=1)
    theirs = mutual_info_score(*tokens) / math.log(2)
    assert float(mutual_information(joint)) == pytest.approx(theirs, abs=1e-10)


def test_agrees_with_loops_for_every_resample_and_seed() -> None:
    seeds = np.stack([random_counts(seed) for seed in range(3)])
    assert domain_information(seeds, DOMAIN) == pytest.approx([looped_information(c, DOMAIN) for c in seeds], abs=1e-10)
    weights = resampled_weights(DOMAIN, 4, generator(1))
    found = domain_information(seeds, DOMAIN, weights)
    assert found.shape == (4, 3)
    for row, weight in zip(found, weights, strict=True):
        looped = [looped_information(np.repeat(c, weight, axis=0), np.repeat(DOMAIN, weight)) for c in seeds]
        assert row == pytest.approx(looped, abs=1e-10)


def test_order_and_numbers_mean_nothing() -> None:
    counts, rng = random_counts(5), generator(0)
    documents, experts = rng.permutation(len(DOMAIN)), rng.permutation(4)
    value = float(domain_information(counts, DOMAIN))
    assert float(domain_information(counts[documents], DOMAIN[documents])) == pytest.approx(value, abs=1e-12)
    assert float(domain_information(counts, 2 - DOMAIN)) == pytest.approx(value, abs=1e-12)
    first, second = (measured_domain_information(c, DOMAIN) for c in (counts, counts[:, experts]))
    assert vars(first).keys() == vars(second).keys()
    for name, value in vars(first).items():
        other = getattr(second, name)
        if name == "interval":
            value, other = (value.low, value.high), (other.low, other.high)
        assert other == pytest.approx(value, abs=1e-12), name


def test_measured_information_of_a_specialised_layer() -> None:
    domain = np.repeat(DOMAIN, 3)
    counts = random_counts(6, tokens=400, domain=domain)
    found = measured_domain_information(counts, domain)
    assert found == measured_domain_information(counts, domain), "the same numbers each time"
    assert found != measured_domain_information(counts, domain, seed=1)
    assert found.plug_in == pytest.approx(looped_information(counts, domain))
    assert found.estimate == pytest.approx(found.plug_in - found.null_mean)
    assert found.p == 1 / 1000
    assert 0 < found.null_low < found.null_mean < found.null_high < found.plug_in
    assert found.interval.low < found.corrected < found.interval.high
    assert found.null_high < found.interval.low
    assert (found.maximum, found.documents, found.tokens) == (math.log2(3), 15, 57 * 400)


def test_no_specialisation_is_not_found() -> None:
    counts = generator(7).multinomial(200, np.full(8, 1 / 8), size=60)
    found = measured_domain_information(counts, np.repeat([0, 1, 2], 20))
    assert found.p > 0.05
    assert found.null_low < found.plug_in < found.null_high
    assert found.interval.low == 0
    assert abs(found.estimate) < 0.002


def test_disjoint_experts_reach_the_maximum() -> None:
    counts = np.repeat(np.eye(3, dtype=int), 4, axis=0) * 50
    found = measured_domain_information(counts, np.repeat([0, 1, 2], 4))
    assert found.plug_in == pytest.approx(found.maximum)
    assert found.corrected == pytest.approx(found.maximum)
    assert (found.interval.low, found.interval.high) == pytest.approx((found.maximum, found.maximum))


def test_one_expert_tells_nothing() -> None:
    found = measured_domain_information(np.full((19, 1), 30), DOMAIN)
    assert (found.plug_in, found.estimate, found.p) == (0, 0, 1)
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_seeds_are_averaged_and_share_their_documents() -> None:
    one, two = random_counts(8), random_counts(9)
    both = measured_domain_information(np.stack([one, two]), DOMAIN)
    assert both.plug_in == pytest.approx((looped_information(one, DOMAIN) + looped_information(two, DOMAIN)) / 2)
    alone = [measured_domain_information(counts, DOMAIN) for counts in (one, two)]
    assert both.null_mean == pytest.approx((alone[0].null_mean + alone[1].null_mean) / 2)
    assert both.corrected == pytest.approx((alone[0].corrected + alone[1].corrected) / 2)
    single, twice = alone[0], measured_domain_information(np.stack([one, one]), DOMAIN)
    assert twice.interval.low == pytest.approx(single.interval.low), "a copy of a seed adds no documents"
    assert twice.p == single.p


def test_fresh_gates_are_valued_one_by_one() -> None:
    fresh = np.stack([random_counts(seed, tokens=30) for seed in range(6)])
    values = fresh_gate_values(fresh, DOMAIN)
    assert values == pytest.approx([looped_information(counts, DOMAIN) for counts in fresh], abs=1e-10)
    assert null_p_value(float(np.sort(values)[3]), values) == pytest.approx((1 + 3) / 7)


def test_difference_is_paired_signed_and_nothing_with_itself() -> None:
    weak, strong = random_counts(10, tokens=100), random_counts(11, tokens=100)
    found, opposite = information_difference(weak, strong, DOMAIN), information_difference(strong, weak, DOMAIN)
    assert found.value == pytest.approx(-opposite.value)
    assert found.p == pytest.approx(opposite.p)
    assert found.value == pytest.approx(
        float(domain_information(weak, DOMAIN) - domain_information(strong, DOMAIN)), abs=0.1
    )
    assert found.interval.low < found.value < found.interval.high
    assert information_difference(weak, weak, DOMAIN).p == 1
    renamed = information_difference(weak, weak[:, ::-1], DOMAIN)
    assert renamed.p == 1, "the same documents in both arms: what they share cancels"


def test_difference_is_that_of_the_corrected_values() -> None:
    rough, smooth = random_counts(10, tokens=20), random_counts(11, tokens=500)
    corrected = [measured_domain_information(counts, DOMAIN).corrected for counts in (rough, smooth)]
    biases = [float(domain_information(c, DOMAIN)) - v for c, v in zip((rough, smooth), corrected, strict=True)]
    assert abs(biases[0] - biases[1]) > 1e-3, "else this shows nothing"
    assert information_difference(rough, smooth, DOMAIN).value == pytest.approx(corrected[0] - corrected[1])


def test_difference_of_what_is_and_what_is_not_specialised() -> None:
    uniform = generator(1).multinomial(100, np.full(4, 1 / 4), size=len(DOMAIN))
    found = information_difference(random_counts(6, tokens=100), uniform, DOMAIN)
    assert found.interval.low > 0
    assert found.p < 0.05


def test_shares_by_hand_with_an_interval_in_each_cell() -> None:
    counts = random_counts(12)
    found = domain_shares(counts, DOMAIN)
    for number in range(3):
        own = counts[number == DOMAIN].sum(0)
        assert found.shares[number] == pytest.approx(own / own.sum())
    assert found.low.shape == found.high.shape == (3, 4)
    assert (found.low < found.shares).all()
    assert (found.shares < found.high).all()
    assert found.low.min() >= 0
    assert found.high.max() <= 1
    own = counts[DOMAIN == 1]
    row = bootstrap(
        lambda w: (w[:, DOMAIN == 1] @ own) / (w[:, DOMAIN == 1] @ own.sum(1))[:, None], DOMAIN, documents=8
    )
    assert np.stack([found.low[1], found.high[1]]) == pytest.approx(np.stack(row.shares())), "n is the domain's own 8"
    both = domain_shares(np.stack([counts, counts[:, ::-1]]), DOMAIN)
    assert both.shares == pytest.approx((found.shares + found.shares[:, ::-1]) / 2)


def test_loss_of_a_domain_weighs_tokens_and_the_macro_mean_domains() -> None:
    """Domain 0: (10 + 50)/(10 + 20) = 2; domain 1: (5 + 15)/(5 + 15) = 1; mean 1.5."""
    tokens, domain = np.array([10, 20, 5, 15]), np.array([0, 0, 1, 1])
    losses = np.array([10.0, 50, 5, 15])
    found = domain_losses(losses, tokens, domain)
    assert [loss.value for loss in found.domains] == pytest.approx([2, 1])
    assert found.macro.value == pytest.approx(1.5)
    assert found.domains[0].interval.low < 2 < found.domains[0].interval.high
    assert found.domains[1].interval.low == pytest.approx(1), "every document loses 1 nat a token"
    seeds = domain_losses(np.stack([losses, 3 * losses]), tokens, domain)
    assert seeds.macro.value == pytest.approx(3)


def test_loss_differences_use_their_own_n() -> None:
    """A domain's own documents (5, 8, 6), and the smallest domain's for the mean."""
    rng, tokens = generator(14), np.full(len(DOMAIN), 100)
    found = loss_difference(rng.gamma(9, 1, len(DOMAIN)), rng.gamma(9, 1, len(DOMAIN)), tokens, DOMAIN)
    for difference, documents in zip((*found.domains, found.macro), (5, 8, 6, 5), strict=True):
        error = (difference.interval.high - difference.value) / t.ppf(0.975, documents - 1)
        assert difference.p == pytest.approx(2 * t.sf(abs(difference.value) / error, documents - 1))


def test_loss_difference_is_paired() -> None:
    rng = generator(13)
    tokens = rng.integers(50, 257, size=len(DOMAIN))
    second = tokens * rng.gamma(9, 1 / 3, size=len(DOMAIN))
    first = second - 0.1 * tokens + rng.normal(0, 0.001, size=len(DOMAIN)) * tokens
    found = loss_difference(first, second, tokens, DOMAIN)
    assert [d.value for d in (*found.domains, found.macro)] == pytest.approx([-0.1] * 4, abs=0.002)
    assert all(d.interval.high < -0.09 and d.p < 1e-4 for d in (*found.domains, found.macro))
    alone = domain_losses(first, tokens, DOMAIN).macro.interval
    assert alone.high - alone.low > 0.2, "documents differ far more than arms do"
    opposite = loss_difference(second, first, tokens, DOMAIN)
    assert opposite.macro.value == pytest.approx(-found.macro.value)
    same = loss_difference(first, first, tokens, DOMAIN)
    assert (same.macro.value, same.macro.p) == (0, 1)
    seeds = loss_difference(np.stack([first, second]), np.stack([second, second]), tokens, DOMAIN)
    assert seeds.macro.value == pytest.approx(found.macro.value / 2)


@pytest.mark.parametrize(
    ("counts", "domain", "message"),
    [
        (np.ones((4, 2), dtype=int), np.array([0, 0, 1, 1, 1]), r"5 documents of domain; got \(4, 2\)"),
        (np.ones(4, dtype=int), np.array([0, 0, 1, 1]), r"got \(4,\)"),
        (np.array([[1, 1], [1, 1], [0, 0], [0, 0]]), np.array([0, 0, 1, 1]), "domain 1 has none"),
        (np.stack([np.ones((4, 2)), np.eye(4)[:, 1:3]]), np.array([0, 1, 1, 0])[[1, 0, 2, 3]], None),
        (np.ones((3, 2), dtype=int), np.array([0, 0, 1]), "at least 2 in each domain; domain 1 has 1"),
        (np.ones((4, 2), dtype=int), np.array([0, 0, 2, 2]), "domain 1 has none"),
    ],
)
def test_counts_that_do_not_fit_are_named(counts, domain, message) -> None:
    if message is None:
        measured_domain_information(counts, domain)
        return
    with pytest.raises(AnalysisError, match=message):
        measured_domain_information(counts, domain)
    with pytest.raises(AnalysisError, match=message):
        information_difference(counts, counts, domain)
    with pytest.raises(AnalysisError, match=message):
        domain_shares(counts, domain)


def test_losses_that_do_not_fit_are_named() -> None:
    domain, tokens = np.array([0, 0, 1, 1]), np.array([5, 5, 5, 5])
    with pytest.raises(AnalysisError, match=r"4 documents of domain; got \(3,\) and \(4,\)"):
        loss_difference(np.ones(3), np.ones(4), tokens, domain)
    with pytest.raises(AnalysisError, match=r"got \(4,\) and \(2,\)"):
        domain_losses(np.ones(4), tokens[:2], domain)
    with pytest.raises(AnalysisError, match="document 2 has 0"):
        domain_losses(np.ones(4), np.array([5, 5, 0, 5]), domain)


def test_normalised_information_agrees_with_scikit_learn() -> None:
    rng = generator(21)
    for _ in range(5):
        rows, columns = rng.integers(0, 6, 300), rng.integers(0, 4, 300)
        table = np.zeros((6, 4))
        np.add.at(table, (rows, columns), 1)
        expected = normalized_mutual_info_score(rows, columns, average_method="arithmetic")
        assert float(normalised_information(table)) == pytest.approx(expected, abs=1e-10)


def test_normalised_information_at_its_extremes() -> None:
    renamed = np.array([[0, 3, 0], [0, 0, 5], [2, 0, 0]])
    tables = np.stack([renamed, np.outer([1, 2, 3], [4, 0, 6]), np.array([[7, 0, 0], [0, 0, 0], [0, 0, 0]])])
    assert normalised_information(tables) == pytest.approx([1, 0, 0], abs=1e-12)
    halves = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert float(normalised_information(halves)) == pytest.approx(2 * 1 / (2 + 1)), "4 rows for 2 columns"


def test_miller_madow_by_hand() -> None:
    """5 cells of 3 rows and 2 columns with counts: (5 − 3 − 2 + 1)/(2 · 20 ln 2); the empty third column is none."""
    table = np.array([[4, 2, 0], [0, 5, 0], [6, 3, 0]])
    assert float(miller_madow_bias(table)) == pytest.approx(1 / (40 * math.log(2)))
    assert float(miller_madow_information(table)) == pytest.approx(
        float(mutual_information(table)) - 1 / (40 * math.log(2))
    )
    assert miller_madow_bias(np.stack([np.zeros((2, 2), dtype=int), np.diag([3, 4])])) == pytest.approx(
        [0, -1 / (14 * math.log(2))]
    )


def test_miller_madow_is_the_bias_of_independent_tokens_and_a_lower_bound_for_documents() -> None:
    """Documents with routes of their own (Dirichlet, concentration 8) are worth few draws; permuting them shows it."""
    rng, domain = generator(22), np.repeat(np.arange(3), 20)
    for concentration, low, high in ((1e6, 0.85, 1.15), (8.0, 5.0, 40.0)):
        own = rng.dirichlet(np.full(6, concentration / 6), size=60)
        counts = rng.multinomial(100, own)
        table = np.stack([counts[domain == number].sum(0) for number in range(3)])
        null_mean = measured_domain_information(counts, domain, replicates=10).null_mean
        assert low < null_mean / float(miller_madow_bias(table)) < high
