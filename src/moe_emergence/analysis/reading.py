"""A suite's folder to its records. Nothing is repaired: what is missing or torn is an error that names file and key."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from moe_emergence.analysis.fields import Fields, read_json, read_lines
from moe_emergence.analysis.records import Arm, MissingRun, Run, Suite
from moe_emergence.analysis.run_lines import (
    read_collapse,
    read_columns,
    read_evaluation,
    read_manifest,
    read_skipped,
    read_timing,
)
from moe_emergence.config import RunConfig, from_dict
from moe_emergence.errors import AnalysisError, ConfigError
from moe_emergence.training.run_directory import CONFIG, MANIFEST, METRICS, TIMINGS

SUITE = "suite.json"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_suite(folder: Path) -> Suite:
    """The suite in `folder`, with every run that has ended; the others are named in `missing`.

    Raises:
        AnalysisError: a file or key is missing, torn or of the wrong kind, or two runs were made on different data.
    """
    if not (folder / SUITE).exists():
        raise AnalysisError(f"{folder} holds no {SUITE}: give a suite's folder, as in runs/quickstart, not a run's")
    suite = read_json(folder / SUITE)
    arms = tuple(_arm(fields) for fields in suite.groups("arms"))
    seeds = suite.wholes("seeds")
    _refuse_empty_or_twice([arm.name for arm in arms], seeds, suite.where)
    found = [_read_run(folder, arm.name, seed) for arm in arms for seed in seeds]
    runs = tuple(run for run in found if isinstance(run, Run))
    _refuse_different_data(runs)
    return Suite(
        folder=folder,
        name=suite.text("suite"),
        question=suite.text("question"),
        arms=arms,
        seeds=seeds,
        command=suite.text("command"),
        conclusive=suite.flag("conclusive"),
        note=suite.text("note"),
        runs=runs,
        missing=tuple(run for run in found if isinstance(run, MissingRun)),
    )


def _arm(fields: Fields) -> Arm:
    name = fields.text("name")
    if _FOLDER_NAME.fullmatch(name) is None:
        raise AnalysisError(f"{fields.where}: 'name' must be the name of a folder beside {SUITE}; found {name!r}")
    changes = fields.group("changes")
    pairs = {field: changes.items(field) for field in changes.values}
    odd = next((field for field, pair in pairs.items() if len(pair) != 2), None)
    if odd is not None:
        raise AnalysisError(f"{changes.where}: {odd!r} must be [baseline's value, own]; found {pairs[odd]!r:.80}")
    return Arm(
        name=name,
        question=fields.text("question"),
        changes={field: (before, after) for field, (before, after) in pairs.items()},
        baseline=fields.optional_text("baseline"),
    )


def _refuse_empty_or_twice(arms: list[str], seeds: tuple[int, ...], where: str) -> None:
    if not arms or not seeds:
        raise AnalysisError(f"{where}: 'arms' and 'seeds' must not be empty")
    counts: tuple[Counter[Any], ...] = (Counter(arms), Counter(seeds))
    twice = [name for counter in counts for name, times in counter.items() if times > 1]
    if twice:
        raise AnalysisError(f"{where}: 'arms' or 'seeds' names {twice[0]!r} twice")


def _read_run(suite: Path, arm: str, seed: int) -> Run | MissingRun:
    folder = suite / arm / f"seed-{seed}"
    if not (folder / CONFIG).exists() and not (folder / METRICS).exists():
        return MissingRun(arm=arm, seed=seed, reason="not started")
    config = _read_config(folder / CONFIG, arm, seed)
    if not (folder / METRICS).exists():
        return MissingRun(arm=arm, seed=seed, reason=f"nothing recorded of its {config.training.steps} steps")
    lines: dict[str, list[Fields]] = defaultdict(list)
    for line in read_lines(folder / METRICS):
        lines[line.text("event")].append(line)
    if not lines["end"]:
        last = max((line.whole("step") for line in lines["step"]), default=0)
        reason = f"unfinished: recorded up to step {last} of {config.training.steps}"
        return MissingRun(arm=arm, seed=seed, reason=reason)
    manifest = read_manifest(read_json(folder / MANIFEST))
    steps, scalars = read_columns(lines["step"])
    return Run(
        arm=arm,
        seed=seed,
        folder=folder,
        config=config,
        manifest=manifest,
        steps=steps,
        scalars=scalars,
        evaluations=tuple(read_evaluation(line, manifest, config) for line in lines["evaluation"]),
        collapses=tuple(read_collapse(line) for line in lines["collapse"]),
        skipped=tuple(read_skipped(line) for line in lines["skipped"]),
        timings=tuple(read_timing(line) for line in read_lines(folder / TIMINGS)),
        last_step=lines["end"][-1].whole("step"),
        reason=lines["end"][-1].text("reason"),
    )


def _read_config(path: Path, arm: str, seed: int) -> RunConfig:
    try:
        config = from_dict(read_json(path).values)
    except ConfigError as error:
        raise AnalysisError(f"{path}: {error}") from error
    if (config.name, config.seed) != (arm, seed):
        raise AnalysisError(
            f"{path}: 'name' and 'seed' are {config.name!r} and {config.seed}, but the folder is that of {arm!r} and "
            f"{seed}"
        )
    return config


def _refuse_different_data(runs: tuple[Run, ...]) -> None:
    for run in runs[1:]:
        first, own = runs[0].manifest.data, run.manifest.data
        for key in ("digest", "domains"):
            if getattr(first, key) != getattr(own, key):
                raise AnalysisError(
                    f"{run.folder / MANIFEST}: data {key!r} is {getattr(own, key)!r}, but {runs[0].folder / MANIFEST} "
                    f"has {getattr(first, key)!r}: the arms of a suite must share their data"
                )
        if runs[0].manifest.base.get("digest") != run.manifest.base.get("digest"):
            raise AnalysisError(
                f"{run.folder / MANIFEST}: the base's digest is not that of {runs[0].folder / MANIFEST}: the arms of a "
                "suite must start from one base"
            )
