"""Every table of the page; here those of runs, data and costs."""

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import numbers as n
from moe_emergence.report.arms_compared import arms_table
from moe_emergence.report.evidence_tables import evidence_tables
from moe_emergence.report.measure_tables import measure_tables
from moe_emergence.report.routing_tables import routing_tables
from moe_emergence.report.scale_tables import scale_tables
from moe_emergence.report.shown import Column, PageTable, make_table


def page_tables(suite: Suite, tables: Tables) -> dict[str, PageTable]:
    """Every table of the page by its name."""
    made = [
        arms_table(suite, tables),
        runs_table(suite, tables),
        *routing_tables(suite, tables),
        *measure_tables(suite, tables),
        *scale_tables(suite, tables),
        *evidence_tables(suite, tables),
        _receipts_table(tables),
        _sources_table(tables),
        _audit_table(tables),
        _costs_table(tables),
    ]
    return {table.name: table for table in made}


def _difference_columns(suite: Suite) -> list[Column]:
    compared = suite.dense is not None and len(suite.arms) > 1
    return [Column(title=f"minus {suite.dense}", field="difference_to_dense", show=n.difference)] if compared else []


def runs_table(suite: Suite, tables: Tables) -> PageTable:
    """The same a run, with those that have no result."""
    columns = [
        Column(title="arm", field="arm"),
        Column(title="seed", field="seed", show=n.count),
        Column(title="state", field="status"),
        Column(title="steps", field="step", show=n.count),
        Column(title="LM loss, mean of domains", field="lm_loss_macro", show=n.loss),
        Column(title="mean of tokens", field="lm_loss_tokens", show=n.loss),
        *_difference_columns(suite),
        *(Column(title=f"{d}, bits a byte", field=f"bits_per_byte:{d}", show=n.loss) for d in suite.domains),
    ]
    return make_table("runs", "Every run, on test at its last step", tables.runs, columns)


def _receipts_table(tables: Tables) -> PageTable:
    columns = [
        Column(title="arm", field="arm"),
        Column(title="seed", field="seed", show=n.count),
        Column(title="largest logit change, relative", field="relative_logit_difference", show=n.tiny),
        Column(title="KL from dense, nats", field="kl_nats", show=n.tiny),
        Column(title="dense LM loss, one dev batch", field="dense_lm_loss", show=n.loss),
        Column(title="upcycled LM loss, same batch", field="upcycled_lm_loss", show=n.loss),
        Column(title="difference", field="lm_loss_difference", show=n.difference),
        Column(title="parameters", field="parameters_total", show=n.count),
        Column(title="dense", field="parameters_dense", show=n.count),
        Column(title="used by a token", field="parameters_active", show=n.count),
    ]
    return make_table("receipts", "Upcycling, before any training, on one batch of dev text", tables.receipts, columns)


def _sources_table(tables: Tables) -> PageTable:
    columns = [
        Column(title="domain", field="domain"),
        Column(title="source", field="source"),
        Column(title="licence", field="licence"),
        Column(title="documents", field="documents", show=n.count),
    ]
    return make_table("sources", "Sources and licences", tables.sources, columns)


def _audit_table(tables: Tables) -> PageTable:
    columns = [
        Column(title="text", field="stage"),
        Column(title="surface feature", field="feature"),
        Column(title="right domain", field="accuracy", show=n.percent),
        Column(title="largest domain always", field="chance", show=n.percent),
        Column(title="documents", field="documents", show=n.count),
    ]
    return make_table("format_audit", "Format audit", tables.format_audit, columns)


def _costs_table(tables: Tables) -> PageTable:
    columns = [
        Column(title="arm", field="arm"),
        Column(title="seed", field="seed", show=n.count),
        Column(title="training", field="training", show=n.seconds),
        Column(title="evaluation and traces", field="recording", show=n.seconds),
        Column(title="its share", field="recording_share", show=n.percent),
        Column(title="tokens a second", field="tokens_per_second", show=n.count),
        Column(title="peak memory of its process so far, MiB", field="peak_memory_mib", show=n.count),
    ]
    return make_table("costs", "Time and memory", tables.costs, columns)
