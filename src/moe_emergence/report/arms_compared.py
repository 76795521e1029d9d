"""The arms side by side: what each came to, with intervals, how it balanced, how fast it was and how large it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from moe_emergence.analysis.losses import ArmRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import numbers as n
from moe_emergence.report.shown import Column, PageTable, make_table

ARMS_TITLE = "The arms on test at the last step; LM loss in nats a token"
"""Where intervals are not shown."""


@dataclass(frozen=True, kw_only=True)
class ArmComparisonRow:
    """One arm, means over its seeds (None where there is no result, no interval, or no expert).

    Attributes:
        lm_loss_macro, lm_loss: on test at the last step, nats a token: mean of domains, and a domain; …_low, …_high:
            95 % over documents.
        difference_to_dense: lm_loss_macro minus the dense arm's, with its interval.
        max_violation: the largest over layers and seeds: 0 at balance, E/k − 1 at collapse.
        effective_experts: the smallest over layers and seeds, k..E; experts: E.
        dead: the most dead experts of a layer.
        tokens_per_second: of training, median over seeds.
    """

    arm: str
    runs: int
    lm_loss_macro: float | None
    lm_loss_macro_low: float | None
    lm_loss_macro_high: float | None
    difference_to_dense: float | None
    difference_low: float | None
    difference_high: float | None
    lm_loss: Mapping[str, float | None]
    lm_loss_low: Mapping[str, float | None]
    lm_loss_high: Mapping[str, float | None]
    max_violation: float | None
    effective_experts: float | None
    experts: int | None
    dead: int | None
    tokens_trained: float | None
    tokens_per_second: float | None
    parameters_total: int | None
    parameters_active: int | None


def arms_compared(suite: Suite, tables: Tables) -> list[ArmComparisonRow]:
    """One row an arm, in the suite's order."""
    return [_row(suite, tables, row) for row in tables.arms]


def _row(suite: Suite, tables: Tables, arm: ArmRow) -> ArmComparisonRow:
    losses = {row.domain: row for row in tables.arm_losses if row.arm == arm.arm}
    gap = next(
        (row for row in tables.loss_differences if (row.arm, row.against, row.domain) == (arm.arm, suite.dense, None)),
        None,
    )
    routing = [row for row in tables.routing if row.arm == arm.arm]
    speeds = [r.tokens_per_second for r in tables.costs if r.arm == arm.arm and r.tokens_per_second is not None]
    macro = losses.get(None)
    return ArmComparisonRow(
        arm=arm.arm,
        runs=arm.runs,
        lm_loss_macro=arm.lm_loss_macro,
        lm_loss_macro_low=macro.low if macro else None,
        lm_loss_macro_high=macro.high if macro else None,
        difference_to_dense=arm.difference_to_dense,
        difference_low=gap.low if gap else None,
        difference_high=gap.high if gap else None,
        lm_loss=dict(arm.lm_loss),
        lm_loss_low={domain: losses[domain].low if domain in losses else None for domain in arm.lm_loss},
        lm_loss_high={domain: losses[domain].high if domain in losses else None for domain in arm.lm_loss},
        max_violation=max((row.max_violation for row in routing), default=None),
        effective_experts=min((row.effective_experts for row in routing), default=None),
        experts=routing[0].experts if routing else None,
        dead=max((len(row.dead) for row in routing), default=None),
        tokens_trained=arm.tokens_trained,
        tokens_per_second=median(speeds) if speeds else None,
        parameters_total=arm.parameters_total,
        parameters_active=arm.parameters_active,
    )


def arms_table(suite: Suite, tables: Tables) -> PageTable:
    """LM loss with intervals, balance, tokens, speed and parameters an arm."""
    columns = [
        Column(title="arm", field="arm"),
        _with_ends("LM loss, mean of domains", "lm_loss_macro", "lm_loss_macro_low", "lm_loss_macro_high"),
        *_difference_columns(suite),
        *(
            _with_ends(domain, f"lm_loss:{domain}", f"lm_loss_low:{domain}", f"lm_loss_high:{domain}")
            for domain in suite.domains
        ),
        Column(title="max violation, worst layer", field="max_violation", show=n.decimal),
        Column(title="effective experts, worst layer", field="effective_experts", show=n.decimal),
        Column(title="of", field="experts", show=n.count),
        Column(title="dead experts, worst layer", field="dead", show=n.count),
        Column(title="tokens a second, machine as it was", field="tokens_per_second", show=n.count),
        Column(title="tokens trained", field="tokens_trained", show=n.count),
        Column(title="parameters", field="parameters_total", show=n.count),
        Column(title="used by a token", field="parameters_active", show=n.count),
        Column(title="runs", field="runs", show=n.count),
    ]
    title = f"{ARMS_TITLE}, with 95 % intervals over documents" if tables.arm_losses else ARMS_TITLE
    return make_table("arms_compared", title, arms_compared(suite, tables), _worth_showing(columns, tables))


def _with_ends(title: str, field: str, low: str, high: str) -> Column:
    return Column(title=title, field=field, show=n.loss, ends=(low, high))


def _difference_columns(suite: Suite) -> list[Column]:
    compared = suite.dense is not None and len(suite.arms) > 1
    ends = ("difference_low", "difference_high")
    return (
        [Column(title=f"minus {suite.dense}", field="difference_to_dense", show=n.difference, ends=ends)]
        if compared
        else []
    )


def _worth_showing(columns: Sequence[Column], tables: Tables) -> list[Column]:
    """Without those of balance, in a suite without experts."""
    balance = {"max_violation", "effective_experts", "experts", "dead"}
    return [column for column in columns if tables.routing or column.field not in balance]
