"""Everything that is measured of one run with experts: over its traces, at both ends, and by running its model."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from moe_emergence.analysis.causal.tables import CausalTables, causal_tables
from moe_emergence.analysis.coactivation import coactivation_rows
from moe_emergence.analysis.expert_measures import expert_measure_rows
from moe_emergence.analysis.format_swaps import format_swap_rows
from moe_emergence.analysis.hidden_states import dense_hidden_states, geometry_rows
from moe_emergence.analysis.lift import lift_rows
from moe_emergence.analysis.locality import locality_rows
from moe_emergence.analysis.paths import path_information_rows, path_rows
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.router_geometry import router_geometry_rows
from moe_emergence.analysis.saturation import saturation_rows
from moe_emergence.analysis.scope import QUICK, SNAPSHOT_INTERVENTIONS, Scope
from moe_emergence.analysis.similarity import pair_rows, similarity_rows
from moe_emergence.analysis.token_information import token_split_rows
from moe_emergence.analysis.token_labels import probe_labels
from moe_emergence.analysis.traces import read_trace, read_traces, snapshot_steps, trace_steps
from moe_emergence.analysis.vocabulary import characteristic_token_rows, vocabulary_rows
from moe_emergence.analysis.weights import model_at
from moe_emergence.data.blocks import PreparedData
from moe_emergence.models.base import load_base
from moe_emergence.training.checkpoint import newest_checkpoint
from moe_emergence.training.trace import trace_name
from moe_emergence.training.trained import silence_transformers

Measures = dict[str, list[Any]]
"""Name of a table to its rows."""
Progress = Callable[[str, int, int], None]
"""Told what is being measured, and how much of it is done."""


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def run_measures(run: Run, data: PreparedData, progress: Progress = silent, scope: Scope = QUICK) -> Measures:
    """The tables of one run; none for a run without experts. What `scope` leaves out has no rows.

    Raises:
        AnalysisError: a trace is missing, torn or of another run; names the file.
    """
    found: Measures = {}
    if run.manifest.moe_layers:
        name = f"{run.arm}, seed {run.seed}"
        _collect(found, _over_traces(run, lambda done, total: progress(f"{name}: traces", done, total)))
        _collect(found, _at_both_ends(run, data))
        told = partial(progress, f"{name}: causal tests")
        _collect(found, _by_the_model(run, data, scope, told))
    return found


def _collect(found: Measures, tables: Iterable[tuple[str, Iterable[Any]]]) -> None:
    for name, rows in tables:
        found.setdefault(name, []).extend(rows)


def _over_traces(run: Run, progress: Callable[[int, int], None]) -> Iterator[tuple[str, Iterable[Any]]]:
    """What is followed from step to step, one trace held at a time beside the last and the one before."""
    steps, last, before = trace_steps(run), read_trace(run, run.last_step), None
    for place, trace in enumerate(read_traces(run)):
        progress(place, len(steps))
        yield "lift", lift_rows(run, trace)
        yield "similarity", similarity_rows(run, trace)
        yield "router_geometry", router_geometry_rows(run, trace)
        yield "expert_measures", expert_measure_rows(run, trace)
        yield "saturation", saturation_rows(run, trace, last, "final")
        if before is not None:
            yield "saturation", saturation_rows(run, trace, before, "previous")
        before = trace
    progress(len(steps), len(steps))
    yield "expert_pairs", pair_rows(run, last)


def _at_both_ends(run: Run, data: PreparedData) -> Iterator[tuple[str, Iterable[Any]]]:
    """What takes many tokens or much time: at the first and the last step, on the wide probe where there is one."""
    for step in dict.fromkeys((0, run.last_step)):
        wide = data.wide is not None  # never of one end alone: what is compared would differ in its tokens
        trace = read_trace(run, step, wide=wide)
        probe = data.wide if wide else data.probe
        yield "token_split", token_split_rows(run, trace)
        for x, labels in probe_labels(data, trace, probe).items():
            yield "token_split", token_split_rows(run, trace, labels.astype(np.int64), x)
        yield "vocabulary", vocabulary_rows(run, trace)
        yield "coactivation", coactivation_rows(run, trace)
        yield "path_information", path_information_rows(run, trace)
        yield "locality", locality_rows(run, trace)
        if step == run.last_step:
            yield "characteristic_tokens", characteristic_token_rows(run, trace)
            yield "paths", path_rows(run, trace)


def _by_the_model(
    run: Run, data: PreparedData, scope: Scope, progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Iterable[Any]]]:
    """What takes a forward: the dense model's hidden states, texts in another format, experts taken away. Nothing of a
    run whose checkpoints were deleted (`report.statements` says so), nor of an oracle, whose experts were dealt out."""
    routed_by_domain = run.config.moe is not None and run.config.moe.router == "domain"
    if routed_by_domain or newest_checkpoint(run.folder / "checkpoints") is None:
        return
    yield "hidden_states", _geometry(run, data)
    yield "format_swaps", format_swap_rows(run, data, model_at(run, run.last_step))
    yield from _causal(
        causal_tables(run, data, interventions=scope.interventions, parts=scope.parts, progress=progress)
    )
    for step in snapshot_steps(run) if scope.earlier_steps else ():
        if step != run.last_step:
            yield from _causal(
                causal_tables(
                    run,
                    data,
                    weights=run.folder / "snapshots" / trace_name(step),
                    step=step,
                    interventions=SNAPSHOT_INTERVENTIONS,
                    parts=("knockout",),
                    progress=progress,
                )
            )


def _causal(tables: CausalTables) -> Iterator[tuple[str, Iterable[Any]]]:
    yield from vars(tables).items()


def _geometry(run: Run, data: PreparedData) -> Iterator[Any]:
    layers = run.manifest.moe_layers
    silence_transformers()
    states = dense_hidden_states(load_base(run.config.base).model, data.probe, layers)
    return geometry_rows(run, read_trace(run, run.last_step), states)
