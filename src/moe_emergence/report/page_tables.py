"""Rows to tables as a reader meets them, on the page and in the terminal; every cell keeps its exact value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables, row_cells
from moe_emergence.report import numbers as n

NUMERIC = {n.loss, n.difference, n.percent, n.count, n.decimal, n.tiny, n.seconds}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its heading, the field (or `field:key`) it shows, and how."""

    title: str
    field: str
    show: Callable[[Any], str] = str

    @property
    def numeric(self) -> bool:
        return self.show in NUMERIC


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is shown, and the value in full as the CSV has it."""

    text: str
    exact: str
    column: Column


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table; `name` is that of its CSV file."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def make_table(name: str, title: str, rows: Sequence[Any], columns: Sequence[Column]) -> PageTable:
    """Show `columns` of `rows`."""
    cells = tuple(tuple(_cell(row, column) for column in columns) for row in rows)
    return PageTable(name=name, title=title, columns=tuple(columns), rows=cells)


def _cell(row: Any, column: Column) -> Cell:
    field, _, key = column.field.partition(":")
    value = getattr(row, field)
    return Cell(text=column.show(value[key] if key else value), exact=row_cells(row)[column.field], column=column)


def page_tables(suite: Suite, tables: Tables) -> dict[str, PageTable]:
    """Every table of the page by its name."""
    made = [
        arms_table(suite, tables),
        runs_table(suite, tables),
        routing_table(suite, tables),
        _shares_table(tables),
        _receipts_table(tables),
        _sources_table(tables),
        _audit_table(tables),
        _costs_table(tables),
    ]
    return {table.name: table for table in made}


def arms_table(suite: Suite, tables: Tables) -> PageTable:
    """LM loss, tokens and parameters an arm."""
    domains = [Column(title=domain, field=f"lm_loss:{domain}", show=n.loss) for domain in suite.domains]
    columns = [
        Column(title="arm", field="arm"),
        Column(title="LM loss, mean of domains", field="lm_loss_macro", show=n.loss),
        *_difference_columns(suite),
        *domains,
        Column(title="runs", field="runs", show=n.count),
        Column(title="tokens trained", field="tokens_trained", show=n.count),
        Column(title="parameters", field="parameters_total", show=n.count),
        Column(title="used by a token", field="parameters_active", show=n.count),
    ]
    return make_table("arms", "LM loss on test at the last step, nats a token", tables.arms, columns)


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


def routing_table(suite: Suite, tables: Tables) -> PageTable:
    """Balance and confidence a run and layer."""
    columns = [
        Column(title="arm", field="arm"),
        *([Column(title="seed", field="seed", show=n.count)] if len(suite.seeds) > 1 else []),
        Column(title="layer", field="layer", show=n.count),
        Column(title="largest load", field="max_load", show=n.percent),
        Column(title="max violation", field="max_violation", show=n.decimal),
        Column(title="excess", field="excess", show=n.decimal),
        Column(title="hot", field="hot", show=n.number_list),
        Column(title="dead", field="dead", show=n.number_list),
        Column(title="effective experts", field="effective_experts", show=n.decimal),
        Column(title="entropy a token, nats", field="entropy_per_token", show=n.loss),
        Column(title="entropy a token ÷ ln E", field="entropy_per_token_share", show=n.percent),
        Column(title="entropy of the load, nats", field="entropy_of_load", show=n.loss),
        Column(title="entropy of the load ÷ ln E", field="entropy_of_load_share", show=n.percent),
        Column(title="detector", field="detector"),
    ]
    return make_table("routing", "Routing on test at the last step", tables.routing, columns)


def _shares_table(tables: Tables) -> PageTable:
    columns = [
        Column(title="arm", field="arm"),
        Column(title="seed", field="seed", show=n.count),
        Column(title="layer", field="layer", show=n.count),
        Column(title="domain", field="domain"),
        Column(title="expert", field="expert", show=n.count),
        Column(title="assignments", field="assignments", show=n.count),
        Column(title="share", field="share", show=n.percent),
        Column(title="uniform", field="uniform", show=n.percent),
    ]
    return make_table("shares", "Domains × experts on test at the last step", tables.shares, columns)


def _receipts_table(tables: Tables) -> PageTable:
    columns = [
        Column(title="arm", field="arm"),
        Column(title="seed", field="seed", show=n.count),
        Column(title="largest logit change, relative", field="relative_logit_difference", show=n.tiny),
        Column(title="KL from dense, nats", field="kl_nats", show=n.tiny),
        Column(title="dense LM loss", field="dense_lm_loss", show=n.loss),
        Column(title="upcycled LM loss", field="upcycled_lm_loss", show=n.loss),
        Column(title="difference", field="lm_loss_difference", show=n.difference),
        Column(title="parameters", field="parameters_total", show=n.count),
        Column(title="dense", field="parameters_dense", show=n.count),
        Column(title="used by a token", field="parameters_active", show=n.count),
    ]
    return make_table("receipts", "Upcycling, before any training", tables.receipts, columns)


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
