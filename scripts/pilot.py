"""The pilot of the quickstart's recipe: docs/decisions/011-pilot.md says what it compares and what decides.

    python scripts/pilot.py train FOLDER --arms dense,moe --rates 1e-3,2e-3,4e-3,8e-3 --gates 30 --seeds 7
    python scripts/pilot.py table FOLDER                                what came out, in Markdown

Question: at the rate that suits `dense` best, which gate multiplier and z coefficient cost no LM loss and keep experts
in use? About 3 minutes a run on one core. Expected: a higher rate lowers every arm's loss and narrows the gap.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
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

STEPS = 320


def cell(arm: str, rate: float, gate: float, z: float, steps: int) -> RunConfig:
    """An arm of the quickstart with three values replaced, on dev only (one test block: there cannot be fewer)."""
    run = presets.PRESETS[arm]()
    named = "" if run.moe is None else f"-gate{gate:g}-z{z:g}"
    return replace(
        run,
        name=f"{arm}-rate{rate:g}{named}-steps{steps}",
        data=replace(run.data, dev_blocks=32, test_blocks=1, probe_tokens=3000, wide_probe_tokens=0),
        moe=None if run.moe is None else replace(run.moe, z_coef=z),
        optimizer=replace(run.optimizer, learning_rate=rate, gate_multiplier=gate),
        training=replace(run.training, steps=steps, evaluations=3, snapshots=0, checkpoint_every=steps),
    )


def pilot(cells: Sequence[RunConfig]) -> Suite:
    """Each run is its own baseline: all three values are what is compared."""
    question = "Which recipe costs no LM loss and keeps experts in use?"
    return Suite(name="pilot", question=question, arms=tuple(Arm(config=config) for config in cells))


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run at its last step, on dev: LM loss in nats per token, I(E;D) at both ends in % of H(D)."""

    config: RunConfig
    lm_loss: float
    untrained: float
    information: float
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
    return Result(
        config=config,
        lm_loss=last["lm_loss_macro"],
        untrained=_information(first),
        information=_information(last),
        max_violation=max((float(max_violation(load)) for load in loads), default=0.0),
        dead=sum(int(dead_experts(load).sum()) for load in loads),
    )


def _information(look: dict[str, Any]) -> float:
    """Mean of the layers' I(E;D), % of H(D): every domain has as many tokens."""
    tables = [np.array(layer["assignments"]) for layer in look["routing"]]
    return float(np.mean([100 * mutual_information(t) / np.log2(len(t)) for t in tables])) if tables else 0.0


def table(found: Sequence[Result]) -> str:
    """Every run, one row each."""
    rows = [
        "| arm | peak rate | gate multiplier | z | steps | seed | dev LM loss, nats per token | I(E;D), % of H(D) | at "
        "step 0 | max violation | dead | admitted |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(rows + [_row(result) for result in sorted(found, key=_order)])


def _order(result: Result) -> tuple[Any, ...]:
    run = result.config
    z = run.moe.z_coef if run.moe is not None else 0
    return run.training.steps, run.name.split("-")[0], run.optimizer.learning_rate, run.optimizer.gate_multiplier, z


def _row(result: Result) -> str:
    run = result.config
    cells = [run.name.split("-")[0], f"{run.optimizer.learning_rate:g}"]
    if run.moe is None:
        cells += ["–", "–", str(run.training.steps), str(run.seed), f"{result.lm_loss:.4f}", *["–"] * 5]
    else:
        cells += [f"{run.optimizer.gate_multiplier:g}", f"{run.moe.z_coef:g}", str(run.training.steps), str(run.seed)]
        cells += [f"{result.lm_loss:.4f}", f"{result.information:.1f}", f"{result.untrained:.1f}"]
        admitted = result.max_violation < 1.0 and result.dead == 0
        cells += [f"{result.max_violation:.2f}", str(result.dead), "yes" if admitted else "no"]
    return f"| {' | '.join(cells)} |"


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    """Train what was asked for, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("train", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", default="moe")
    parser.add_argument("--rates", type=_numbers, default=[1e-3])
    parser.add_argument("--gates", type=_numbers, default=[30.0])
    parser.add_argument("--zs", type=_numbers, default=[0.0])
    parser.add_argument("--seeds", type=_numbers, default=[7])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.job == "table":
        print(table(list(results(given.folder))))
        return
    grid = product(given.arms.split(","), given.rates, given.gates, given.zs)
    cells = {config.name: config for config in (cell(*values, given.steps) for values in grid)}
    run_suite(pilot(list(cells.values())), given.folder, seeds=list(map(int, given.seeds)), workers=given.workers)


if __name__ == "__main__":
    main()
