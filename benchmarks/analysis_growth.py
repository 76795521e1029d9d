"""How the time and memory of the analysis grow with probe tokens and experts.

    python benchmarks/analysis_growth.py

Question: what does one layer of one trace cost (counts a document, domain information with both nulls and its interval,
shares with intervals, token classes), at the quickstart's size and at ten times its tokens or eight times its experts?
Expected: tokens cost the counting and the classes, in proportion; everything else works on counts a document, and grows
with documents × experts.
"""

import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from moe_emergence.analysis.class_information import class_information
from moe_emergence.analysis.information import domain_shares, fresh_gate_values, measured_domain_information
from moe_emergence.analysis.traces import document_counts

ROUNDS, DOMAINS, LENGTH, GATES = 5, 3, 256, 199


def seconds(work: Callable[[], object]) -> float:
    """Median over the rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def row(documents: int, experts: int) -> str:
    """Seconds of each part at one size."""
    random = np.random.default_rng(0)
    document = np.repeat(np.arange(documents), LENGTH)
    domain = np.arange(documents) % DOMAINS
    chosen = random.integers(0, experts, (documents * LENGTH, 1))
    counts = document_counts(chosen, document, documents, experts)
    fresh = random.multinomial(LENGTH, np.full(experts, 1 / experts), (GATES, documents))
    code = np.repeat(domain == 0, LENGTH)
    kinds = random.integers(0, 8, int(code.sum())).astype(np.uint8)
    counting = seconds(lambda: document_counts(chosen, document, documents, experts))
    nulls = seconds(lambda: (measured_domain_information(counts, domain), fresh_gate_values(fresh, domain)))
    shares = seconds(lambda: domain_shares(counts, domain))
    classes = seconds(lambda: class_information(kinds, chosen[code], document[code], experts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{documents:9d} {len(document):7d} {experts:8d} {counting:7.2f}s {nulls:21.2f}s {shares:7.2f}s "
        f"{classes:13.2f}s {peak:10.0f}"
    )


def main() -> None:
    """One row a size."""
    print("documents  tokens  experts   counts  information and nulls   shares  token classes   peak MiB")
    for documents, experts in ((108, 8), (1080, 8), (108, 64), (1080, 64)):
        print(row(documents, experts), flush=True)


if __name__ == "__main__":
    main()
