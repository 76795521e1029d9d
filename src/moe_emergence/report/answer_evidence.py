"""Is it token or domain, and does it matter: the answer box's sentences on what is behind the verdicts."""

from collections.abc import Iterator, Sequence
from typing import Any

from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.scoreboard import ALL_ARMS, ScoreRow
from moe_emergence.analysis.scores import PER_AFFECTED, TOTAL
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.evidence_findings import ADJUSTED, ALL_HOT, layers_that_pay, spread_layers
from moe_emergence.report.evidence_tables import REROUTED, rerouting_scores
from moe_emergence.report.numbers import listed, percent_range, plural, signed, span
from moe_emergence.report.plain_names import measure_words
from moe_emergence.report.shown import at_last_step
from moe_emergence.report.verdicts import beyond_chance


def evidence_sentences(suite: Suite, tables: Tables) -> Iterator[str]:
    """Token or domain, what experts are worth to domains, whether the choice pays, and which measure foretells it; each
    left out where it was not measured, and said also where it is nothing."""
    yield from _token_or_domain(suite, tables)
    yield from _specific(suite, tables)
    yield from _choice(suite, tables)
    yield from _scoreboard(tables)


def _token_or_domain(suite: Suite, tables: Tables) -> Iterator[str]:
    rows = [row for row in tables.token_split if row.counted == FIRST_CHOICE and row.x == "token id"]
    last = at_last_step(suite, rows)
    if not last:
        return
    begun = [row for row in rows if row.step == 0]
    beyond = sum(beyond_chance([row.domain_given_token_p for row in last]))
    known = [row.share_of_tokens for row in last]
    untrained = f"; untrained gates, at step 0, {_given(begun)}" if begun else ""
    yield (
        f"Of two tokens with one id the expert still tells their domain, {_given(last)} of H(D|id), which the id "
        f"leaves open, beyond chance in {beyond} of {plural(len(last), 'layer')} ({ADJUSTED.format('layers')}); on "
        f"ids that domains share, {percent_range(min(known), max(known))} of tokens{untrained}."
    )


def _given(rows: Sequence[Any]) -> str:
    shares = [row.domain_given_token_share for row in rows]
    return percent_range(min(shares), max(shares))


def _specific(suite: Suite, tables: Tables) -> Iterator[str]:
    rows = [row for row in at_last_step(suite, tables.specificity) if row.intervention == REROUTED]
    if not rows:
        return
    found = [row for row in rows if row.p_holm < ALPHA]
    several = len({row.seed for row in rows}) > 1  # expert numbers of two seeds have nothing in common
    spread = spread_layers(found, tables.routing)
    places = "; ".join(_specialist(row, several, hot=row not in spread) for row in found)
    said = f"in {len(found)} ({places})" if found else "in none"
    yield (
        f"When its tokens are rerouted, an expert is missed by one domain more than by the others, beyond chance, "
        f"{said} of {plural(len(rows), 'layer')} tested (p < {ALPHA}, one-sided, Holm over a run's layers; chosen on "
        f"half of the documents and tested on the other, over {plural(rows[0].splits, 'random split')})."
    )


def _specialist(row: SpecificityRow, several: bool, hot: bool) -> str:
    """`moe, seed 42, layer 3: expert 5 for math, in 9 of 12 splits`."""
    seed, mark = f", seed {row.seed}" if several else "", ", a layer with a hot expert" if hot else ""
    return (
        f"{row.arm}{seed}, layer {row.layer}{mark}: expert {row.expert} for {row.domain}, chosen in {row.chosen_in} of "
        f"{row.splits}"
    )


def _choice(suite: Suite, tables: Tables) -> Iterator[str]:
    rows = [row for row in at_last_step(suite, tables.regret) if row.domain is None]
    judged = spread_layers(rows, tables.routing)
    if not judged:
        yield from [f"{ALL_HOT}."] if rows else []
        return
    shares = [[getattr(row, name) for row in judged] for name in ("best_share", "worst_share", "chance_share")]
    best, worst, chance = (percent_range(min(values), max(values)) for values in shares)
    hot = len(rows) - len(judged)
    left = f"; {plural(hot, 'layer')} with a hot expert left out" if hot else ""
    yield (
        f"A token sent to another expert loses {span([row.regret for row in judged], _four)} nats on average, more "
        f"than 0 in {layers_that_pay(judged)} of {plural(len(judged), 'layer')} ({ADJUSTED.format('layers')}{left}); "
        f"the chosen expert is the best for {best} of tokens and the worst for {worst}, each by chance for {chance}: "
        f"best above worst, which alone speaks for the choice, in "
        f"{sum(row.best_low > row.worst_high for row in judged)} (intervals apart)."
    )


def _scoreboard(tables: Tables) -> Iterator[str]:
    """Of the measures at the last step, which order experts as rerouting does: a token first, since a total effect is
    the share of tokens times that, and any measure that goes with load goes with it."""
    rows, totals = rerouting_scores(tables, PER_AFFECTED), rerouting_scores(tables, TOTAL)
    if not rows and not totals:
        return
    known = rows or totals
    held = [f"what rerouting costs a token that used the expert: {_ordered(rows)}"] if rows else []
    total = "the cost to all tokens, which contains how many use it"
    held += [f"{total}: {_ordered(totals)}"] if totals else []
    pooled = ", without layers that have a hot expert" if known[0].arm == ALL_ARMS else ""
    yield (
        f"Of {plural(len(known), 'observational measure')}, those that order experts beyond chance (p < {ALPHA}, "
        f"Benjamini–Hochberg{pooled}) as {'; as '.join(held)}."
    )


def _ordered(rows: Sequence[ScoreRow]) -> str:
    found = [row for row in rows if row.p_adjusted is not None and row.p_adjusted < ALPHA]
    ordered = sorted(found, key=lambda row: -abs(row.rho or 0.0))
    return listed([f"{measure_words(row.measure)} ({_rho(row)})" for row in ordered]) or "none"


def _rho(row: ScoreRow) -> str:
    ends = "" if row.low is None else f" [{signed(row.low)}, {signed(row.high)}]"
    return f"rho {signed(row.rho)}{ends}"


def _four(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
