"""The pilot of the quickstart's recipe: docs/decisions/005-pilot.md says what it compares and what decides.

    python scripts/pilot.py train FOLDER [--gate G --rate R --z Z --seed S]   the nine cells and dense, or one more run
    python scripts/pilot.py table FOLDER                                     what came out, in Markdown

Question: which gate multiplier, peak rate and z coefficient give experts a fair chance to specialise without a cost in
LM loss or balance? About 2 minutes a run on two cores. Expected: with multiplier 1 the router hardly moves.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_emergence.analysis.fields import read_json, read_lines
from moe_emergence.analysis.information import mutual_information
from moe_emergence.config import RunConfig, from_dict
from moe_emergence.experiments import presets
from moe_emergence.experiments.suites import Arm, Suite
from moe_emergence.routing import dead_experts, max_violation
from moe_emergence.training.suite import run_suite

GATES, RATES = (1.0, 10.0, 30.0), (1e-4, 3e-4, 1e-3)
SEED = 7


def cell(gate: float, rate: float, z: float) -> RunConfig:
    """The quickstart's `moe` with three values replaced, on dev only (one test block: there cannot be fewer)."""
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
        data=replace(run.data, dev_blocks=32, test_blocks=1, probe_tokens=3000, wide_probe_tokens=0),
        optimizer=replace(run.optimizer, learning_rate=rate),
        training=replace(run.training, evaluations=3, snapshots=0),
    )


def pilot(cells: list[RunConfig]) -> Suite:
    """Each run is its own baseline: all three values are what is compared."""
    question = "Which recipe gives experts a fair chance to specialise at no cost in LM loss or balance?"
    return Suite(name="pilot", question=question, arms=tuple(Arm(config=config) for config in cells))


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run at its last step, on dev: LM loss in nats, I(E;D) at the end and its gain since step 0 in % of H(D)."""

    config: RunConfig
    lm_loss: float
    information: float
    gain: float
    max_violation: float
    dead: int


def results(folder: Path) -> Iterator[Result]:
    """Every finished run of the pilot."""
    for path in sorted(folder.glob("*/seed-*/metrics.jsonl")):
        lines = [line.values for line in read_lines(path)]
        if lines[-1]["event"] == "end":
            dev = [line for line in lines if line["event"] == "evaluation" and line["split"] == "dev"]
            yield _result(from_dict(read_json(path.with_name("config.json")).values), dev[0], dev[-1])


def _result(config: RunConfig, first: dict[str, Any], last: dict[str, Any]) -> Result:
    counts = [np.array(layer["assignments"]).sum(0) for layer in last["routing"]]
    loads = [count / count.sum() for count in counts]
    information = _information(last)
    return Result(
        config=config,
        lm_loss=last["lm_loss_macro"],
        information=information,
        gain=information - _information(first),
        max_violation=max((float(max_violation(load)) for load in loads), default=0.0),
        dead=sum(int(dead_experts(load).sum()) for load in loads),
    )


def _information(look: dict[str, Any]) -> float:
    """Mean of the layers' I(E;D), % of H(D): every domain has as many tokens."""
    tables = [np.array(layer["assignments"]) for layer in look["routing"]]
    return float(np.mean([100 * mutual_information(t) / np.log2(len(t)) for t in tables])) if tables else 0.0


def admitted(result: Result, lowest: float) -> bool:
    """The rule written down before: no cost in LM loss, balanced, no dead expert."""
    return result.lm_loss <= lowest + 0.01 and result.max_violation < 1.0 and result.dead == 0


def table(found: list[Result]) -> str:
    """Every run, a row each."""
    lowest = min((r.lm_loss for r in found if r.config.moe is not None), default=0.0)
    rows = [
        "| arm | gate multiplier | peak rate | z | seed | dev LM loss, nats | I(E;D), % of H(D) | gain since step 0 | "
        "max violation | dead | admitted |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(found, key=lambda r: (r.config.moe is None, r.config.seed, -r.gain)):
        rate, gate = r.config.optimizer.learning_rate, r.config.optimizer.gate_multiplier
        if r.config.moe is None:
            rows.append(f"| dense | – | {rate:g} | – | {r.config.seed} | {r.lm_loss:.4f} | – | – | – | – | – |")
        else:
            rows.append(
                f"| moe | {gate:g} | {rate:g} | {r.config.moe.z_coef:g} | {r.config.seed} | {r.lm_loss:.4f} | "
                f"{r.information:.1f} | {r.gain:+.1f} | {r.max_violation:.2f} | {r.dead} | "
                f"{'yes' if admitted(r, lowest) else 'no'} |"
            )
    return "\n".join(rows)


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
        run_suite(pilot(cells), given.folder, seeds=(given.seed,), workers=2)
    else:
        print(table(list(results(given.folder))))


if __name__ == "__main__":
    main()
