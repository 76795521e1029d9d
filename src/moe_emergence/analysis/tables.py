"""All tables of a suite, and their CSV files: one row a dataclass, one column a field."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_emergence.analysis.arm_verdicts import ArmVerdictRow, arm_verdict_rows
from moe_emergence.analysis.balance import RoutingRow, first_choice_rows, routing_rows
from moe_emergence.analysis.causal.effects import DoseRow, KnockoutRow
from moe_emergence.analysis.causal.regret import RegretRow
from moe_emergence.analysis.causal.retention import RetentionRow
from moe_emergence.analysis.causal.specialists import SpecialistRow
from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.causal.transplant import TransplantRow
from moe_emergence.analysis.coactivation import CoactivationRow
from moe_emergence.analysis.comparisons import (
    ArmLossRow,
    InformationDifferenceRow,
    LossDifferenceRow,
    arm_loss_rows,
    information_change_rows,
    information_difference_rows,
    loss_difference_rows,
)
from moe_emergence.analysis.costs import CostRow, cost_rows
from moe_emergence.analysis.equivalence import (
    EquivalenceRow,
    InformationEquivalenceRow,
    equivalence_rows,
    information_equivalence_rows,
)
from moe_emergence.analysis.evolution import (
    LoadPoint,
    LossPoint,
    RoutingPoint,
    load_points,
    loss_points,
    routing_points,
)
from moe_emergence.analysis.expert_measures import ExpertMeasureRow
from moe_emergence.analysis.files import replace_file
from moe_emergence.analysis.format_swaps import FormatSwapRow
from moe_emergence.analysis.hidden_states import GeometryRow
from moe_emergence.analysis.lift import LiftRow
from moe_emergence.analysis.locality import LocalityRow
from moe_emergence.analysis.losses import ArmRow, RunRow, arm_rows, run_rows
from moe_emergence.analysis.match_rows import MatchRow, seed_match_rows
from moe_emergence.analysis.measures import Progress, silent
from moe_emergence.analysis.onset import OnsetRow, onset_rows
from moe_emergence.analysis.oracle import OracleGainRow, oracle_gain_rows
from moe_emergence.analysis.origins import AuditRow, ReceiptRow, audit_rows, receipt_rows
from moe_emergence.analysis.paths import PathInformationRow, PathRow
from moe_emergence.analysis.records import Source, Suite
from moe_emergence.analysis.router_geometry import RouterGeometryRow
from moe_emergence.analysis.run_by_run import measures_of_runs
from moe_emergence.analysis.saturation import SaturationRow
from moe_emergence.analysis.scope import QUICK, Scope
from moe_emergence.analysis.scoreboard import ScoreRow
from moe_emergence.analysis.scores import suite_scores
from moe_emergence.analysis.shares import ShareRow, first_choice_share_rows, share_rows
from moe_emergence.analysis.similarity import PairRow, SimilarityRow
from moe_emergence.analysis.specialisation import InformationRow, VerdictRow, information_rows, verdict_rows
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.analysis.token_labels import probe_classes
from moe_emergence.analysis.token_rows import (
    ClassCoverageRow,
    ClassInformationRow,
    TokenClassRow,
    class_coverage_rows,
    class_information_rows,
    token_class_rows,
)
from moe_emergence.analysis.trace_checks import check_traces
from moe_emergence.analysis.traces import read_trace
from moe_emergence.analysis.vocabulary import CharacteristicTokenRow, VocabularyRow
from moe_emergence.data.blocks import PreparedData, load_prepared


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Every table that the report quotes or draws; the fields' names are those of the CSV files."""

    arm_verdicts: tuple[ArmVerdictRow, ...]
    verdicts: tuple[VerdictRow, ...]
    information: tuple[InformationRow, ...]
    information_changes: tuple[InformationDifferenceRow, ...]
    information_differences: tuple[InformationDifferenceRow, ...]
    arms: tuple[ArmRow, ...]
    arm_losses: tuple[ArmLossRow, ...]
    loss_differences: tuple[LossDifferenceRow, ...]
    runs: tuple[RunRow, ...]
    routing: tuple[RoutingRow, ...]
    first_choice_routing: tuple[RoutingRow, ...]
    shares: tuple[ShareRow, ...]
    first_choice_shares: tuple[ShareRow, ...]
    token_classes: tuple[TokenClassRow, ...]
    class_information: tuple[ClassInformationRow, ...]
    loss_over_steps: tuple[LossPoint, ...]
    entropy_over_steps: tuple[RoutingPoint, ...]
    load_over_steps: tuple[LoadPoint, ...]
    receipts: tuple[ReceiptRow, ...]
    sources: tuple[Source, ...]
    format_audit: tuple[AuditRow, ...]
    costs: tuple[CostRow, ...]
    oracle_gains: tuple[OracleGainRow, ...] = ()
    onset: tuple[OnsetRow, ...] = ()
    class_coverage: tuple[ClassCoverageRow, ...] = ()
    token_split: tuple[TokenSplitRow, ...] = ()
    lift: tuple[LiftRow, ...] = ()
    vocabulary: tuple[VocabularyRow, ...] = ()
    characteristic_tokens: tuple[CharacteristicTokenRow, ...] = ()
    saturation: tuple[SaturationRow, ...] = ()
    coactivation: tuple[CoactivationRow, ...] = ()
    path_information: tuple[PathInformationRow, ...] = ()
    paths: tuple[PathRow, ...] = ()
    locality: tuple[LocalityRow, ...] = ()
    similarity: tuple[SimilarityRow, ...] = ()
    expert_pairs: tuple[PairRow, ...] = ()
    router_geometry: tuple[RouterGeometryRow, ...] = ()
    hidden_states: tuple[GeometryRow, ...] = ()
    expert_measures: tuple[ExpertMeasureRow, ...] = ()
    matches: tuple[MatchRow, ...] = ()
    equivalence: tuple[EquivalenceRow, ...] = ()
    information_equivalence: tuple[InformationEquivalenceRow, ...] = ()
    knockouts: tuple[KnockoutRow, ...] = ()
    specificity: tuple[SpecificityRow, ...] = ()
    specialists: tuple[SpecialistRow, ...] = ()
    doses: tuple[DoseRow, ...] = ()
    regret: tuple[RegretRow, ...] = ()
    retention: tuple[RetentionRow, ...] = ()
    transplants: tuple[TransplantRow, ...] = ()
    format_swaps: tuple[FormatSwapRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    scope: tuple[Scope, ...] = ()


def make_tables(suite: Suite, progress: Progress = silent, scope: Scope = QUICK, workers: int = 1) -> Tables:
    """Compute every table once; `progress` is told of what takes long. What `scope` leaves out has no rows; `workers`
    processes measure runs side by side.

    Raises:
        AnalysisError: the records lack something that a table needs; names file and key.
    """
    last = {(run.arm, run.seed): read_trace(run, run.last_step) for run in suite.runs}
    routed = [trace for trace in last.values() if trace.layers]
    data = prepared(suite) if routed else None
    for run in suite.runs:
        check_traces(run, data)
    classes = probe_classes(data, routed[0]) if data is not None else {}
    measures = measures_of_runs(suite.runs, data, progress, scope, workers) if data is not None else {}
    draws = measures.pop("specificity_draws", [])
    information = information_rows(suite)
    return Tables(
        arm_verdicts=arm_verdict_rows(suite, information, last, draws),
        verdicts=verdict_rows(suite, information, measures.get("specificity", ())),
        information=information,
        information_changes=information_change_rows(suite, last),
        information_differences=information_difference_rows(suite, last),
        arms=arm_rows(suite),
        arm_losses=arm_loss_rows(suite),
        loss_differences=loss_difference_rows(suite),
        runs=run_rows(suite),
        routing=routing_rows(suite),
        first_choice_routing=first_choice_rows(suite),
        shares=share_rows(suite, last),
        first_choice_shares=first_choice_share_rows(suite, last),
        token_classes=token_class_rows(suite, last, classes),
        class_information=class_information_rows(suite, last, classes),
        loss_over_steps=loss_points(suite),
        entropy_over_steps=routing_points(suite),
        load_over_steps=load_points(suite),
        receipts=receipt_rows(suite),
        sources=suite.runs[0].manifest.data.sources if suite.runs else (),
        format_audit=audit_rows(suite),
        costs=cost_rows(suite),
        oracle_gains=oracle_gain_rows(suite),
        onset=onset_rows(information),
        class_coverage=class_coverage_rows(classes),
        matches=seed_match_rows(suite, last),
        equivalence=equivalence_rows(suite),
        information_equivalence=information_equivalence_rows(suite, last),
        scores=suite_scores(measures),
        scope=(scope,),
        **{name: tuple(rows) for name, rows in measures.items()},
    )


def prepared(suite: Suite) -> PreparedData:
    """The data that the suite's runs were made with, from its folder or that of a run, alone or in a suite.

    Raises:
        DataError: it is not there or has changed; the suite's command makes it again.
    """
    name = suite.runs[0].manifest.data.digest[:16]
    folders = (suite.folder, *(folder for run in suite.runs for folder in (run.folder, run.folder.parent.parent)))
    places = [folder / "data" / name for folder in folders]
    return load_prepared(next((place for place in places if place.is_dir()), places[0]))


def write_csv(tables: Tables, folder: Path) -> None:
    """`<table>.csv` in `folder` for every table."""
    for field in dataclasses.fields(tables):
        replace_file(folder / f"{field.name}.csv", csv_text(getattr(tables, field.name)))


def csv_text(rows: Sequence[Any]) -> str:
    """Rows as CSV with a header; empty without rows."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    cells = [row_cells(row) for row in rows]
    writer.writerows([list(cells[0])] if cells else [])
    writer.writerows([list(row.values()) for row in cells])
    return file.getvalue()


def row_cells(row: Any) -> dict[str, str]:
    """Column to exact text; a field that is a mapping becomes one column a key, `field:key`."""
    cells: dict[str, str] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        entries: Iterable[tuple[str, Any]] = (
            [(f"{field.name}:{key}", item) for key, item in value.items()]
            if isinstance(value, Mapping)
            else [(field.name, value)]
        )
        cells.update({name: cell_text(item) for name, item in entries})
    return cells


def cell_text(value: Any) -> str:
    """A value as CSV holds it: floats in full, an absent one empty, several separated by spaces."""
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
