"""Tables of the measures with nulls and intervals; long ones show a part and say which."""

from collections.abc import Sequence

from moe_emergence.analysis.comparisons import InformationDifferenceRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import numbers as n
from moe_emergence.report.shown import (
    Column,
    PageTable,
    at_last_step,
    make_table,
    of_domain,
    of_first_seed,
    seed_column,
)

ARM = Column(title="arm", field="arm")
AGAINST = Column(title="against", field="against")
LAYER = Column(title="layer", field="layer", show=n.count)
COUNTED = Column(title="counted", field="counted")
DOCUMENTS = Column(title="documents", field="documents", show=n.count)
SMALLEST = Column(title="documents, smallest domain", field="documents", show=n.count)
SEEDS = Column(title="seeds", field="seeds", show=n.count)
P = [Column(title="p", field="p", show=n.p_value), Column(title="p, Holm", field="p_holm", show=n.p_value)]


def measure_tables(suite: Suite, tables: Tables) -> list[PageTable]:
    """Verdicts, information, token classes, LM losses and differences."""
    return [
        arm_verdicts_table(tables),
        verdicts_table(suite, tables),
        _information(suite, tables),
        _information_changes(tables),
        _information_differences(tables),
        _class_information(suite, tables),
        _token_classes(suite, tables),
        _arm_losses(tables),
        _loss_differences(tables),
    ]


def arm_verdicts_table(tables: Tables) -> PageTable:
    """What may be said of each layer of each arm, over its seeds."""
    columns = [
        ARM,
        LAYER,
        Column(title="verdict", field="verdict"),
        Column(title="I(E;D), bits, mean over seeds", field="corrected", show=n.signed),
        Column(title="from", field="low", show=n.signed),
        Column(title="to", field="high", show=n.signed),
        Column(title="% of H(D)", field="corrected_share", show=n.percent),
        Column(title="smallest of a seed, bits", field="seed_low", show=n.signed),
        Column(title="of seed", field="lowest_seed", show=str),
        Column(title="largest", field="seed_high", show=n.signed),
        Column(title="of seed", field="highest_seed", show=str),
        Column(title="as counted", field="plug_in", show=n.loss),
        Column(title="fresh gates' mean, last step, up to", field="fresh_high", show=n.loss),
        Column(title="first step, up to", field="fresh_start_high", show=n.loss),
        Column(title="p, permuted documents", field="p_permutation", show=n.p_value),
        Column(title="p, permuted documents, over arms", field="p_permutation_arms", show=n.p_value),
        Column(title="p, fresh gates, last step", field="p_fresh_end", show=n.p_value),
        Column(title="p, fresh gates, last step, over arms", field="p_fresh_end_arms", show=n.p_value),
        Column(title="p, fresh gates, first step", field="p_fresh_start", show=n.p_value),
        Column(title="p, fresh gates, first step, over arms", field="p_fresh_start_arms", show=n.p_value),
        Column(title="p, rerouting", field="p_specific", show=n.p_value),
        Column(title="p, rerouting, over arms", field="p_specific_arms", show=n.p_value),
        SEEDS,
        DOCUMENTS,
    ]
    title = "Verdicts on arms at the last step, first choice; p adjusted for the arm's layers, then for the arms"
    return make_table("arm_verdicts", title, tables.arm_verdicts, columns)


def verdicts_table(suite: Suite, tables: Tables) -> PageTable:
    """What may be said of each layer of each run."""
    columns = [
        ARM,
        *seed_column(suite),
        LAYER,
        Column(title="verdict", field="verdict"),
        Column(title="I(E;D), bits, as counted", field="information", show=n.loss),
        Column(title="p, permuted documents", field="p_permutation", show=n.p_value),
        Column(title="fresh gates, last step, up to", field="fresh_end_high", show=n.loss),
        Column(title="p, fresh gates, last step", field="p_fresh_end", show=n.p_value),
        Column(title="fresh gates, first step, up to", field="fresh_start_high", show=n.loss),
        Column(title="p, fresh gates, first step", field="p_fresh_start", show=n.p_value),
        Column(title="p, rerouting", field="p_specific", show=n.p_value),
    ]
    title = "Verdicts on single runs at the last step, first choice; p adjusted for the layers of the run alone"
    return make_table("verdicts", title, tables.verdicts, columns)


def _information(suite: Suite, tables: Tables) -> PageTable:
    rows = at_last_step(suite, tables.information)
    columns = [
        ARM,
        *seed_column(suite),
        LAYER,
        COUNTED,
        Column(title="step", field="step", show=n.count),
        Column(title="I(E;D), bits, as counted", field="plug_in", show=n.loss),
        Column(title="permuted: mean", field="null_mean", show=n.loss),
        Column(title="from", field="null_low", show=n.loss),
        Column(title="to", field="null_high", show=n.loss),
        Column(title="minus permuted", field="estimate", show=n.signed),
        Column(title="% of H(D)", field="estimate_share", show=n.percent),
        Column(title="freed of bias, bits", field="corrected", show=n.signed),
        Column(title="from", field="low", show=n.signed),
        Column(title="to", field="high", show=n.signed),
        Column(title="% of H(D): from", field="low_share", show=n.percent),
        Column(title="to", field="high_share", show=n.percent),
        Column(title="p, permuted", field="p_permutation", show=n.p_value),
        Column(title="fresh gates: mean", field="fresh_mean", show=n.loss),
        Column(title="from", field="fresh_low", show=n.loss),
        Column(title="to", field="fresh_high", show=n.loss),
        Column(title="p, fresh gates", field="p_fresh", show=n.p_value),
        DOCUMENTS,
        Column(title="tokens", field="tokens", show=n.count),
    ]
    note = "the last step; every trace"
    return make_table("information", "Domain information against both nulls", rows, columns, note)


def _information_changes(tables: Tables) -> PageTable:
    title = "Domain information: last step minus step 0 of the same runs, first choice"
    return _differences_table("information_changes", title, tables.information_changes, [ARM])


def _information_differences(tables: Tables) -> PageTable:
    title = "Domain information: each arm minus its baseline, first choice, last step"
    return _differences_table("information_differences", title, tables.information_differences, [ARM, AGAINST])


def _differences_table(
    name: str, title: str, rows: Sequence[InformationDifferenceRow], of: Sequence[Column]
) -> PageTable:
    columns = [
        *of,
        LAYER,
        Column(title="difference, bits", field="difference", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        Column(title="% of H(D)", field="share", show=n.signed_percent),
        Column(title="from", field="low_share", show=n.percent),
        Column(title="to", field="high_share", show=n.percent),
        Column(title="smallest of a seed, bits", field="seed_low", show=n.end),
        Column(title="largest", field="seed_high", show=n.end),
        *P,
        SEEDS,
        SMALLEST,
    ]
    return make_table(name, title, rows, columns)


def _class_information(suite: Suite, tables: Tables) -> PageTable:
    columns = [
        ARM,
        *seed_column(suite),
        LAYER,
        COUNTED,
        Column(title="step", field="step", show=n.count),
        Column(title="domain", field="domain"),
        Column(title="I(E;class), bits, as counted", field="plug_in", show=n.loss),
        Column(title="shifted: mean", field="null_mean", show=n.loss),
        Column(title="estimate, bits", field="estimate", show=n.signed),
        Column(title="from", field="low", show=n.signed),
        Column(title="to", field="high", show=n.signed),
        Column(title="H(class), bits", field="maximum", show=n.loss),
        Column(title="p", field="p", show=n.p_value),
        DOCUMENTS,
        Column(title="tokens", field="tokens", show=n.count),
    ]
    title = "Token-class information against classes shifted within documents"
    return make_table("class_information", title, tables.class_information, columns)


def _token_classes(suite: Suite, tables: Tables) -> PageTable:
    first_choice = [row for row in tables.token_classes if row.counted == FIRST_CHOICE]
    rows, note = of_first_seed(suite, first_choice)
    columns = [
        ARM,
        *seed_column(suite),
        LAYER,
        Column(title="domain", field="domain"),
        Column(title="class", field="token_class"),
        Column(title="expert", field="expert", show=n.count),
        Column(title="assignments", field="assignments", show=n.count),
        Column(title="share", field="share", show=n.percent),
    ]
    return make_table("token_classes", "Token classes × experts at the last step, first choice", rows, columns, note)


def _arm_losses(tables: Tables) -> PageTable:
    columns = [
        ARM,
        Column(title="domain", field="domain", show=of_domain),
        Column(title="LM loss", field="lm_loss", show=n.loss),
        Column(title="from", field="low", show=n.loss),
        Column(title="to", field="high", show=n.loss),
        SEEDS,
        DOCUMENTS,
    ]
    title = "LM loss on test at the last step, nats a token, with 95 % intervals over documents"
    return make_table("arm_losses", title, tables.arm_losses, columns)


def _loss_differences(tables: Tables) -> PageTable:
    columns = [
        ARM,
        AGAINST,
        Column(title="domain", field="domain", show=of_domain),
        Column(title="difference", field="difference", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        Column(title="smallest of a seed", field="seed_low", show=n.end),
        Column(title="largest", field="seed_high", show=n.end),
        *P,
        SEEDS,
        SMALLEST,
    ]
    title = "LM loss, arm minus arm, nats a token (below 0: the first is better)"
    return make_table("loss_differences", title, tables.loss_differences, columns)
