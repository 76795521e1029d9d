"""LM losses at the last step on test, a run and an arm: always lm_loss, never a number with an auxiliary loss in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_emergence.analysis.records import Arm, Run, Suite


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run at its last step, on test.

    Attributes:
        status: `finished`, `stopped: <reason>`, or how far a run without a result came; its numbers are None then.
        parameters_total, parameters_active: in all, and used by one token (None where no receipt says so).
        lm_loss_macro: mean over domains, nats a token; `lm_loss_tokens` weighs each token the same.
        difference_to_dense: lm_loss_macro minus that of the dense run with the same seed, nats; below 0 is better.
        lm_loss, bits_per_byte: by domain.
    """

    arm: str
    seed: int
    status: str
    step: int | None = None
    tokens_trained: int | None = None
    parameters_total: int | None = None
    parameters_active: int | None = None
    lm_loss_macro: float | None = None
    lm_loss_tokens: float | None = None
    difference_to_dense: float | None = None
    lm_loss: Mapping[str, float | None]
    bits_per_byte: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm: means over its runs with a result (None where there is none).

    Attributes:
        changes: the fields in which it differs from `baseline`, with both values.
        runs: how many have a result; `runs_planned` how many the suite asks for.
        difference_to_dense: mean over the seeds that both arms have.
    """

    arm: str
    baseline: str | None
    changes: str
    runs: int
    runs_planned: int
    tokens_trained: float | None
    parameters_total: int | None
    parameters_active: int | None
    lm_loss_macro: float | None
    difference_to_dense: float | None
    lm_loss: Mapping[str, float | None]


def run_rows(suite: Suite) -> tuple[RunRow, ...]:
    """Every run of the suite, in its order, with and without a result."""
    found = {(run.arm, run.seed): _run_row(run, _dense_run(suite, run.seed)) for run in suite.runs}
    unknown: dict[str, float | None] = dict.fromkeys(suite.domains)
    for missing in suite.missing:
        found[missing.arm, missing.seed] = RunRow(
            arm=missing.arm, seed=missing.seed, status=missing.reason, lm_loss=unknown, bits_per_byte=unknown
        )
    return tuple(found[arm.name, seed] for arm in suite.arms for seed in suite.seeds)


def arm_rows(suite: Suite) -> tuple[ArmRow, ...]:
    """Every arm of the suite, in its order."""
    rows = run_rows(suite)
    return tuple(_arm_row(arm, [row for row in rows if row.arm == arm.name], suite.domains) for arm in suite.arms)


def _run_row(run: Run, dense: Run | None) -> RunRow:
    test, receipt = run.last_test, run.manifest.receipt
    return RunRow(
        arm=run.arm,
        seed=run.seed,
        status=run.reason if run.reason == "finished" else f"stopped: {run.reason}",
        step=run.last_step,
        tokens_trained=run.tokens_trained,
        parameters_total=run.manifest.parameters,
        parameters_active=_active_parameters(run, None if receipt is None else receipt.parameters_active),
        lm_loss_macro=test.lm_loss_macro,
        lm_loss_tokens=test.lm_loss_tokens,
        difference_to_dense=None if dense is None else test.lm_loss_macro - dense.last_test.lm_loss_macro,
        lm_loss=test.lm_loss,
        bits_per_byte=test.bits_per_byte,
    )


def _active_parameters(run: Run, recorded: int | None) -> int | None:
    return run.manifest.parameters if run.config.moe is None else recorded


def _dense_run(suite: Suite, seed: int) -> Run | None:
    return next((run for run in suite.runs if run.arm == suite.dense and run.seed == seed), None)


def _arm_row(arm: Arm, rows: list[RunRow], domains: tuple[str, ...]) -> ArmRow:
    with_result = [row for row in rows if row.lm_loss_macro is not None]
    first = with_result[0] if with_result else rows[0]
    return ArmRow(
        arm=arm.name,
        baseline=arm.baseline,
        changes="; ".join(f"{field}: {before} → {after}" for field, before, after in readable_changes(arm)),
        runs=len(with_result),
        runs_planned=len(rows),
        tokens_trained=mean(row.tokens_trained for row in with_result),
        parameters_total=first.parameters_total,
        parameters_active=first.parameters_active,
        lm_loss_macro=mean(row.lm_loss_macro for row in with_result),
        difference_to_dense=mean(row.difference_to_dense for row in with_result),
        lm_loss={domain: mean(row.lm_loss[domain] for row in with_result) for domain in domains},
    )


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None when there are none."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def readable_changes(arm: Arm) -> list[tuple[str, str, str]]:
    """(field, baseline's value, this arm's) of every field in which an arm differs, as text."""
    pairs = [(field, plain(before), plain(after)) for field, (before, after) in arm.changes.items()]
    return [(field, before, after) for field, before, after in pairs if before != after]


def plain(value: Any) -> str:
    """A JSON value as a reader would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
