"""The figures of the evidence, each left out where it was not measured."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from moe_emergence.analysis.causal.interventions import ANCESTOR
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.scoreboard import ALL_ARMS, ScoreRow
from moe_emergence.analysis.scores import PER_AFFECTED, TOTAL
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE, SLOTS
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import evidence_findings as findings
from moe_emergence.report.causal_figures import (
    best_choice_forest,
    effect_limit,
    knockout_heatmaps,
    regret_forest,
    scoreboard,
)
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.evidence_tables import REROUTED, rerouting_scores
from moe_emergence.report.heatmaps import CELL_TEXT_EXPERTS
from moe_emergence.report.measure_drawings import INTERVALS, legend_of
from moe_emergence.report.numbers import GAP, count, percent, plural
from moe_emergence.report.pattern_figures import (
    Term,
    coactivation_heatmaps,
    format_swap_forest,
    saturation_curves,
    token_split_marks,
)
from moe_emergence.report.plain_names import effect_words, measure_words
from moe_emergence.report.shown import at_last_step, first_runs, of_run, seed_note

_TERMS: dict[Term, tuple[str, str]] = {
    "token": (
        "token-information",
        "How much a token's id tells of its first expert, I(E;X), in bits; 0: nothing, at most H(E). Black: "
        "each document's ids turned against its routes.",
    ),
    "domain_given_token": (
        "domain-given-token",
        "How much the first expert tells of the domain once the token's id is known, I(E;D|X), in bits; 0: the id "
        "settles all, at most H(D|X), which the id leaves open. Black: what documents have "
        "beyond their tokens' own routes, with random signs.",
    ),
}
_DONE = {
    REROUTED: ("when an expert's tokens are rerouted", "its tokens go to the next best expert"),
    ANCESTOR: (
        "when an expert is put back to its ancestor",
        "it computes what the MLP that it was copied from computed",
    ),
}

_LEFT_OUT = "The title leaves out {} with a hot expert: there the others had few tokens to learn from."


def evidence_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    """Information split, knock-outs, regret, scoreboard, saturation, co-activation, format swaps."""
    yield from _splits(suite, tables)
    yield from _knockouts(suite, tables)
    yield from _regrets(suite, tables)
    yield from _scoreboard(tables)
    yield from _saturation(suite, tables)
    for run in first_runs(suite):
        yield from _coactivation(suite, tables, run)
    for run in first_runs(suite):
        yield from _swaps(suite, tables, run)


def _splits(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    ends = {(run.arm, run.seed, step): run for run in first_runs(suite) for step in (0, run.last_step)}
    rows = [
        row
        for row in tables.token_split
        if (row.arm, row.seed, row.step) in ends and row.counted == FIRST_CHOICE and row.x == "token id"
    ]
    for term, (name, words) in _TERMS.items() if rows else ():
        yield Drawing(
            name=name,
            section="evidence",
            tables=("token_split",),
            title=findings.split_finding(rows, term),
            reading=(
                f"{words} {INTERVALS} Filled: beyond that null (p < 0.05 each). First and last step, tokens whose id "
                f"is frequent in two domains (n = {count(min(row.tokens for row in rows))} tokens or more)."
                f"{seed_note(suite, first_runs(suite)[0])}"
            ),
            make=partial(token_split_marks, rows, legend_of(suite), term),
        )


def _knockouts(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    shown = [row for run in first_runs(suite) for row in of_run(run, tables.knockouts) if row.intervention in _DONE]
    limit = effect_limit(shown)
    for run in first_runs(suite):
        for way, (done, words) in _DONE.items():
            rows = [row for row in of_run(run, shown) if row.intervention == way]
            if rows:
                experts = len({row.expert for row in rows})
                bold = f" Bold: {_adjusted(len(rows))}" if experts <= CELL_TEXT_EXPERTS else ""
                yield Drawing(
                    name=f"knockouts-{'rerouted' if way == REROUTED else way}-{run.arm}",
                    section="evidence",
                    tables=("knockouts",),
                    title=findings.knockout_finding(rows, done),
                    reading=(
                        f"Change of a domain's LM loss when one expert is taken away ({words}), milli-nats a token of "
                        f"the domain; orange: the expert was of use; white, 0: nobody misses it.{bold} One scale for "
                        f"all arms. n = {plural(min(row.documents for row in rows), 'document')} in the smallest "
                        f"domain.{seed_note(suite, run)}"
                    ),
                    make=partial(knockout_heatmaps, rows, limit),
                )


def _adjusted(cells: int) -> str:
    return (
        f"differs from 0 after adjusting for the figure's {plural(cells, 'cell')} (Benjamini–Hochberg, "
        f"{percent(ALPHA)}); without that, about {ALPHA * cells:.2g} would by chance alone."
    )


def _regrets(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    rows = [row for row in at_last_step(suite, tables.regret) if row.domain is None]
    if not rows:
        return
    sample = (
        f"n = {plural(min(row.documents for row in rows), 'document')} in the smallest domain, "
        f"{count(min(row.tokens for row in rows))} tokens."
    )
    judged = findings.spread_layers(rows, tables.routing)
    left = len(rows) - len(judged)
    title = f" {_LEFT_OUT.format(plural(left, 'layer'))}" if left else ""
    yield Drawing(
        name="regret",
        section="evidence",
        tables=("regret", "routing"),
        title=findings.regret_finding(judged),
        reading=(
            "What a token's loss gains, in nats, when one of the experts that it was not sent to takes the chosen "
            f"one's place; 0: the choice is as good as chance. {INTERVALS} Filled: not 0 (p < 0.05). "
            f"{sample}{title}"
        ),
        make=partial(regret_forest, rows, legend_of(suite)),
    )
    yield Drawing(
        name="best-choice",
        section="evidence",
        tables=("regret", "routing"),
        title=findings.best_choice_finding(judged),
        reading=(
            "Share of tokens, in %, for which no expert would have given a smaller loss than the chosen one. Line and "
            f"ticks: chance, 1 ÷ (E − k + 1). {INTERVALS} Filled: above the share for which it is the "
            "worst, intervals apart. An expert unlike the others is also the worst more often: only best above worst "
            f"speaks for the choice. {sample}{title}"
        ),
        make=partial(best_choice_forest, rows, legend_of(suite)),
    )


def _scoreboard(tables: Tables) -> Iterator[Drawing]:
    rows: list[ScoreRow] = [row for kind in (PER_AFFECTED, TOTAL) for row in rerouting_scores(tables, kind)]
    if rows:
        resampled = ", ".join(sorted({row.resampled for row in rows if row.resampled})) or "nothing"
        pooled = " All arms together, without layers that have a hot expert." if rows[0].arm == ALL_ARMS else ""
        named = [replace(row, effect=effect_words(row.effect), measure=measure_words(row.measure)) for row in rows]
        yield Drawing(
            name="scoreboard",
            section="evidence",
            tables=("scores",),
            title=findings.scoreboard_finding(rows),
            reading=(
                "Whether a measure that only watches orders a layer's experts as rerouting their tokens does: "
                "Spearman's rho within layers, no unit; 1: the same order, 0: none. A cost to all tokens is the share "
                "of tokens times the cost to one of them, so whatever goes with load orders it. Lines: 95 % intervals "
                f"over {resampled}. Filled: beyond chance (p < 0.05, Benjamini–Hochberg; arms of one seed begin as one "
                f"model and are dealt anew together).{pooled} n = {count(min(row.cells for row in rows))} to "
                f"{count(max(row.cells for row in rows))} cells, {plural(max(row.seeds for row in rows), 'seed')}."
            ),
            make=partial(scoreboard, named),
        )


def _saturation(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    rows = [row for row in tables.saturation if row.against == "final"]
    sets = {row.arm for row in rows if row.counted == SLOTS}
    rows = [row for row in rows if row.counted == (SLOTS if row.arm in sets else FIRST_CHOICE)]
    if rows:
        judged = findings.evenly_loaded(rows, tables.routing)
        left = len({(row.arm, row.layer) for row in rows} - {(row.arm, row.layer) for row in judged})
        one_seed = len({row.seed for row in rows}) == 1
        bands = f" Bands: 95{GAP}% intervals over documents." if one_seed else " Thin: each seed."
        why = f" The title leaves out {plural(left, 'layer')} with a hot expert, where any two steps agree."
        yield Drawing(
            name="saturation",
            section="evidence",
            tables=("saturation", "routing"),
            title=findings.saturation_finding(judged),
            reading=(
                f"Share of a token's experts at the last step, in %, that it is sent to already; 100{GAP}% there by "
                "definition. Dashed: what the experts' loads at both steps give without any token in common; only what "
                f"is above that is agreement about tokens.{bands} n = {count(min(row.tokens for row in rows))} "
                f"tokens.{why if left else ''}"
            ),
            make=partial(saturation_curves, rows, legend_of(suite)),
        )


def _coactivation(suite: Suite, tables: Tables, run: Run) -> Iterator[Drawing]:
    rows = of_run(run, tables.coactivation)
    if rows and run.config.moe is not None:
        experts = run.config.moe.num_experts
        unused = len(rows) < len({row.layer for row in rows}) * experts * (experts - 1)
        yield Drawing(
            name=f"coactivation-{run.arm}",
            section="evidence",
            tables=("coactivation",),
            title=findings.coactivation_finding(rows),
            reading=(
                "How often two experts serve the same token, as a multiple of independent choice at their loads "
                f"(white, 1: chance; 2: 100{GAP}% more often). Grey: an expert with itself"
                f"{', or one without tokens' if unused else ''}. "
                f"n = {count(rows[0].tokens)} tokens.{seed_note(suite, run)}"
            ),
            make=partial(coactivation_heatmaps, rows, experts),
        )


def _swaps(suite: Suite, tables: Tables, run: Run) -> Iterator[Drawing]:
    rows = [row for row in of_run(run, tables.format_swaps) if row.counted == FIRST_CHOICE]
    if rows:
        share = f"{percent(min(r.changed_share for r in rows))} to {percent(max(r.changed_share for r in rows))}"
        yield Drawing(
            name=f"format-swaps-{run.arm}",
            section="evidence",
            tables=("format_swaps",),
            title=findings.swap_finding(rows),
            reading=(
                "How far a document's experts move when its format is changed and its content kept, in bits (0: not at "
                f"all, 1: no expert keeps a token). Tick: as many tokens of other content ({share} of the text). Line: "
                f"95{GAP}% interval of the difference, laid at the tick. Filled: format and content differ (p < 0.05). "
                f"n = {plural(min(row.documents for row in rows), 'document')} a swap at least.{seed_note(suite, run)}"
            ),
            make=partial(format_swap_forest, rows, legend_of(suite).styles()[run.arm]["color"]),
        )
