"""What each figure of the evidence shows, in words with its numbers: their titles."""

from collections.abc import Sequence
from statistics import mean
from typing import TypeVar

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.causal.regret import RegretRow
from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.coactivation import CoactivationRow
from moe_emergence.analysis.format_swaps import FormatSwapRow
from moe_emergence.analysis.saturation import SaturationRow
from moe_emergence.analysis.scoreboard import ScoreRow
from moe_emergence.analysis.scores import PER_AFFECTED
from moe_emergence.analysis.specialisation import ALPHA
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.causal_figures import MEAN
from moe_emergence.report.numbers import (
    GAP,
    count,
    decimal,
    difference,
    difference_interval,
    interval,
    minus,
    percent,
    percent_interval,
    plural,
)
from moe_emergence.report.pattern_figures import Term, excess
from moe_emergence.report.plain_names import measure_words
from moe_emergence.report.verdicts import beyond_chance

OfLayer = TypeVar("OfLayer", RegretRow, SpecificityRow)
ADJUSTED = f"p < {ALPHA}, Benjamini–Hochberg over {{}}"
"""What a count is judged by, and over what."""
ALL_HOT = "The router's choice cannot be judged: every layer has a hot expert"


def split_finding(rows: Sequence[TokenSplitRow], term: Term) -> str:
    """The layer that ends with the most of one term of I(E;D,X), and with how much it began, bits and share of what the
    term can be; how many layers are beyond chance."""
    last = [row for row in rows if row.step == max(other.step for other in rows if other.arm == row.arm)]
    top = max(last, key=lambda row: _bits(row, term)[0])
    begun = next((row for row in rows if row.step == 0 and (row.arm, row.layer) == (top.arm, top.layer)), None)
    before = "" if begun is None or begun is top else f", from {_ending(begun, term)} at step 0"
    if term == "token":
        lead = f"A token's id tells most of its expert in {top.arm}, layer {top.layer}"
        return f"{lead}: {_ending(top, term)}{before}"
    beyond = sum(beyond_chance([row.domain_given_token_p for row in last]))
    return (
        f"Given the token, experts still tell the domain in {beyond} of {plural(len(last), 'layer')} "
        f"({ADJUSTED.format('layers')}); most in {top.arm}, layer {top.layer}: {_ending(top, term)}{before}"
    )


def _ending(row: TokenSplitRow, term: Term) -> str:
    """`0.200 [0.010, 0.400] bits, 12.5 % of H(E)`."""
    share, ceiling = (row.token_share, "H(E)") if term == "token" else (row.domain_given_token_share, "H(D|X)")
    return f"{interval(*_bits(row, term))} bits, {percent(share)} of {ceiling}"


def _bits(row: TokenSplitRow, term: Term) -> tuple[float, float, float]:
    if term == "token":
        return row.token_information, row.token_low, row.token_high
    return row.domain_given_token, row.domain_given_token_low, row.domain_given_token_high


def knockout_finding(rows: Sequence[KnockoutRow], done: str) -> str:
    """In how many of one figure's cells loss changes beyond chance, and the largest such change, a rise where there is
    one; `done` says what was done to an expert."""
    found = [row for row, beyond in zip(rows, beyond_chance([row.p for row in rows]), strict=True) if beyond]
    lead, cells = f"{rows[0].arm}: {done}", plural(len(rows), "cell")
    if not found:
        return f"{lead}, no domain's loss changes beyond chance in any of {cells}"
    rises = [row for row in found if row.effect > 0]
    top = max(rises or found, key=lambda row: abs(row.effect))
    falls = len(found) - len(rises)
    sides = [f"rises beyond chance in {len(rises)}"] if rises else []
    sides += [f"falls{'' if rises else ' beyond chance'} in {falls}"] if falls else []
    return (
        f"{lead}, loss {' and '.join(sides)} of {cells}; most for expert {top.expert} of layer {top.layer} on "
        f"{top.domain or MEAN}: {difference_interval(top.effect, top.low, top.high)} nats a token"
    )


def saturation_finding(rows: Sequence[SaturationRow]) -> str:
    """How far routing is that of the last step, beyond what the loads of both steps give, at the first trace and
    halfway: the layers with the least and the most, means of seeds; rows of `evenly_loaded`."""
    if not rows:
        return "Saturation cannot be judged: every layer has a hot expert"
    steps = sorted({row.step for row in rows})
    halfway = min(steps, key=lambda step: (abs(step - steps[-1] / 2), step))
    told = [
        f"{_ends([row for row in rows if row.step == step])}{'' if number else ' percentage points'} at step "
        f"{count(step)}"
        for number, step in enumerate(dict.fromkeys((steps[0], halfway)))
    ]
    return f"Beyond what loads alone give, routing agrees with the last step's {' and '.join(told)}"


def _ends(rows: Sequence[SaturationRow]) -> str:
    """`by 17.5 (moe, layer 2) to 25.0 (top2, layer 2)`, percentage points."""
    points: dict[str, list[float]] = {}
    for row in rows:
        points.setdefault(f"{row.arm}, layer {row.layer}", []).append(100 * (row.overlap - row.chance_loads))
    ordered = sorted((mean(values), where) for where, values in points.items())
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return f"by {' to '.join(f'{minus(value, 1)} ({where})' for value, where in ends)}"


def evenly_loaded(rows: Sequence[SaturationRow], routing: Sequence[RoutingRow]) -> list[SaturationRow]:
    """Without an arm's layers that have a hot expert in any seed: where one expert takes nearly all, any two steps
    agree."""
    hot = {(row.arm, row.layer) for row in routing if row.hot}
    return [row for row in rows if (row.arm, row.layer) not in hot]


def _layer(row: RegretRow) -> str:
    return f"{row.arm}, layer {row.layer}"


def _place(row: RegretRow, rows: Sequence[RegretRow]) -> str:
    return f"{_layer(row)}{f', seed {row.seed}' if len({other.seed for other in rows}) > 1 else ''}"


def coactivation_finding(rows: Sequence[CoactivationRow]) -> str:
    """The pair of one run's experts that serve tokens together most, against independent choice: the picture's ratio,
    since a lift of 1 is no chance where no expert is chosen twice."""
    top = max(rows, key=excess)
    first, second = sorted((top.expert, top.other))
    return (
        f"{top.arm}: experts {first} and {second} of layer {top.layer} serve tokens together {decimal(excess(top))} "
        "times as often as independent choice at their loads would have them"
    )


def spread_layers(rows: Sequence[OfLayer], routing: Sequence[RoutingRow]) -> list[OfLayer]:
    """Without layers that have a hot expert: there another expert costs because hardly any token trained it, which is
    no merit of the router's choice."""
    hot = {(row.arm, row.seed, row.layer) for row in routing if row.hot}
    return [row for row in rows if (row.arm, row.seed, row.layer) not in hot]


def layers_that_pay(rows: Sequence[RegretRow]) -> int:
    """In how many layers another expert than the chosen one loses, beyond chance."""
    found = beyond_chance([row.p for row in rows])
    return sum(mine and row.regret > 0 for mine, row in zip(found, rows, strict=True))


def regret_finding(rows: Sequence[RegretRow]) -> str:
    """In how many layers the choice pays, and where most; rows of `spread_layers`."""
    if not rows:
        return ALL_HOT
    pays = layers_that_pay(rows)
    top = max(rows, key=lambda row: row.regret)
    return (
        f"The router's choice saves loss, beyond chance, in {pays} of {plural(len(rows), 'layer')} "
        f"({ADJUSTED.format('layers')}); most in {_place(top, rows)}: "
        f"{difference_interval(top.regret, top.low, top.high)} nats a token"
    )


def best_choice_finding(rows: Sequence[RegretRow]) -> str:
    """Where the chosen expert is the best most often above the worst: an expert unlike the others is both more often
    than chance, whoever chooses; rows of `spread_layers`."""
    if not rows:
        return ALL_HOT
    speaking = [row for row in rows if row.best_low > row.worst_high]
    top = max(rows, key=lambda row: row.best_share - row.worst_share)
    return (
        f"The chosen expert is a token's best more often than its worst in {len(speaking)} of "
        f"{plural(len(rows), 'layer')} (intervals apart); most in {_place(top, rows)}: best for "
        f"{percent_interval(top.best_share, top.best_low, top.best_high)} of tokens, worst for "
        f"{percent_interval(top.worst_share, top.worst_low, top.worst_high)}, each by chance for "
        f"{percent(top.chance_share)}"
    )


def scoreboard_finding(rows: Sequence[ScoreRow]) -> str:
    """How many measures order experts as rerouting them does, and which does best: by what a token that used the expert
    loses, then by all tokens' loss, which contains the load."""
    kinds = {
        "By what a token that used the expert loses": [row for row in rows if PER_AFFECTED in row.effect],
        "by the loss of all tokens, which contains the load": [row for row in rows if PER_AFFECTED not in row.effect],
    }
    told = "; ".join(f"{name}, {_ordering(mine)}" for name, mine in kinds.items() if mine)
    return told[:1].upper() + told[1:]


def _ordering(rows: Sequence[ScoreRow]) -> str:
    known = [(row, row.rho) for row in rows if row.rho is not None]
    found = [(row, rho) for row, rho in known if row.p_adjusted is not None and row.p_adjusted < ALPHA]
    order = "orders" if len(found) == 1 else "order"
    lead = f"{len(found)} of {plural(len(known), 'measure')} {order} experts beyond chance"
    if not found:
        return f"none of {plural(len(known), 'measure')} orders experts beyond chance"
    top, rho = max(found, key=lambda pair: abs(pair[1]))
    ends = "" if top.low is None or top.high is None else f" [{decimal(top.low)}, {decimal(top.high)}]"
    return f"{lead} (most: {measure_words(top.measure)}, rho {decimal(rho)}{ends})".replace("-", "−")


def swap_finding(rows: Sequence[FormatSwapRow]) -> str:
    """In how many of one run's layers and swaps format moves experts more than content, and where most."""
    found = beyond_chance([row.p for row in rows])
    more = sum(mine and row.difference > 0 for mine, row in zip(found, rows, strict=True))
    top = max(rows, key=lambda row: row.difference)
    change = f"{difference(top.difference)} bits beyond as much content"
    return (
        f"{rows[0].arm}: a change of format moves experts more than as much change of content in {more} of "
        f"{len(rows)}{GAP}layers × swaps ({ADJUSTED.format('them')}); most {top.domain} {top.swap}, "
        f"layer {top.layer}: {change}"
    )
