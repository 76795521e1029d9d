"""What may be said of each layer of each run, in words with the numbers: domain, token, cause, collapse."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE, InformationRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.evidence_findings import spread_layers
from moe_emergence.report.evidence_tables import REROUTED
from moe_emergence.report.numbers import (
    GAP,
    count,
    difference_interval,
    interval,
    loss,
    p_value,
    percent,
    percent_interval,
    percent_range,
)
from moe_emergence.report.verdicts import fresh_range, null_range, share_with_interval

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """All that is said of one layer of one run, one sentence each."""

    arm: str
    seed: int
    layer: int
    sentences: tuple[str, ...]


def statements(suite: Suite, tables: Tables) -> Iterator[Statement]:
    """One a run and layer, in the suite's order."""
    for run in suite.runs:
        for layer in run.manifest.moe_layers:
            said = (
                *_domain(run, tables, layer),
                *_token(run, tables, layer),
                *_specific(run, tables, layer),
                *_regret(run, tables, layer),
                *_untested(run, tables),
                _collapse(run, layer),
            )
            yield Statement(arm=run.arm, seed=run.seed, layer=layer, sentences=said)


def _of(rows: Sequence[Row], run: Run, layer: int, **fields: Any) -> list[Row]:
    wanted = {"arm": run.arm, "seed": run.seed, "layer": layer} | fields
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def _domain(run: Run, tables: Tables, layer: int) -> Iterator[str]:
    """`12.4 % of H(domain) [11.0, 13.9] at step 240, 6.3 % [5.0, 7.6] at step 0; …`."""
    found = {row.step: row for row in _of(tables.information, run, layer, counted=FIRST_CHOICE)}
    ends = [found[step] for step in dict.fromkeys((run.last_step, 0)) if step in found]
    if not ends:
        yield "Domain information is not measured: it takes two domains of two held-out documents each."
        return
    told = ", ".join(f"{share_with_interval(row)} of H(domain) at step {count(row.step)}" for row in ends)
    verdict = next((f": {row.verdict} in this run alone" for row in _of(tables.verdicts, run, layer)), "")
    yield f"{told}; {_nulls(ends[0])}{verdict}."


def _nulls(row: InformationRow) -> str:
    fresh = fresh_range(row)
    gates = "" if fresh is None else f", fresh gates {percent_range(*fresh)}"
    return f"permuted documents reach {percent_range(*null_range(row))}{gates}"


def _token(run: Run, tables: Tables, layer: int) -> Iterator[str]:
    """What is left of the domain given the token's id, and what the id itself tells."""
    rows = _of(tables.token_split, run, layer, counted=FIRST_CHOICE, x="token id")
    last = next((row for row in rows if row.step == run.last_step), None)
    if last is None:
        if tables.token_split:
            yield "Too few token ids are frequent in two domains to tell token from domain."
        return
    first = next((row for row in rows if row.step == 0 and row.step != run.last_step), None)
    begun = "" if first is None else f" (at step 0 {_given(first)})"
    told = "" if first is None else f" (at step 0 {percent(first.token_share)})"
    bits = interval(last.token_information, last.token_low, last.token_high)
    shown = "beyond" if last.domain_given_token_p < ALPHA else "not beyond"
    yield (
        f"Given the token id {_given(last)} of H(domain given id){begun}, {shown} what the id settles "
        f"(p {p_value(last.domain_given_token_p)}); the id itself tells {bits} bits of the expert, "
        f"{percent(last.token_share)} of H(expert){told}, as counted {loss(last.token_null_mean)} bits by chance "
        f"({count(last.ids)}{GAP}ids that domains share, "
        f"{percent(last.share_of_tokens)} of the tokens)."
    )


def _given(row: TokenSplitRow) -> str:
    return percent_interval(
        row.domain_given_token_share, row.domain_given_token_low_share, row.domain_given_token_high_share
    )


def _specific(run: Run, tables: Tables, layer: int) -> Iterator[str]:
    """The most causally specific expert under rerouting."""
    rows = _of(tables.specificity, run, layer, step=run.last_step, intervention=REROUTED)
    spread = spread_layers(rows, tables.routing)
    yield from (_specific_sentence(row, hot=row not in spread) for row in rows)


def _specific_sentence(row: SpecificityRow, hot: bool) -> str:
    shown = "more than" if row.p_holm < ALPHA else "not shown to be more than"
    change = f"{difference_interval(row.tested_value, row.low, row.high)} nats a token"
    if row.tested_value >= 0:
        cost = f"expert {row.expert} costs {row.domain} {change} more than the other domains"
    else:
        cost = f"expert {row.expert} costs {row.domain} no more than the other domains (the difference is {change})"
    mark = "; the layer has a hot expert" if hot else ""
    return (
        f"Rerouted, {cost}, on documents that did not choose it, as {row.chosen_in} of {row.splits} random halvings "
        f"did: {shown} chance (p {p_value(row.p_holm)}, one-sided, over all halvings, adjusted for layers; the "
        f"interval is two-sided{mark})."
    )


def _regret(run: Run, tables: Tables, layer: int) -> Iterator[str]:
    """What a token loses elsewhere, where no hot expert has left the others untrained."""
    rows = _of(tables.regret, run, layer, step=run.last_step, domain=None)
    judged = spread_layers(rows, tables.routing)
    for row in judged:
        yield (
            f"Another expert in the chosen one's place changes a token's loss by "
            f"{difference_interval(row.regret, row.low, row.high)} nats; the chosen one is the best for "
            f"{percent_interval(row.best_share, row.best_low, row.best_high)} of tokens and the worst for "
            f"{percent_interval(row.worst_share, row.worst_low, row.worst_high)}, each by chance for "
            f"{percent(row.chance_share)}."
        )
    if rows and not judged:
        yield "The router's choice cannot be judged here: the layer has a hot expert."


def _untested(run: Run, tables: Tables) -> Iterator[str]:
    """That experts were not taken away, where they were not."""
    if run.config.moe is not None and run.config.moe.router == "domain":
        yield "No causal tests: its experts were dealt out among the domains."
    elif not any((row.arm, row.seed) == (run.arm, run.seed) for row in tables.knockouts):
        yield "Causal tests were not made: they take a checkpoint of the run, and two documents of each domain."


def _collapse(run: Run, layer: int) -> str:
    """`Collapse: warning at step 32, collapsed at step 48.`"""
    events = [event for event in run.collapses if event.layer == layer]
    if not events:
        return "Collapse: none found in training."
    return f"Collapse: {', '.join(f'{event.state} at step {count(event.step)}' for event in events)}."
