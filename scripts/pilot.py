"""The pilot of the quickstart's recipe: docs/decisions/005-pilot.md says what it compares and what decides.

    python scripts/pilot.py train FOLDER [--gate G --rate R --z Z --seed S]   the nine cells and dense, or one more run
    python scripts/pilot.py table FOLDER                                     what came out, as a Markdown table

Question: which gate multiplier, peak rate and z coefficient give experts a fair chance to specialise without a cost in LM
loss or balance? About 2 minutes a run on two cores. Expected: with multiplier 1 the router hardly moves in 240 steps.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from moe_emergence.config import RunConfig
from moe_emergence.experiments import presets
from moe_emergence.experiments.suites import Arm, Suite
from moe_emergence.training.suite import run_suite

GATES, RATES = (1.0, 10.0, 30.0), (1e-4, 3e-4, 1e-3)
SEED = 7


def cell(gate: float, rate: float, z: float) -> RunConfig:
    """The quickstart's `moe` with three values replaced, looking at dev only (one test block, the fewest there can be)."""
    run = presets.with_experts(dense(rate))
    assert run.moe is not None
    return replace(
        run,
        name=f"gate{gate:g}-rate{rate:g}-z{z:g}",
        optimizer=replace(run.optimizer, gate_multiplier=gate),
        moe=replace(run.moe, z_coef=z),
    )


def dense(rate: float) -> RunConfig:
    """The quickstart's `dense` at another rate."""
    run = presets.dense()
    return replace(
        run,
        name=f"dense-rate{rate:g}",
        data=replace(run.data, dev_blocks=32, test_blocks=1, probe_tokens=3000),
        optimizer=replace(run.optimizer, learning_rate=rate),
        training=replace(run.training, evaluations=3),
    )


def pilot(cells: list[RunConfig]) -> Suite:
    """One run as a suite of its own."""
    question = "Which recipe gives experts a fair chance to specialise at no cost in LM loss or balance?"
    return Suite(name="pilot", question=question, arms=tuple(Arm(config=config) for config in cells))


def main() -> None:
    """Train what was asked for, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("train", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gate", type=float)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--z", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    if given.job == "train":
        grid = [cell(gate, rate, 0.0) for rate in RATES for gate in GATES] + [dense(rate) for rate in RATES]
        cells = grid if given.gate is None else [cell(given.gate, given.rate, given.z)]
        for config in cells:
            run_suite(pilot([config]), given.folder / config.name, seeds=(given.seed,))


if __name__ == "__main__":
    main()
