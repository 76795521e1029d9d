"""Tables of a suite with hand-made measures: what was planted is what sentences and figures must say."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from moe_emergence.analysis.arm_verdicts import ArmVerdictRow
from moe_emergence.analysis.balance import first_choice_rows, routing_rows
from moe_emergence.analysis.comparisons import (
    ArmLossRow,
    InformationDifferenceRow,
    LossDifferenceRow,
)
from moe_emergence.analysis.costs import cost_rows
from moe_emergence.analysis.evolution import load_points, loss_points, routing_points
from moe_emergence.analysis.losses import arm_rows, run_rows
from moe_emergence.analysis.onset import onset_rows
from moe_emergence.analysis.oracle import oracle_gain_rows
from moe_emergence.analysis.origins import audit_rows, receipt_rows
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.specialisation import LEARNED, NOT_LEARNED, InformationRow, VerdictRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import ClassInformationRow, TokenClassRow
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.pictures import Picture

CLASSES = ("keyword", "identifier", "number", "string", "operator", "comment", "whitespace", "other")
FRESH = (0.03, 0.055)
"""Share of H(D) that fresh gates show; a planted share above the second is learned: every layer has an expert that
matters to its domain."""
Shares = Mapping[tuple[str, int, int], float]
"""(arm, seed, layer) to the share of H(D) at the last step; others have 0.04, which fresh gates reach."""


def row_of(kind: type, **known: Any) -> Any:
    """A row with the values that matter, 0 in other numbers and empty in other texts."""
    fill = {"int": 0, "float": 0.0, "str": "", "float | None": None}
    values = {
        field.name: known.get(field.name, fill.get(getattr(field.type, "__name__", str(field.type)), 0.0))
        for field in dataclasses.fields(kind)
    }
    return kind(**values)


def planted_tables(suite: Suite, shares: Shares | None = None, half: float = 0.004) -> Tables:
    """The suite's tables with planted measures; every loss difference has an interval of ± `half` nats."""
    shares = shares or {}
    runs = [run for run in suite.runs if run.config.moe is not None]
    cells = tuple(row for run in runs for row in _shares(run, "slots" if run.config.moe.top_k > 1 else "first choice"))
    two = [run for run in runs if run.config.moe.top_k > 1]
    information = tuple(row for run in runs for row in _information(suite, run, shares))
    return Tables(
        information=information,
        onset=onset_rows(information),
        oracle_gains=oracle_gain_rows(suite),
        arm_verdicts=tuple(_arm_verdicts(suite, shares)),
        verdicts=tuple(row for run in runs for row in _verdicts(suite, run, shares)),
        information_changes=tuple(_information_changes(suite, shares)),
        information_differences=tuple(_information_differences(suite, shares)),
        arms=arm_rows(suite),
        arm_losses=tuple(_arm_losses(suite)),
        loss_differences=tuple(_loss_differences(suite, half)),
        runs=run_rows(suite),
        routing=routing_rows(suite),
        first_choice_routing=first_choice_rows(suite),
        shares=cells,
        first_choice_shares=tuple(row for run in two for row in _shares(run, "first choice")),
        token_classes=tuple(row for run in runs for row in _token_classes(run)),
        class_information=tuple(row for run in runs for row in (*_class_information(run, 0), *_class_information(run))),
        loss_over_steps=loss_points(suite),
        entropy_over_steps=routing_points(suite),
        load_over_steps=load_points(suite),
        receipts=receipt_rows(suite),
        sources=suite.runs[0].manifest.data.sources if suite.runs else (),
        format_audit=audit_rows(suite),
        costs=cost_rows(suite),
    )


def _shares(run: Run, counted: str):
    """The recorded shares of the last test evaluation, with an interval of ± a tenth of each."""
    for layer in run.last_test.routing:
        counts = layer.assignments if counted == "slots" else layer.first_choice
        for domain, row in zip(run.manifest.data.domains, counts, strict=True):
            for expert, number in enumerate(row):
                share = float(number / row.sum())
                yield ShareRow(
                    arm=run.arm, seed=run.seed, step=run.last_step, layer=layer.layer, counted=counted, domain=domain,
                    documents=60, expert=expert, assignments=int(number), share=share, low=0.9 * share,
                    high=1.1 * share, uniform=1 / len(row),
                )  # fmt: skip


def share_of(run: Run, layer: int, shares: Shares) -> float:
    return shares.get((run.arm, run.seed, layer), 0.04)


def _information(suite: Suite, run: Run, shares: Shares):
    bits = math.log2(len(suite.domains)) if len(suite.domains) > 1 else 0.0
    steps = sorted({look.step for look in run.evaluations})
    for step in steps:
        for layer in run.manifest.moe_layers:
            share = 0.035 + (share_of(run, layer, shares) - 0.035) * (step / run.last_step) ** 0.5
            ends = step in (steps[0], steps[-1])
            yield InformationRow(
                arm=run.arm, seed=run.seed, step=step, layer=layer, counted="first choice",
                documents=240, tokens=27_000, maximum=bits,
                plug_in=(share + 0.002) * bits, null_mean=0.002 * bits, null_low=0.001 * bits, null_high=0.004 * bits,
                estimate=(share - 0.001) * bits, corrected=share * bits,
                low=(share - 0.006) * bits, high=(share + 0.006) * bits,
                estimate_share=share - 0.001 if bits else 0.0, low_share=share - 0.006, high_share=share + 0.006,
                p_permutation=0.005,
                fresh_mean=0.042 * bits if ends else None,
                fresh_low=(FRESH[0] + 0.002) * bits if ends else None,
                fresh_high=(FRESH[1] + 0.002) * bits if ends else None,
                p_fresh=0.005 if ends else None,
            )  # fmt: skip


def _verdicts(suite: Suite, run: Run, shares: Shares):
    bits = math.log2(len(suite.domains))
    for layer in run.manifest.moe_layers:
        share = share_of(run, layer, shares)
        learned = share > FRESH[1]
        p = 0.005 if learned else 0.8
        yield VerdictRow(
            arm=run.arm, seed=run.seed, layer=layer, information=(share + 0.002) * bits, p_permutation=0.002,
            p_fresh_end=p, p_fresh_start=p, fresh_end_high=FRESH[1] * bits, fresh_start_high=FRESH[1] * bits,
            p_specific=0.002,
            verdict=LEARNED if learned else NOT_LEARNED,
        )  # fmt: skip


def _arm_verdicts(suite: Suite, shares: Shares):
    """An arm has learned where the mean of its seeds is above what fresh gates show."""
    bits = math.log2(len(suite.domains)) if len(suite.domains) > 1 else 0.0
    for arm in suite.arms:
        runs = _moe_runs(suite, arm.name)
        for layer in runs[0].manifest.moe_layers if runs else ():
            of_seeds = [share_of(run, layer, shares) for run in runs]
            share = sum(of_seeds) / len(of_seeds)
            learned = share > FRESH[1]
            p = 0.005 if learned else 0.8
            yield ArmVerdictRow(
                arm=arm.name, layer=layer, seeds=len(runs), documents=240, maximum=bits,
                plug_in=(share + 0.002) * bits, null_low=0.001 * bits, null_high=0.004 * bits,
                corrected=share * bits, low=(share - 0.006) * bits, high=(share + 0.006) * bits,
                corrected_share=share, low_share=share - 0.006, high_share=share + 0.006,
                seed_low=min(of_seeds) * bits, seed_high=max(of_seeds) * bits,
                lowest_seed=runs[0].seed, highest_seed=runs[-1].seed,
                fresh_low=(FRESH[0] + 0.002) * bits, fresh_high=(FRESH[1] + 0.002) * bits,
                fresh_start_high=(FRESH[1] + 0.001) * bits,
                p_permutation=0.002, p_fresh_end=p, p_fresh_start=p, p_specific=0.002,
                p_permutation_arms=0.004, p_fresh_end_arms=p, p_fresh_start_arms=p, p_specific_arms=0.003,
                verdict=LEARNED if learned else NOT_LEARNED,
            )  # fmt: skip


def _information_changes(suite: Suite, shares: Shares):
    """From the 3.5 % at which every planted run begins."""
    bits = math.log2(len(suite.domains)) if len(suite.domains) > 1 else 0.0
    for arm in suite.arms:
        runs = _moe_runs(suite, arm.name)
        for layer in runs[0].manifest.moe_layers if runs else ():
            gaps = [share_of(run, layer, shares) - 0.035 for run in runs]
            gap = sum(gaps) / len(gaps)
            yield InformationDifferenceRow(
                arm=arm.name, against=arm.name, layer=layer, seeds=len(gaps), step=runs[0].last_step, against_step=0,
                documents=60,
                difference=gap * bits, low=(gap - 0.01) * bits, high=(gap + 0.01) * bits,
                share=gap, low_share=gap - 0.01, high_share=gap + 0.01,
                seed_low=min(gaps) * bits, seed_high=max(gaps) * bits,
                seed_low_share=min(gaps), seed_high_share=max(gaps),
                p=0.02, p_holm=0.04 if abs(gap) > 0.01 else 0.3,
            )  # fmt: skip


def _information_differences(suite: Suite, shares: Shares):
    with_experts = {arm.name: runs for arm in suite.arms if (runs := _moe_runs(suite, arm.name))}
    for arm in suite.arms:
        if arm.name not in with_experts or arm.baseline not in with_experts:
            continue
        ours, theirs = with_experts[arm.name], with_experts[arm.baseline]
        for layer in ours[0].manifest.moe_layers:
            gaps = [share_of(a, layer, shares) - share_of(b, layer, shares) for a, b in zip(ours, theirs, strict=True)]
            gap, bits = sum(gaps) / len(gaps), math.log2(len(suite.domains))
            yield InformationDifferenceRow(
                arm=arm.name, against=arm.baseline, layer=layer, seeds=len(gaps), documents=60,
                step=ours[0].last_step, against_step=theirs[0].last_step,
                difference=gap * bits, low=(gap - 0.01) * bits, high=(gap + 0.01) * bits,
                share=gap, low_share=gap - 0.01, high_share=gap + 0.01,
                seed_low=min(gaps) * bits, seed_high=max(gaps) * bits,
                seed_low_share=min(gaps), seed_high_share=max(gaps), p=0.02, p_holm=0.04 if abs(gap) > 0.01 else 0.3,
            )  # fmt: skip


def _moe_runs(suite: Suite, arm: str) -> list[Run]:
    return [run for run in suite.runs_of(arm) if run.config.moe is not None]


def _domains(suite: Suite) -> list[str | None]:
    return [None, *suite.domains]


def _loss(run: Run, domain: str | None) -> float:
    return run.last_test.lm_loss_macro if domain is None else run.last_test.lm_loss[domain]


def _arm_losses(suite: Suite):
    for arm in suite.arms:
        runs = suite.runs_of(arm.name)
        for domain in _domains(suite) if runs else []:
            mean = sum(_loss(run, domain) for run in runs) / len(runs)
            yield ArmLossRow(
                arm=arm.name, domain=domain, seeds=len(runs), documents=60,
                lm_loss=mean, low=mean - 0.03, high=mean + 0.03,
            )  # fmt: skip


def _loss_differences(suite: Suite, half: float):
    for arm in suite.arms:
        for against in dict.fromkeys((suite.dense, arm.baseline)):
            ours = {run.seed: run for run in suite.runs_of(arm.name)}
            theirs = {run.seed: run for run in suite.runs_of(against or "")}
            seeds = [seed for seed in ours if seed in theirs]
            if against is None or against == arm.name or not seeds:
                continue
            for domain in _domains(suite):
                gaps = [_loss(ours[seed], domain) - _loss(theirs[seed], domain) for seed in seeds]
                gap = sum(gaps) / len(gaps)
                yield LossDifferenceRow(
                    arm=arm.name, against=against, domain=domain, seeds=len(seeds), documents=60,
                    step=ours[seeds[0]].last_step, against_step=theirs[seeds[0]].last_step,
                    difference=gap, low=gap - half, high=gap + half, seed_low=min(gaps), seed_high=max(gaps),
                    p=0.02, p_holm=0.04 if abs(gap) > half else 0.3,
                )  # fmt: skip


def _token_classes(run: Run):
    experts = run.config.moe.num_experts
    for layer in run.manifest.moe_layers:
        for number, name in enumerate(CLASSES):
            counts = (
                [100 + 40 * ((number + expert) % experts) for expert in range(experts)]
                if name != "other"
                else [0] * experts
            )
            for expert in range(experts):
                yield TokenClassRow(
                    arm=run.arm, seed=run.seed, layer=layer, counted="first choice", domain="code",
                    scheme="Python", token_class=name,
                    expert=expert, assignments=counts[expert], share=counts[expert] / max(1, sum(counts)),
                    uniform=1 / experts,
                )  # fmt: skip


def _class_information(run: Run, step: int | None = None):
    """At the last step; before training a third less."""
    step = run.last_step if step is None else step
    for layer in run.manifest.moe_layers:
        bits = (0.2 + 0.1 * layer) * (1 if step else 2 / 3)
        yield ClassInformationRow(
            arm=run.arm, seed=run.seed, step=step, layer=layer, counted="first choice", domain="code",
            scheme="Python", documents=80, tokens=9000,
            maximum=2.4, plug_in=bits + 0.01, null_mean=0.01, null_low=0.005, null_high=0.02,
            estimate=bits, low=bits - 0.02, high=bits + 0.02, p=0.005,
        )  # fmt: skip


def undrawn():
    """Pages without their figures, which take seconds."""
    return patch("moe_emergence.report.page.keep", without_a_picture)


def without_a_picture(drawing: Drawing, folder: Path) -> Picture:
    return Picture(
        name=drawing.name,
        section=drawing.section,
        title=drawing.title,
        reading=drawing.reading,
        tables=drawing.tables,
        source="data:,",
        width=9,
        height=9,
    )
