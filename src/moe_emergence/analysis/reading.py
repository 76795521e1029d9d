"""Folders of suites and runs to their records. Nothing is repaired: what is missing or torn is an error that names file
and key."""

import dataclasses
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
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
from moe_emergence.config import RunConfig, flat, from_dict
from moe_emergence.errors import AnalysisError, ConfigError
from moe_emergence.training.run_directory import CONFIG, MANIFEST, METRICS, TIMINGS

SUITE = "suite.json"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAMING = ("name", "question", "seed")
"""Fields in which two arms' configurations differ without differing in what is trained."""


def read_suite(folder: Path) -> Suite:
    """The suite in `folder`, with every run that has ended; the others are named in `missing`.

    Raises:
        AnalysisError: a file or key is missing, torn or of the wrong kind, or two runs were made on different data.
    """
    if not (folder / SUITE).exists():
        raise AnalysisError(f"{folder} holds no {SUITE}: give a suite's folder, as in runs/quickstart")
    suite = read_json(folder / SUITE)
    arms = tuple(_arm(fields) for fields in suite.groups("arms"))
    seeds = suite.wholes("seeds")
    _refuse_empty_or_twice([arm.name for arm in arms], seeds, suite.where)
    found = [_read_run(folder / arm.name / f"seed-{seed}", arm.name, seed) for arm in arms for seed in seeds]
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


def read_given(folders: Sequence[Path], out: Path | None = None) -> Suite:
    """A suite's folder as `read_suite` reads it, or runs as if they were a suite of their own.

    Each name among the runs' configurations is an arm; they are compared with the first given. Results go to `out`;
    where it is None, to the folder of the suite or of the only run.

    Raises:
        AnalysisError: a folder is neither, a suite is given among others, several runs come without `out`, two are of
            the same arm and seed, or what `read_suite` refuses.
    """
    if len(folders) == 1 and (folders[0] / SUITE).exists():
        suite = read_suite(folders[0])
        return suite if out is None else dataclasses.replace(suite, folder=out)
    for folder in folders:
        if (folder / SUITE).exists():
            raise AnalysisError(f"{folder} is a suite: give one suite alone, or runs' folders")
        if not (folder / CONFIG).exists():
            raise AnalysisError(
                f"{folder} is neither a suite nor a run (no {SUITE} or {CONFIG} there): give a suite's folder, as in "
                "runs/quickstart, or runs' folders"
            )
    if len(folders) > 1 and out is None:
        raise AnalysisError(f"{len(folders)} runs given: say with --out where their common results are to go")
    return _runs_as_suite(folders, out or folders[0])


def _runs_as_suite(folders: Sequence[Path], out: Path) -> Suite:
    found: list[Run | MissingRun] = []
    configs: dict[str, RunConfig] = {}
    seeds: dict[int, None] = {}
    given: dict[tuple[str, int], Path] = {}
    for folder in folders:
        config = _config_in(folder / CONFIG)
        key = (config.name, config.seed)
        if key in given:
            raise AnalysisError(
                f"{given[key]} and {folder} are both {config.name!r} with seed {config.seed}: give runs of different "
                "name or seed (train takes --name and --seed)"
            )
        given[key] = folder
        configs.setdefault(config.name, config)
        seeds[config.seed] = None
        found.append(_read_run(folder, config.name, config.seed))
    runs = sorted((run for run in found if isinstance(run, Run)), key=lambda run: list(configs).index(run.arm))
    _refuse_different_data(tuple(runs))
    first = next(iter(configs))
    return Suite(
        folder=out,
        name=out.name,
        question=next((config.question for config in configs.values() if config.question), ""),
        arms=tuple(_arm_of(config, None if name == first else configs[first]) for name, config in configs.items()),
        seeds=tuple(seeds),
        command=shlex.join(["moe-emergence", "analyze", *map(str, folders)]),
        conclusive=True,
        note="",
        runs=tuple(runs),
        missing=tuple(run for run in found if isinstance(run, MissingRun)),
    )


def _arm_of(config: RunConfig, baseline: RunConfig | None) -> Arm:
    own, other = flat(config), {} if baseline is None else flat(baseline)
    changes = {
        field: (other.get(field), own.get(field))
        for field in dict.fromkeys([*other, *own])
        if baseline is not None and field not in _NAMING and own.get(field) != other.get(field)
    }
    name = None if baseline is None else baseline.name
    return Arm(name=config.name, question=config.question, changes=changes, baseline=name)


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


def _read_run(folder: Path, arm: str, seed: int) -> Run | MissingRun:
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


def _config_in(path: Path) -> RunConfig:
    try:
        return from_dict(read_json(path).values)
    except ConfigError as error:
        raise AnalysisError(f"{path}: {error}") from error


def _read_config(path: Path, arm: str, seed: int) -> RunConfig:
    config = _config_in(path)
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
