"""Tables of routing: balance and confidence a layer, shares a cell; of all slots, and of first choices."""

from collections.abc import Sequence

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import numbers as n
from moe_emergence.report.shown import Column, PageTable, make_table, of_first_seed, seed_column


def routing_tables(suite: Suite, tables: Tables) -> list[PageTable]:
    """Routing and shares, each of all slots and of first choices."""
    first = "by first choice alone (arms with several experts a token)"
    return [
        routing_table(suite, tables),
        _routing(suite, "first_choice_routing", f"Routing at the last step, {first}", tables.first_choice_routing),
        _shares(suite, "shares", "Domains × experts at the last step", tables.shares),
        _shares(suite, "first_choice_shares", f"Domains × experts, {first}", tables.first_choice_shares),
    ]


def routing_table(suite: Suite, tables: Tables) -> PageTable:
    """Balance and confidence a run and layer."""
    return _routing(suite, "routing", "Routing at the last step, test documents", tables.routing)


def _routing(suite: Suite, name: str, title: str, rows: Sequence[RoutingRow]) -> PageTable:
    factors = list(rows[0].dropped) if rows else []
    columns = [
        Column(title="arm", field="arm"),
        *seed_column(suite),
        Column(title="layer", field="layer", show=n.count),
        Column(title="largest load", field="max_load", show=n.percent),
        Column(title="max violation", field="max_violation", show=n.decimal),
        Column(title="excess", field="excess", show=n.decimal),
        Column(title="hot", field="hot", show=n.number_list),
        Column(title="dead", field="dead", show=n.number_list),
        Column(title="effective experts", field="effective_experts", show=n.decimal),
        *(Column(title=f"dropped at capacity {f}", field=f"dropped:{f}", show=n.percent) for f in factors),
        Column(title="entropy a token, nats", field="entropy_per_token", show=n.loss),
        Column(title="entropy a token ÷ ln E", field="entropy_per_token_share", show=n.percent),
        Column(title="entropy of the load, nats", field="entropy_of_load", show=n.loss),
        Column(title="entropy of the load ÷ ln E", field="entropy_of_load_share", show=n.percent),
        Column(title="detector", field="detector"),
    ]
    return make_table(name, title, rows, columns)


def _shares(suite: Suite, name: str, title: str, rows: Sequence[ShareRow]) -> PageTable:
    columns = [
        Column(title="arm", field="arm"),
        *seed_column(suite),
        Column(title="layer", field="layer", show=n.count),
        Column(title="domain", field="domain"),
        Column(title="expert", field="expert", show=n.count),
        Column(title="assignments", field="assignments", show=n.count),
        Column(title="share", field="share", show=n.percent),
        Column(title="from", field="low", show=n.percent),
        Column(title="to", field="high", show=n.percent),
        Column(title="uniform", field="uniform", show=n.percent),
    ]
    shown, note = of_first_seed(suite, rows)
    return make_table(name, title, shown, columns, note)
