"""What each figure of the evidence shows, in words with its numbers: their titles."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.causal.effects import KnockoutRow
from moe_emergence.analysis.causal.regret import RegretRow
from moe_emergence.analysis.causal.specificity import SpecificityRow
from moe_emergence.analysis.coactivation import CoactivationRow
from moe_emergence.analysis.format_swaps import FormatSwapRow
from moe_emergence.analysis.saturation import SaturationRow
from moe_emergence.analysis.scoreboard import ScoreRow
from moe_emergence.analysis.specialisation import ALPHA
from moe_emergence.analysis.statistics import benjamini_hochberg
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.causal_figures import MEAN, excludes_zero
from moe_emergence.report.evidence_tables import PER_AFFECTED
from moe_emergence.report.numbers import (
    GAP,
    count,
    decimal,
    difference,
    difference_interval,
    interval,
    percent,
    percent_interval,
    plural,
)
from moe_emergence.report.pattern_figures import Term, excess
from moe_emergence.report.plain_names import measure_words

OfLayer = TypeVar("OfLayer", RegretRow, SpecificityRow)
ADJUSTED = f"p < {ALPHA}, Benjamini–Hochberg over {{}}"
"""What a count is judged by, and over what."""
ALL_HOT = "The router's choice cannot be judged: every layer has a hot expert"


def found_among(p_values: Sequence[float]) -> list[bool]:
    """Which of several tests that are counted together are beyond chance: at most 5 % of those found are by luck."""
    return [bool(p < ALPHA) for p in benjamini_hochberg(np.array(p_values, dtype=np.float64))]


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
    beyond = sum(found_among([row.domain_given_token_p for row in last]))
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
    """The expert and domain that one run's loss depends on most, of those whose interval is above 0, and how many of
    the drawn cells are bold, and still beyond chance as a family; `done` says what was done to the expert."""
    above = [row for row in rows if row.low > 0]
    top = max(above or rows, key=lambda row: row.effect)
    expert, domain = f"expert {top.expert} of layer {top.layer}", top.domain or MEAN
    change = f"{difference_interval(top.effect, top.low, top.high)} nats a token"
    if above:
        told = f"{expert} costs {domain} the most of those whose interval is above 0, {change}"
    else:
        told = f"no cell's interval is above 0; the largest is {expert} for {domain}, {change}"
    bold = sum(map(excludes_zero, rows))
    sides = f" (above it in {len(above)})" if 0 < len(above) < bold else ""
    lasting = sum(found_among([row.p for row in rows]))
    counted = f"in {bold} of {plural(len(rows), 'cell')}{sides}, {lasting} of them by Benjamini–Hochberg over cells"
    return f"{top.arm}: {done}, {told}; the interval excludes 0 {counted}"


def saturation_finding(rows: Sequence[SaturationRow]) -> str:
    """How much of the last routing is there at the first trace, and halfway, from the least to the most layer."""
    steps = sorted({row.step for row in rows})
    halfway = min(steps, key=lambda step: (abs(step - steps[-1] / 2), step))
    told = []
    for step in dict.fromkeys((steps[0], halfway)):
        ordered = sorted((row for row in rows if row.step == step), key=lambda row: row.overlap)
        least, most = ordered[0], ordered[-1]
        told.append(f"{percent(least.overlap)} ({_layer(least)}) to {percent(most.overlap)} ({_layer(most)}) at step "
                    f"{count(step)}")  # fmt: skip
    chance = sorted({row.chance for row in rows})
    ends = " to ".join(dict.fromkeys((percent(chance[0]), percent(chance[-1]))))
    return f"Of the last step's choices there are already {', and '.join(told)}; chance {ends}"


def _layer(row: SaturationRow | RegretRow) -> str:
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
    found = found_among([row.p for row in rows])
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
    found = found_among([row.p for row in rows])
    more = sum(mine and row.difference > 0 for mine, row in zip(found, rows, strict=True))
    top = max(rows, key=lambda row: row.difference)
    change = f"{difference(top.difference)} bits beyond as much content"
    return (
        f"{rows[0].arm}: a change of format moves experts more than as much change of content in {more} of "
        f"{len(rows)}{GAP}layers × swaps ({ADJUSTED.format('them')}); most {top.domain} {top.swap}, "
        f"layer {top.layer}: {change}"
    )
