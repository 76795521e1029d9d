"""Cards of experts: what each takes, what it is worth, and what it resembles, as values a template prints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.similarity import PairRow, SimilarityRow
from moe_emergence.analysis.specialisation import FIRST_CHOICE
from moe_emergence.analysis.tables import Tables, prepared
from moe_emergence.analysis.token_rows import TokenClassRow
from moe_emergence.analysis.token_types import token_bytes
from moe_emergence.analysis.traces import read_trace, trace_steps
from moe_emergence.analysis.vocabulary import CharacteristicTokenRow
from moe_emergence.data.blocks import PreparedData
from moe_emergence.report import numbers as n
from moe_emergence.report.evidence_tables import REROUTED
from moe_emergence.report.excerpts import Excerpt, layer_excerpts
from moe_emergence.report.passages import spelled_token
from moe_emergence.report.shown import Row, first_runs, of_run

CARDS = 16
"""How many experts of a layer have a card: of more, those with the largest share of a domain."""
CLASSES, CLASS_TOKENS = 3, 50
"""How many token classes a card names at most, and how many tokens a class has at least to be named."""
OWN_TOKENS = 5
"""How many tokens of an id an expert takes at least for the id to be named on its card."""


@dataclass(frozen=True, kw_only=True)
class DomainBar:
    """An expert's share of a domain, and where its ends lie on the layer's scale, all % of the scale's length."""

    domain: str
    told: str
    width: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ExpertCard:
    """One expert of one layer of one run at its last step.

    Attributes:
        state: dead, hot or nothing, on test text.
        lead: the domain that it takes most of, against the uniform share.
        bars: by domain; uniform: where 1/E lies on their scale, %.
        classes: the token classes that it takes most beyond the uniform share.
        tokens: (text, what is to be said of it) of its characteristic tokens, most characteristic first; none where it
            takes no id beyond its load.
        effects: (domain, loss change when its tokens are rerouted), the mean of domains first; none where not tested.
        likeness: how it resembles its ancestor and siblings; empty where not recorded.
    """

    expert: int
    state: str
    lead: str
    bars: tuple[DomainBar, ...]
    uniform: float
    classes: tuple[str, ...]
    tokens: tuple[tuple[str, str], ...]
    excerpts: tuple[Excerpt, ...]
    effects: tuple[tuple[str, str], ...]
    likeness: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LayerCards:
    """The cards of one layer; `summary` says what is folded, `left_out` which experts have none, and why."""

    layer: int
    summary: str
    left_out: str
    cards: tuple[ExpertCard, ...]


@dataclass(frozen=True, kw_only=True)
class ArmCards:
    """Cards of an arm's first seed; `token_set` is the text that its characteristic tokens were counted in."""

    arm: str
    seed: int
    token_set: str
    layers: tuple[LayerCards, ...]


def specialists(suite: Suite, tables: Tables) -> list[ArmCards]:
    """Every arm with experts; a layer has cards where its shares were measured.

    Raises:
        DataError: the prepared data is not there or has changed.
    """
    runs = [run for run in first_runs(suite) if of_run(run, tables.shares)]
    data = prepared(suite) if runs else None
    return [_arm(run, tables, data) for run in runs if data is not None]


def _arm(run: Run, tables: Tables, data: PreparedData) -> ArmCards:
    trace = read_trace(run, run.last_step)
    layers = []
    for layer in trace.layers:
        rows = _rows(run, tables, layer.layer)
        shown = shown_experts(rows.shares)
        excerpts = layer_excerpts(data, trace, layer, shown)
        layers.append(
            LayerCards(
                layer=layer.layer,
                summary=_summary(rows),
                left_out=_left_out(rows, shown),
                cards=tuple(_card(rows, data, expert, tuple(excerpts[expert])) for expert in shown),
            )
        )
    wide = run.last_step in trace_steps(run, wide=True)
    return ArmCards(arm=run.arm, seed=run.seed, token_set=f"{'wide ' if wide else ''}probe set", layers=tuple(layers))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The rows of one layer of one run at its last step, of first choices where both are counted."""

    routing: RoutingRow
    shares: list[ShareRow]
    classes: list[TokenClassRow]
    tokens: list[CharacteristicTokenRow]
    knockouts: list[KnockoutRow]
    similarity: dict[int, SimilarityRow]
    pairs: dict[tuple[int, int], PairRow]


def _rows(run: Run, tables: Tables, layer: int) -> _Rows:
    def mine(rows: Sequence[Row]) -> list[Row]:
        return [row for row in of_run(run, rows) if row.layer == layer]

    return _Rows(
        routing=mine(tables.routing)[0],
        shares=mine(tables.shares),
        classes=[row for row in mine(tables.token_classes) if row.counted == FIRST_CHOICE],
        tokens=[row for row in mine(tables.characteristic_tokens) if row.counted == FIRST_CHOICE],
        knockouts=[row for row in mine(tables.knockouts) if row.intervention == REROUTED],
        similarity={row.expert: row for row in mine(tables.similarity)},
        pairs={(row.first, row.second): row for row in mine(tables.expert_pairs)},
    )


def shown_experts(shares: Sequence[ShareRow], most: int = CARDS) -> list[int]:
    """The `most` experts with the largest share of a domain, in the order of their numbers."""
    largest: dict[int, float] = {}
    for row in shares:
        largest[row.expert] = max(row.share, largest.get(row.expert, 0.0))
    return sorted(sorted(largest, key=lambda expert: (-largest[expert], expert))[:most])


def _summary(rows: _Rows) -> str:
    top = max(rows.shares, key=lambda row: row.share)
    routing = rows.routing
    dead = f", {len(routing.dead)} dead" if routing.dead else ""
    return (
        f"layer {routing.layer}: {n.plural(routing.experts, 'expert')}{dead}; largest share: expert {top.expert}, "
        f"{n.percent(top.share)} of {top.domain}"
    )


def _left_out(rows: _Rows, shown: Sequence[int]) -> str:
    others = sorted({row.expert for row in rows.shares} - set(shown))
    if not others:
        return ""
    return (
        f"Of {rows.routing.experts} experts, the {len(shown)} with the largest share of a domain are shown. Without a "
        f"card: {n.number_list(others)}; their numbers are in the tables."
    )


def _card(rows: _Rows, data: PreparedData, expert: int, excerpts: tuple[Excerpt, ...]) -> ExpertCard:
    shares = [row for row in rows.shares if row.expert == expert]
    scale = max(row.high for row in rows.shares) or 1.0
    return ExpertCard(
        expert=expert,
        state="dead" if expert in rows.routing.dead else "hot" if expert in rows.routing.hot else "",
        lead=lead(shares),
        bars=tuple(_bar(row, scale) for row in shares),
        uniform=_place(shares[0].uniform, scale),
        classes=tuple(most_taken(rows.classes, expert)),
        tokens=tuple(_tokens(rows, data, expert)),
        excerpts=excerpts,
        effects=tuple(knocked_out(rows.knockouts, expert)),
        likeness=tuple(_likeness(rows, expert)),
    )


def lead(shares: Sequence[ShareRow]) -> str:
    """`31.0 % of code, 2.48 times the uniform 12.5 %`, of the domain that one expert takes most of."""
    top = max(shares, key=lambda row: row.share)
    if top.share == 0:
        return "takes no assignment of the probe set"
    times = f"{n.decimal(top.share / top.uniform)} times the uniform {n.percent(top.uniform)}"
    return f"{n.percent(top.share)} of {top.domain}, {times}"


def _bar(row: ShareRow, scale: float) -> DomainBar:
    return DomainBar(
        domain=row.domain,
        told=n.percent_interval(row.share, row.low, row.high),
        width=_place(row.share, scale),
        low=_place(row.low, scale),
        high=_place(row.high, scale),
    )


def _place(share: float, scale: float) -> float:
    return round(100 * min(1.0, share / scale), 2)


def most_taken(rows: Sequence[TokenClassRow], expert: int) -> Iterator[str]:
    """`comment in code: 31.0 % of 1,920 tokens, 2.48 times uniform`: the classes it takes most of, beyond 1/E alone.

    Args:
        rows: token classes × experts of one layer.
    """
    totals: dict[tuple[str, str], int] = {}
    for row in rows:
        totals[row.domain, row.token_class] = totals.get((row.domain, row.token_class), 0) + row.assignments
    mine = [row for row in rows if row.expert == expert and row.share > row.uniform]
    frequent = [row for row in mine if totals[row.domain, row.token_class] >= CLASS_TOKENS]
    for row in sorted(frequent, key=lambda row: -row.share)[:CLASSES]:
        tokens = n.count(totals[row.domain, row.token_class])
        times = f"{n.decimal(row.share / row.uniform)} times uniform"
        yield f"{row.token_class} in {row.domain}: {n.percent(row.share)} of {tokens} tokens, {times}"


def characteristic(rows: Sequence[CharacteristicTokenRow], expert: int) -> list[CharacteristicTokenRow]:
    """An expert's own, in order of rank: ids of which it takes more than of all tokens, by their intervals, and enough
    tokens for that to be no accident."""
    mine = [row for row in rows if row.expert == expert and row.share * row.occurrences > OWN_TOKENS - 0.5]
    return sorted((row for row in mine if row.low > row.share / row.lift), key=lambda row: row.rank)


def _tokens(rows: _Rows, data: PreparedData, expert: int) -> Iterator[tuple[str, str]]:
    for row in characteristic(rows.tokens, expert):
        (piece,) = token_bytes([row.token_id], data.tokenizer)
        share = n.percent_interval(row.share, row.low, row.high)
        yield spelled_token(piece), f"{share} of {n.count(row.occurrences)} occurrences, lift {n.decimal(row.lift)}"


def knocked_out(rows: Sequence[KnockoutRow], expert: int) -> Iterator[tuple[str, str]]:
    """(domain, change of its loss with interval, nats a token), the mean of domains first."""
    mine = sorted((row for row in rows if row.expert == expert), key=lambda row: row.domain is not None)
    for row in mine:
        yield row.domain or "mean of domains", n.difference_interval(row.effect, row.low, row.high)


def _likeness(rows: _Rows, expert: int) -> Iterator[str]:
    own = rows.similarity.get(expert)
    if own is None:
        return
    yield f"ancestor: output cosine {n.signed(own.ancestor_output_cosine)}, drift of the weights {n.tiny(own.drift)}"
    if own.nearest is not None:
        pair = rows.pairs.get((min(expert, own.nearest), max(expert, own.nearest)))
        value = "" if pair is None else f" ({n.signed(pair.output_cosine)})"
        yield f"siblings: output cosine {n.signed(own.output_cosine)} on average; nearest: expert {own.nearest}{value}"
