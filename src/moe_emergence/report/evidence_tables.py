"""Tables of the evidence behind a verdict: token or domain, what experts share, and what happens without them."""

from typing import Any

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.scoreboard import ALL_ARMS, ScoreRow
from moe_emergence.analysis.specialisation import FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import numbers as n
from moe_emergence.report.measure_tables import ARM, DOCUMENTS, LAYER
from moe_emergence.report.plain_names import effect_words, intervention_words, label_words, measure_words
from moe_emergence.report.shown import (
    Column,
    PageTable,
    at_last_step,
    make_table,
    of_domain,
    of_first_seed,
    seed_column,
)

STEP = Column(title="step", field="step", show=n.count)
EXPERT = Column(title="expert", field="expert", show=n.count)
DOMAIN = Column(title="domain", field="domain", show=of_domain)
TOKENS = Column(title="tokens", field="tokens", show=n.count)
P = Column(title="p", field="p", show=n.p_value)
REROUTED = "next"
"""The intervention whose matrix is shown: what the model itself would do without the expert."""


def evidence_tables(suite: Suite, tables: Tables) -> list[PageTable]:
    """Every table of the evidence; the longest show a part and say which."""
    return [
        token_split_table(suite, tables),
        specificity_table(suite, tables),
        knockout_table(suite, tables),
        regret_table(suite, tables),
        _doses(suite, tables),
        _retention(suite, tables),
        _transplants(suite, tables),
        _scores(tables),
        _lift(suite, tables),
        _vocabulary(suite, tables),
        _saturation(suite, tables),
        _coactivation(suite, tables),
        _paths(suite, tables),
        _locality(suite, tables),
        _similarity(suite, tables),
        _hidden_states(suite, tables),
        _matches(tables),
        _equivalence(tables),
        _format_swaps(suite, tables),
        _coverage(tables),
    ]


def token_split_table(suite: Suite, tables: Tables) -> PageTable:
    """I(E;X), I(E;D|X) and I(E;D) on the same tokens."""
    rows = [row for row in tables.token_split if row.counted == FIRST_CHOICE]
    columns = [
        *of_layer(suite),
        STEP,
        Column(title="X", field="x", show=label_words),
        *_measured("I(E;X), bits", "token_information", "token"),
        Column(title="H(E), bits", field="token_maximum", show=n.loss),
        Column(title="% of H(E)", field="token_share", show=n.percent),
        Column(title="from", field="token_low_share", show=n.percent),
        Column(title="to", field="token_high_share", show=n.percent),
        *_measured("I(E;D|X), bits", "domain_given_token", "domain_given_token"),
        Column(title="H(D|X), bits", field="given_maximum", show=n.loss),
        Column(title="% of H(D|X)", field="domain_given_token_share", show=n.percent),
        Column(title="from", field="domain_given_token_low_share", show=n.percent),
        Column(title="to", field="domain_given_token_high_share", show=n.percent),
        *_measured("I(E;D) of these tokens, bits", "domain_information", "domain"),
        Column(title="labels", field="ids", show=n.count),
        TOKENS,
        Column(title="of all tokens", field="share_of_tokens", show=n.percent),
        Column(title="documents, smallest domain", field="documents", show=n.count),
    ]
    title = "Token or domain: what the expert tells of the token, and of the domain beyond the token, first choice"
    return make_table("token_split", title, rows, columns, "first choice; both ways of counting")


def specificity_table(suite: Suite, tables: Tables) -> PageTable:
    """The expert of each layer that matters most to one domain more than to the others."""
    columns = [
        *of_layer(suite),
        STEP,
        Column(title="without the expert", field="intervention", show=intervention_words),
        EXPERT,
        DOMAIN,
        Column(title="chosen in splits", field="chosen_in", show=n.count),
        Column(title="of", field="splits", show=n.count),
        Column(title="on the half that chose it", field="chosen_value", show=n.difference),
        Column(title="on the other half", field="tested_value", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        Column(title="of all splits' choices", field="mean_value", show=n.difference),
        Column(title="shuffled domains: mean", field="null_mean", show=n.difference),
        Column(title="up to", field="null_high", show=n.end),
        Column(title="p, one-sided", field="p", show=n.p_value),
        Column(title="p, Holm", field="p_holm", show=n.p_value),
        DOCUMENTS,
    ]
    title = (
        "Most causally specific expert a layer: loss it saves its domain minus what it saves the others, nats a token"
    )
    return make_table("specificity", title, tables.specificity, columns)


def knockout_table(suite: Suite, tables: Tables) -> PageTable:
    """Expert × domain under rerouting, at the last step."""
    shown = [row for row in at_last_step(suite, tables.knockouts) if row.intervention == REROUTED]
    rows, note = of_first_seed(suite, shown)
    columns = [
        *of_layer(suite),
        EXPERT,
        DOMAIN,
        Column(title="loss change, nats a token of the domain", field="effect", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        P,
        Column(title="a token that used it", field="per_affected", show=n.difference),
        Column(title="from", field="per_affected_low", show=n.end),
        Column(title="to", field="per_affected_high", show=n.end),
        Column(title="share of the domain's tokens", field="affected_share", show=n.percent),
        DOCUMENTS,
    ]
    title = "Knock-out matrix: what an expert is worth when its tokens are rerouted to the next best"
    return make_table("knockouts", title, rows, columns, f"{note or 'this intervention'}; every intervention")


def regret_table(suite: Suite, tables: Tables) -> PageTable:
    """Whether the router's choice beats other experts on the token's own loss."""
    columns = [
        *of_layer(suite),
        DOMAIN,
        Column(title="another expert minus the chosen, nats a token", field="regret", show=n.difference),
        Column(title="from", field="low", show=n.end),
        Column(title="to", field="high", show=n.end),
        P,
        Column(title="chosen minus best (ceiling)", field="ceiling", show=n.difference),
        Column(title="the same by chance", field="chance_ceiling", show=n.difference),
        Column(title="chosen is the best", field="best_share", show=n.percent),
        Column(title="chosen is the worst", field="worst_share", show=n.percent),
        Column(title="each by chance", field="chance_share", show=n.percent),
        TOKENS,
        DOCUMENTS,
    ]
    return make_table("regret", "Routing regret: one token sent elsewhere at a time", tables.regret, columns)


def _measured(title: str, value: str, prefix: str) -> list[Column]:
    """A value, its interval, its null and p."""
    return [
        Column(title=title, field=value, show=n.loss),
        Column(title="from", field=f"{prefix}_low", show=n.loss),
        Column(title="to", field=f"{prefix}_high", show=n.loss),
        Column(title="null mean", field=f"{prefix}_null_mean", show=n.loss),
        Column(title="p", field=f"{prefix}_p", show=n.p_value),
    ]


def of_layer(suite: Suite) -> list[Column]:
    """What a row is of: arm, seed where there are several, layer."""
    return [ARM, *seed_column(suite), LAYER]


def _ends(show: Any = n.end) -> list[Column]:
    return [Column(title="from", field="low", show=show), Column(title="to", field="high", show=show)]


def _doses(suite: Suite, tables: Tables) -> PageTable:
    columns = [
        *of_layer(suite),
        Column(title="dose", field="dose", show=n.decimal),
        DOMAIN,
        Column(title="loss change, nats a token", field="effect", show=n.difference),
        *_ends(),
        DOCUMENTS,
    ]
    title = "Back to the ancestor: all experts of a layer at ancestor + dose × what they learned"
    rows, note = of_first_seed(suite, tables.doses)
    return make_table("doses", title, rows, columns, note)


def _retention(suite: Suite, tables: Tables) -> PageTable:
    columns = [
        ARM,
        *seed_column(suite),
        Column(title="domain", field="domain"),
        Column(title="experts kept", field="kept", show=n.count),
        Column(title="which", field="subset"),
        Column(title="loss change, nats a token", field="difference", show=n.difference),
        *_ends(),
        DOCUMENTS,
    ]
    rows, note = of_first_seed(suite, tables.retention)
    return make_table("retention", "Retention: every layer with some of its experts", rows, columns, note)


def _transplants(suite: Suite, tables: Tables) -> PageTable:
    columns = [
        ARM,
        *seed_column(suite),
        Column(title="gates of step", field="gates_of_step", show=n.count),
        DOMAIN,
        Column(title="loss change, nats a token", field="difference", show=n.difference),
        *_ends(),
        P,
        Column(title="tokens sent elsewhere", field="changed", show=n.percent),
        DOCUMENTS,
    ]
    rows, note = of_first_seed(suite, tables.transplants)
    return make_table(
        "transplants", "Router transplant: the last model with its gates of an earlier step", rows, columns, note
    )


def _scores(tables: Tables) -> PageTable:
    columns = [
        ARM,
        STEP,
        Column(title="measure", field="measure", show=measure_words),
        Column(title="causal effect", field="effect", show=effect_words),
        Column(title="of", field="level"),
        Column(title="Spearman's rho", field="rho", show=n.signed),
        Column(title="from", field="low", show=n.signed),
        Column(title="to", field="high", show=n.signed),
        P,
        Column(title="p, Benjamini–Hochberg", field="p_adjusted", show=n.p_value),
        Column(title="cells", field="cells", show=n.count),
        Column(title="runs", field="runs", show=n.count),
        Column(title="seeds", field="seeds", show=n.count),
        Column(title="resampled", field="resampled"),
    ]
    return make_table(
        "scores",
        "Scoreboard: does a measure predict what an expert is worth?",
        shown_scores(tables),
        columns,
        "rerouting, the last step, arms together without layers that have a hot expert; every effect, step and arm",
    )


def shown_scores(tables: Tables) -> list[ScoreRow]:
    """Rerouting at the last step; of all arms together, where there are several."""
    rows = [row for row in tables.scores if row.arm == ALL_ARMS] or list(tables.scores)
    last = max((row.step for row in rows), default=0)
    return [row for row in rows if row.step == last and row.effect.startswith(REROUTED)]


def rerouting_scores(tables: Tables, kind: str) -> list[ScoreRow]:
    """Every measure held at the last step against what rerouting an expert costs, of one of `scores.PER_AFFECTED` and
    `scores.TOTAL`; of all arms together where there are several."""
    return [row for row in shown_scores(tables) if row.effect.startswith(f"{REROUTED}: {kind}") and row.rho is not None]


def _lift(suite: Suite, tables: Tables) -> PageTable:
    rows = [row for row in at_last_step(suite, tables.lift) if row.counted == FIRST_CHOICE]
    columns = [
        *of_layer(suite),
        Column(title="NMI", field="nmi", show=n.loss),
        Column(title="from", field="nmi_low", show=n.loss),
        Column(title="to", field="nmi_high", show=n.loss),
        Column(title="permuted: mean", field="nmi_null_mean", show=n.loss),
        EXPERT,
        Column(title="domain", field="domain"),
        Column(title="lift on the other half", field="lift", show=n.decimal),
        Column(title="from", field="lift_low", show=n.decimal),
        Column(title="to", field="lift_high", show=n.decimal),
        Column(title="permuted: mean", field="lift_null_mean", show=n.decimal),
        Column(title="p", field="p_lift", show=n.p_value),
        DOCUMENTS,
    ]
    title = "Largest lift: how many times its balanced share an expert takes of a domain, chosen and tested on halves"
    return make_table("lift", title, rows, columns, "the last step, first choice; every trace")


def _vocabulary(suite: Suite, tables: Tables) -> PageTable:
    rows = [row for row in tables.vocabulary if row.expert is None and row.counted == FIRST_CHOICE]
    columns = [
        *of_layer(suite),
        STEP,
        Column(title="largest share of an id, mean", field="plug_in", show=n.percent),
        Column(title="shuffled: mean", field="null_mean", show=n.percent),
        Column(title="beyond it", field="estimate", show=n.percent),
        *_ends(n.percent),
        P,
        Column(title="ids", field="ids", show=n.count),
        TOKENS,
        DOCUMENTS,
    ]
    return make_table("vocabulary", "Vocabulary specialisation", rows, columns, "whole layers; every expert")


def _saturation(suite: Suite, tables: Tables) -> PageTable:
    rows, note = of_first_seed(suite, [row for row in tables.saturation if row.against == "final"])
    columns = [
        *of_layer(suite),
        STEP,
        Column(title="same experts as at the last step", field="overlap", show=n.percent),
        *_ends(n.percent),
        Column(title="chance, k/E", field="chance", show=n.percent),
        Column(title="chance, given loads", field="chance_loads", show=n.percent),
        TOKENS,
    ]
    return make_table("saturation", "Router saturation", rows, columns, f"{note or 'against the last step'}; all")


def _coactivation(suite: Suite, tables: Tables) -> PageTable:
    rows, note = of_first_seed(suite, at_last_step(suite, tables.coactivation))
    columns = [
        *of_layer(suite),
        EXPERT,
        Column(title="with", field="other", show=n.count),
        Column(title="share of its tokens", field="share", show=n.percent),
        Column(title="from", field="share_low", show=n.percent),
        Column(title="to", field="share_high", show=n.percent),
        Column(title="by chance", field="share_chance", show=n.percent),
        Column(title="lift", field="lift", show=n.decimal),
        Column(title="by chance", field="lift_chance", show=n.decimal),
        TOKENS,
    ]
    return make_table("coactivation", "Co-activation over all pairs of a token's experts", rows, columns, note)


def _paths(suite: Suite, tables: Tables) -> PageTable:
    columns = [
        *of_layer(suite),
        Column(title="to layer", field="to_layer", show=n.count),
        STEP,
        Column(title="I, bits", field="information", show=n.loss),
        *_ends(n.loss),
        Column(title="shifted: mean", field="null_mean", show=n.loss),
        P,
        Column(title="at most", field="maximum", show=n.loss),
        TOKENS,
    ]
    return make_table(
        "path_information", "Paths: what a layer's expert tells of a later layer's", tables.path_information, columns
    )


def _locality(suite: Suite, tables: Tables) -> PageTable:
    rows, note = of_first_seed(suite, tables.locality)
    columns = [
        *of_layer(suite),
        STEP,
        Column(title="domain", field="domain"),
        Column(title="neighbours at one expert", field="share", show=n.percent),
        *_ends(n.percent),
        Column(title="by chance", field="chance", show=n.percent),
        P,
        Column(title="tokens in a row", field="run_length", show=n.decimal),
        Column(title="by chance", field="run_length_chance", show=n.decimal),
        DOCUMENTS,
    ]
    return make_table("locality", "Temporal locality", rows, columns, note)


def _similarity(suite: Suite, tables: Tables) -> PageTable:
    rows, note = of_first_seed(suite, at_last_step(suite, tables.similarity))
    columns = [
        *of_layer(suite),
        EXPERT,
        Column(title="drift from the ancestor", field="drift", show=n.tiny),
        Column(title="output cosine with it", field="ancestor_output_cosine", show=n.signed),
        Column(title="cosine of what was learned, siblings", field="delta_cosine", show=n.signed),
        Column(title="output cosine, siblings", field="output_cosine", show=n.signed),
        Column(title="CKA, siblings", field="output_cka", show=n.signed),
    ]
    return make_table(
        "similarity",
        "How far experts are from their ancestor and from each other",
        rows,
        columns,
        f"{note or 'the last step'}; every trace",
    )


def _hidden_states(suite: Suite, tables: Tables) -> PageTable:
    columns = [
        *of_layer(suite),
        STEP,
        Column(title="predictor", field="predictor"),
        Column(title="right expert", field="accuracy", show=n.percent),
        Column(title="from", field="accuracy_low", show=n.percent),
        Column(title="to", field="accuracy_high", show=n.percent),
        Column(title="largest expert always", field="chance", show=n.percent),
        Column(title="information, bits", field="information", show=n.loss),
        Column(title="of H(E)", field="information_share", show=n.percent),
        TOKENS,
        DOCUMENTS,
    ]
    title = "How far the dense model's hidden states at step 0 already tell the expert"
    return make_table("hidden_states", title, tables.hidden_states, columns)


def _matches(tables: Tables) -> PageTable:
    columns = [
        ARM,
        Column(title="seed", field="seed", show=n.count),
        Column(title="other seed", field="other_seed", show=n.count),
        LAYER,
        Column(title="counted", field="counted"),
        Column(title="matched and compared by", field="by"),
        Column(title="agreement", field="agreement", show=n.signed),
        *_ends(n.signed),
        Column(title="matched null: mean", field="null_mean", show=n.signed),
        Column(title="up to", field="null_high", show=n.signed),
        Column(title="p, Holm", field="p_holm", show=n.p_value),
    ]
    return make_table("matches", "Do two seeds find the same experts?", tables.matches, columns)


def _equivalence(tables: Tables) -> PageTable:
    columns = [
        ARM,
        Column(title="against", field="against"),
        DOMAIN,
        Column(title="difference, nats a token", field="difference", show=n.difference),
        Column(title="90 %: from", field="low90", show=n.end),
        Column(title="to", field="high90", show=n.end),
        Column(title="margin", field="margin", show=n.tiny),
        P,
        Column(title="equal within the margin", field="equivalent", show=n.yes_no),
    ]
    title = "Equivalence of LM losses (two one-sided tests)"
    return make_table("equivalence", title, tables.equivalence, columns)


def _format_swaps(suite: Suite, tables: Tables) -> PageTable:
    rows, note = of_first_seed(suite, [row for row in tables.format_swaps if row.counted == FIRST_CHOICE])
    columns = [
        *of_layer(suite),
        Column(title="domain", field="domain"),
        Column(title="swap", field="swap"),
        Column(title="tokens changed", field="changed_share", show=n.percent),
        Column(title="by format, bits", field="format_divergence", show=n.loss),
        Column(title="by as much content", field="content_divergence", show=n.loss),
        Column(title="difference", field="difference", show=n.signed),
        *_ends(n.signed),
        P,
        Column(title="documents that look like another domain", field="moved_share", show=n.percent),
        DOCUMENTS,
    ]
    title = "Format swaps: how far a document's experts move, Jensen–Shannon divergence"
    return make_table("format_swaps", title, rows, columns, note)


def _coverage(tables: Tables) -> PageTable:
    columns = [
        Column(title="domain", field="domain"),
        Column(title="read as", field="scheme"),
        DOCUMENTS,
        Column(title="not read whole", field="documents_not_tokenised", show=n.count),
        TOKENS,
        Column(title="of no class", field="other_share", show=n.percent),
    ]
    return make_table("class_coverage", "How far texts could be read for token classes", tables.class_coverage, columns)
