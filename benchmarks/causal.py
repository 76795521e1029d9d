"""What causal tests cost, and how that grows with tokens, layers and experts.

    python benchmarks/causal.py [--threads 1 2] [--quick]

Question: does the full knock-out matrix (2 layers × 8 experts × 5 interventions, 50k tokens) of the embedded base (4
blocks × 128, 4,096 token ids, context 256) take at most 3 minutes on 2 cores, and what do the other tests cost?
Expected: a pass through the head for every intervention and expert in every layer but the last, where all experts
together cost one; so time grows with tokens × layers × experts. Weights are the base's, perturbed; tokens are the test
documents' of the embedded corpus, repeated; what is computed does not depend on either.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from moe_emergence.analysis.causal.forward import Subject
from moe_emergence.analysis.causal.interventions import INTERVENTIONS, ancestors_of
from moe_emergence.analysis.causal.knockout import (
    DOSES,
    Ancestors,
    documents_of,
    dose_response,
    knockout_matrix,
    survey,
)
from moe_emergence.analysis.causal.regret import regret_sums
from moe_emergence.analysis.causal.retention import retained_losses
from moe_emergence.config import DataConfig, MoEConfig
from moe_emergence.data.blocks import prepare
from moe_emergence.data.corpora import load_corpus
from moe_emergence.data.probe import Probe
from moe_emergence.models.base import load_base
from moe_emergence.models.upcycle import ancestor_state, upcycle

TOKENS, DOMAINS = 50_000, 3


def model(layers: tuple[int, ...], experts: int) -> tuple[Subject, Ancestors]:
    """The embedded base, upcycled, with gates that tell tokens apart."""
    base = load_base()
    moe = MoEConfig(layers=layers, num_experts=experts, perturbation=0.1)
    subject = Subject(upcycle(base.model.eval(), moe, seed=0))
    return subject, ancestors_of(subject, ancestor_state(base.model, layers))


def probe_of(tokens: int) -> Probe:
    """As many tokens of each domain as asked for, documents repeated where there are not enough."""
    base = load_base()
    probe = prepare(load_corpus("embedded"), base.tokenizer, DataConfig(block_size=256, probe_tokens=27_648)).probe
    times = -(-tokens // int(probe.length.sum()))
    names = ("tokens", "length", "document", "domain", "start")
    many = {name: np.concatenate([getattr(probe, name)] * times) for name in names}
    whole = replace(probe, **many, texts=probe.texts * times)
    shares = [np.flatnonzero(whole.domain == d) for d in range(DOMAINS)]
    places = np.concatenate([own[whole.length[own].cumsum() <= tokens // DOMAINS + 256] for own in shares])
    cut = {name: getattr(whole, name)[places] for name in names}
    return replace(whole, **cut, texts=tuple(whole.texts[place] for place in places))


def measured(work: Callable[[], object]) -> str:
    """Seconds of wall and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return f"{time.perf_counter() - wall:8.1f} s {time.process_time() - processor:8.1f} s"


def knockouts(layers: tuple[int, ...], experts: int, probe: Probe) -> str:
    subject, ancestors = model(layers, experts)
    documents = documents_of(probe)
    return measured(lambda: knockout_matrix(subject, documents, survey(subject, documents), INTERVENTIONS, ancestors))


def others(probe: Probe) -> None:
    """One row a test beside the knock-out matrix."""
    subject, ancestors = model((2, 3), 8)
    documents = documents_of(probe)
    surveyed = survey(subject, documents)
    print(f"{probe.length.sum()} tokens, 2 layers, 8 experts")
    print("doses                ", measured(lambda: dose_response(subject, documents, ancestors, DOSES)))
    print("regret               ", measured(lambda: regret_sums(subject, documents)))
    print("retention            ", measured(lambda: retained_losses(subject, documents, surveyed)))


def main() -> None:
    """One row a size; the first is the one that must not take longer than 3 minutes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens")
    given = parser.parse_args()
    tokens = TOKENS // 10 if given.quick else TOKENS
    whole, half = probe_of(tokens), probe_of(tokens // 2)
    for threads in given.threads:
        torch.set_num_threads(threads)
        print(f"threads: {threads}; tokens: {whole.length.sum()}, half: {half.length.sum()}")
        print("knock-out matrix            wall     processor")
        print("2 layers, 8 experts  ", knockouts((2, 3), 8, whole), flush=True)
        print("half the tokens      ", knockouts((2, 3), 8, half), flush=True)
        print("last layer alone     ", knockouts((3,), 8, half), flush=True)
        print("4 layers             ", knockouts((0, 1, 2, 3), 8, half), flush=True)
        print("16 experts           ", knockouts((2, 3), 16, half), flush=True)
        others(half)
        print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
