"""Folders of suites and runs to their records. Nothing is repaired: what is missing or torn is an error that names file
and key, but for the last line of a record that is still being written."""

import dataclasses
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
from moe_emergence.analysis.traces import traced_steps
from moe_emergence.config import RunConfig, flat, from_dict
from moe_emergence.errors import AnalysisError, ConfigError
from moe_emergence.training.run_directory import CONFIG, MANIFEST, METRICS, TIMINGS

SUITE = "suite.json"
GOING = "going"
"""Why a run that has begun and not ended stopped: it did not, as far as its records tell."""
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAMING = ("name", "question", "seed")
"""Fields in which two arms' configurations differ without differing in what is trained."""


def read_suite(folder: Path) -> Suite:
    """The suite in `folder`, with every run that has ended; the others are named in `missing`, and those that have a
    trace are in `going` too, as far as their records go.

    Raises:
        AnalysisError: a file or key is missing, torn or of the wrong kind, or two runs were made on different data.
    """
    if not (folder / SUITE).exists():
        raise AnalysisError(f"{folder} holds no {SUITE}: give a suite's folder, as in runs/quickstart")
    suite = read_json(folder / SUITE)
    arms = tuple(_arm(fields) for fields in suite.groups("arms"))
    seeds = suite.wholes("seeds")
    _refuse_empty_or_twice([arm.name for arm in arms], seeds, suite.where)
    places = [(folder / arm.name / f"seed-{seed}", arm.name, seed) for arm in arms for seed in seeds]
    runs, going, missing = _divided([_read_run(*place) for place in places])
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
        missing=missing,
        going=going,
    )


def read_given(folders: Sequence[Path], out: Path | None = None) -> Suite:
    """A suite's folder as `read_suite` reads it, or runs as if they were a suite of their own.

    Each name among the runs' configurations is an arm; they are compared with the first given. Results go to `out`;
    where it is None, to the folder of the suite or of the only run.

    Raises:
        AnalysisError: a folder is neither, a suite is given among others, several runs come without `out`, two are of
            the same arm and seed, `out` is a suite's folder and these are not all of its runs, or what `read_suite`
            refuses.
    """
    if out is not None:
        _refuse_others_in_place_of_a_suite(folders, out)
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


def _refuse_others_in_place_of_a_suite(folders: Sequence[Path], out: Path) -> None:
    """Results of other runs, or of some, must not take the place of those of a suite."""
    if not (out / SUITE).exists() or {folder.resolve() for folder in folders} == {out.resolve()}:
        return
    suite = read_json(out / SUITE)
    arms = [_arm(fields).name for fields in suite.groups("arms")]
    own = {(out / arm / f"seed-{seed}").resolve() for arm in arms for seed in suite.wholes("seeds")}
    if own != {folder.resolve() for folder in folders}:
        raise AnalysisError(
            f"--out {out} is a suite of {len(own)} runs, and {', '.join(map(str, folders))} are not these: their "
            "results would take the place of the suite's; give another folder to --out"
        )


def _runs_as_suite(folders: Sequence[Path], out: Path) -> Suite:
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
    by_arm = sorted(given.items(), key=lambda item: list(configs).index(item[0][0]))
    runs, going, missing = _divided([_read_run(folder, *key) for key, folder in by_arm])
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
        runs=runs,
        missing=missing,
        going=going,
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What is there of a run: `run` alone has ended, `missing` alone has nothing to show, both are still going."""

    run: Run | None = None
    missing: MissingRun | None = None


def _divided(found: Sequence[_Found]) -> tuple[tuple[Run, ...], tuple[Run, ...], tuple[MissingRun, ...]]:
    """Runs that have ended, those still going, and all without a result."""
    runs = tuple(one.run for one in found if one.run is not None and one.missing is None)
    going = tuple(one.run for one in found if one.run is not None and one.missing is not None)
    _refuse_different_data((*runs, *going))
    return runs, going, tuple(one.missing for one in found if one.missing is not None)


def _read_run(folder: Path, arm: str, seed: int) -> _Found:
    if not (folder / CONFIG).exists() and not (folder / METRICS).exists():
        return _Found(missing=MissingRun(arm=arm, seed=seed, reason="not started"))
    config = _read_config(folder / CONFIG, arm, seed)
    if not (folder / METRICS).exists():
        reason = f"nothing recorded of its {config.training.steps} steps"
        return _Found(missing=MissingRun(arm=arm, seed=seed, reason=reason))
    lines: dict[str, list[Fields]] = defaultdict(list)
    for line in read_lines(folder / METRICS):
        lines[line.text("event")].append(line)
    if not lines["end"]:
        return _unfinished(folder, config, lines)
    end = lines["end"][-1]
    return _Found(run=_run(folder, config, lines, end.whole("step"), end.text("reason")))


def _unfinished(folder: Path, config: RunConfig, lines: Mapping[str, list[Fields]]) -> _Found:
    """A run without an end, with what there is of it once it has a trace."""
    last = max((line.whole("step") for line in lines["step"]), default=0)
    reason = f"unfinished: recorded up to step {last} of {config.training.steps}"
    going = None
    traces = [step for step in traced_steps(folder) if step <= last]
    if traces:
        try:
            going = _run(folder, config, lines, traces[-1], GOING)
        except AnalysisError as error:  # the suite's other runs are to be had without it
            reason += f", and cannot be shown: {str(error).replace(f'{folder}/', '')}"
    return _Found(run=going, missing=MissingRun(arm=config.name, seed=config.seed, reason=reason))


def _run(folder: Path, config: RunConfig, lines: Mapping[str, list[Fields]], last_step: int, reason: str) -> Run:
    manifest = read_manifest(read_json(folder / MANIFEST))
    steps, scalars = read_columns(lines["step"])
    return Run(
        arm=config.name,
        seed=config.seed,
        folder=folder,
        config=config,
        manifest=manifest,
        steps=steps,
        scalars=scalars,
        evaluations=tuple(read_evaluation(line, manifest, config) for line in lines["evaluation"]),
        collapses=tuple(read_collapse(line) for line in lines["collapse"]),
        skipped=tuple(read_skipped(line) for line in lines["skipped"]),
        timings=tuple(read_timing(line) for line in read_lines(folder / TIMINGS)),
        last_step=last_step,
        reason=reason,
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
