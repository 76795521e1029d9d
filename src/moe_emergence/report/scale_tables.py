"""Tables that place a result on its scale: shares of the oracle's gain, when it emerged, who is a specialist."""

from moe_emergence.analysis.causal.specialists import LEAST_COST
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import numbers as n
from moe_emergence.report.measure_tables import ARM, DOCUMENTS, LAYER, SEEDS, SMALLEST
from moe_emergence.report.shown import Column, PageTable, at_last_step, make_table, seed_column


def scale_tables(suite: Suite, tables: Tables) -> list[PageTable]:
    """All three; a table is empty where a suite has no oracle, no untrained gates or no causal tests."""
    return [oracle_gains_table(tables), onset_table(suite, tables), specialists_table(suite, tables)]


def onset_table(suite: Suite, tables: Tables) -> PageTable:
    """When each run's layers came to tell more of the domain than untrained gates do."""
    columns = [
        ARM,
        *seed_column(suite),
        LAYER,
        Column(title="above untrained gates from step", field="step", show=n.count),
        Column(title="untrained gates up to, bits", field="upper", show=n.loss),
        Column(title="% of H(D)", field="upper_share", show=n.percent),
    ]
    title = "Onset: the traced step from which on domain information stays above untrained gates of either end"
    return make_table("onset", title, tables.onset, columns)


def oracle_gains_table(tables: Tables) -> PageTable:
    """Each arm's share of what routing by domain gains."""
    columns = [
        ARM,
        Column(title="oracle", field="oracle"),
        Column(title="gain over dense, nats per token", field="gain", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        Column(title="the oracle's gain", field="oracle_gain", show=n.difference),
        Column(title="from", field="oracle_low", show=n.end),
        Column(title="to", field="oracle_high", show=n.end),
        Column(title="share of it", field="share", show=n.percent),
        Column(title="from", field="share_low", show=n.percent),
        Column(title="to", field="share_high", show=n.percent),
        SEEDS,
        SMALLEST,
    ]
    title = "Of what routing by domain gains in LM loss over the dense arm, how much each arm gains"
    return make_table("oracle_gains", title, tables.oracle_gains, columns)


def specialists_table(suite: Suite, tables: Tables) -> PageTable:
    """Each domain's specialist by rerouting, in every run."""
    columns = [
        ARM,
        *seed_column(suite),
        Column(title="domain", field="domain"),
        LAYER,
        Column(title="expert", field="expert", show=n.count),
        Column(title="specialist", field="is_specialist", show=n.yes_no),
        Column(title="rerouting costs it, nats per token", field="cost", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        Column(title="costs another at most", field="other", show=n.difference),
        Column(title="which", field="other_domain"),
        Column(title="chosen in splits", field="chosen_in", show=n.count),
        Column(title="of", field="splits", show=n.count),
        DOCUMENTS,
    ]
    title = (
        f"Each domain's specialist, chosen on half the documents and measured on the rest: rerouting it costs the "
        f"domain {LEAST_COST} nats per token or more, and others a third of that at most"
    )
    return make_table("specialists", title, at_last_step(suite, tables.specialists), columns)
