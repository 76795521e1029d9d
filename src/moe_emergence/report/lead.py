"""The first lines of the page: do experts specialise, what does it gain, what does no balancing cost, is it token or
domain. One sentence each, of at most 30 words and one number with its range; where a suite cannot answer, the sentence
says why. Everything else is in the box below."""

from collections.abc import Callable, Sequence

from moe_emergence.analysis.arm_verdicts import ArmVerdictRow
from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.comparisons import LossDifferenceRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE, UNTESTED, learns
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.answer_balance import balanced_reference
from moe_emergence.report.answer_specialisation import strongest
from moe_emergence.report.lead_gain import gain
from moe_emergence.report.numbers import (
    GAP,
    difference_interval,
    magnitude_interval,
    percent,
    percent_interval,
    percent_range,
)
from moe_emergence.report.shown import at_last_step
from moe_emergence.report.verdicts import (
    arm_verdicts,
    is_learned,
    is_told,
    over_seeds,
    share_with_interval,
    untrained_reach,
)

TOKEN_ID = "token id"


def lead(suite: Suite, tables: Tables) -> tuple[str, str, str, str]:
    """The four answers, in this order."""
    return _specialise(suite, tables), _gain(suite, tables), _cost(suite, tables), _token_or_domain(suite, tables)


def balanced_arms(suite: Suite) -> list[str]:
    """Arms whose routers learn and are balanced, by a loss or by a bias."""
    return [arm.name for arm in suite.arms if _all(suite.runs_of(arm.name), learns, _is_balanced)]


def unbalanced_arms(suite: Suite) -> list[str]:
    """Arms whose routers learn and that nothing balances."""
    return [arm.name for arm in suite.arms if _all(suite.runs_of(arm.name), learns, lambda run: not _is_balanced(run))]


def first_arm(suite: Suite) -> str:
    """The one that the first lines are about: the first balanced one, else the first that learns."""
    return next(iter((*balanced_arms(suite), *unbalanced_arms(suite))), "")


def _all(runs: Sequence[Run], *tests: Callable[[Run], bool]) -> bool:
    return bool(runs) and all(test(run) for run in runs for test in tests)


def _is_balanced(run: Run) -> bool:
    return run.config.moe is not None and (run.config.moe.balance_coef > 0 or run.config.moe.bias_rate > 0)


def _no_experts(suite: Suite) -> str | None:
    """Why nothing can be said of experts at all."""
    if not suite.runs:
        return "no run has ended yet" if suite.going else "no run has a result"
    if all(run.config.moe is None for run in suite.runs):
        return "no run with a result has experts"
    return None if first_arm(suite) else "no run with a result has a router that learns"


def _specialise(suite: Suite, tables: Tables) -> str:
    """`Yes: in layer 3 of moe, a token's expert tells 55.0 % [52.0, 58.0] of its domain; untrained gates rarely over
    32 %.`"""
    if reason := _no_experts(suite):
        return f"Not known: {reason}."
    arm = first_arm(suite)
    rows, hot = arm_verdicts(tables, arm), _hot(suite, tables, arm)
    learned = [row for row in rows if is_learned(row) and row.layer not in {found.layer for found in hot}]
    if learned:
        return _yes(strongest(learned))
    if hot:
        return _collapsed(suite, arm, hot)
    if not rows:
        return "Not known: it takes two domains, each with two held-out documents or more."
    told = [row for row in rows if is_told(row)]
    return _told(tables, strongest(told)) if told else _nothing(tables, strongest(rows))


def _yes(row: ArmVerdictRow) -> str:
    gates = percent(round(untrained_reach(row), 3))
    return (
        f"Yes: in layer {row.layer} of {row.arm}, a token's expert tells {share_with_interval(row)} of its domain"
        f"{over_seeds([row])}; untrained gates rarely over {gates}."
    )


def _hot(suite: Suite, tables: Tables, arm: str) -> list[RoutingRow]:
    """Layers of runs of the arm in which a hot expert takes most tokens at the last step."""
    return [row for row in at_last_step(suite, tables.routing) if row.arm == arm and row.hot]


def _collapsed(suite: Suite, arm: str, hot: Sequence[RoutingRow]) -> str:
    layer = max(hot, key=lambda row: row.excess).layer
    rows, runs = [row for row in hot if row.layer == layer], len(suite.runs_of(arm))
    loads = [row.max_load for row in rows]
    often = f" (in {len(rows)} of {runs}{GAP}seeds)" if runs > 1 else ""
    balanced = ", though balanced," if arm in balanced_arms(suite) else ""
    return (
        f"Collapsed: in layer {layer} of {arm}{balanced} the busiest expert takes "
        f"{percent_range(min(loads), max(loads))} of assignments{often}; no specialisation is claimed."
    )


def _told(tables: Tables, row: ArmVerdictRow) -> str:
    """Of a layer that tells more of the domain than both nulls do: what is missing."""
    if row.verdict == UNTESTED:
        some = " in every run" if any(found.arm == row.arm for found in tables.specificity) else ""
        word, but = "Untested", f"what rerouting experts costs was not measured{some}"
    else:
        word, but = "Unproven", "no expert is shown to matter more to one domain"
    return f"{word}: {_tells(row)}, beyond untrained gates, but {but}."


def _nothing(tables: Tables, row: ArmVerdictRow) -> str:
    """Of the layer that tells most, where that is no evidence; first whether there is anything to specialise for."""
    scale = next((found for found in tables.oracle_gains if found.arm == row.arm), None)
    if scale is not None and scale.share is None:
        gain = scale.oracle_gain, scale.oracle_low, scale.oracle_high
        changed = (
            f"loses {magnitude_interval(*gain)}" if scale.oracle_high < 0 else f"gains {difference_interval(*gain)}"
        )
        return (
            f"No evidence, and nothing to specialise for is shown: routing by domain {changed} nats per token "
            f"over dense."
        )
    return f"No evidence: {_tells(row, ' most,')}, not shown to be beyond untrained gates and chance."


def _tells(row: ArmVerdictRow, most: str = "") -> str:
    over = f" over {row.seeds}{GAP}seeds" if row.seeds > 1 else ""
    return f"layer {row.layer} of {row.arm} tells{most} {share_with_interval(row)} of the domain{over}"


def _gain(suite: Suite, tables: Tables) -> str:
    reason = _no_experts(suite)
    return f"What experts gain is not known: {reason}." if reason else gain(suite, tables, first_arm(suite))


def _cost(suite: Suite, tables: Tables) -> str:
    """`Without balancing (no_lb), up to 6 of a layer's 8 experts die (5 of 5 seeds); LM loss rises by …`."""
    unknown = "What no balancing costs is not known"
    if reason := _no_experts(suite):
        return f"{unknown}: {reason}."
    arm = next(iter(unbalanced_arms(suite)), None)
    if arm is None:
        return f"{unknown}: no arm without balancing has a result."
    balance = f"Without balancing ({arm}), {_dying(suite, tables, arm)}"
    reference = balanced_reference(suite, arm, balanced_arms(suite))
    if reference is None:
        return f"{balance}; what that costs is not known: no balanced arm has a result."
    rows = [row for row in tables.loss_differences if (row.arm, row.against, row.domain) == (arm, reference, None)]
    return f"{balance}; {_loss(rows[0]) if rows else 'what that costs is not known, for want of documents'}."


def _dying(suite: Suite, tables: Tables, arm: str) -> str:
    rows = [row for row in at_last_step(suite, tables.routing) if row.arm == arm]
    dead = [row for row in rows if row.dead]
    if not dead:
        return "no expert dies"
    worst, seeds = max(dead, key=lambda row: len(row.dead)), len({row.seed for row in rows})
    often = f" ({len({row.seed for row in dead})} of {seeds}{GAP}seeds)" if seeds > 1 else ""
    return f"up to {len(worst.dead)} of a layer's {worst.experts} experts die{often}"


def _loss(row: LossDifferenceRow) -> str:
    if row.low > 0 or row.high < 0:
        verb = "rises" if row.low > 0 else "falls"
        change = magnitude_interval(row.difference, row.low, row.high)
        return f"LM loss {verb} by {change} nats per token against {row.against}"
    change = difference_interval(row.difference, row.low, row.high)
    return f"LM loss shows no clear change: {change} nats per token against {row.against}"


def _token_or_domain(suite: Suite, tables: Tables) -> str:
    """`Layer 3 of moe goes by the token id and, for one id, by the domain (1.6 % [0.8, 2.4] of what ids leave …).`"""
    unknown = "Whether experts go by the token or by the domain is not known"
    if reason := _no_experts(suite):
        return f"{unknown}: {reason}."
    arm = first_arm(suite)
    split = [row for row in tables.token_split if (row.arm, row.counted, row.x) == (arm, FIRST_CHOICE, TOKEN_ID)]
    last = at_last_step(suite, split)
    if not last:
        return f"{unknown}: too few token ids are frequent in two domains, or it was not measured."
    measured = {row.layer for row in last}
    judged = [row for row in arm_verdicts(tables, arm) if row.layer in measured]
    layer = _foremost(judged).layer if judged else max(measured)
    return _followed(arm, layer, [row for row in last if row.layer == layer])


def _foremost(rows: Sequence[ArmVerdictRow]) -> ArmVerdictRow:
    """The layer that tells most, among those that are shown to have learned where there are any."""
    return strongest([row for row in rows if is_learned(row)] or rows)


def _followed(arm: str, layer: int, rows: Sequence[TokenSplitRow]) -> str:
    kinds, left = dict.fromkeys(map(_kind, rows)), f"({_beyond(rows)} of what ids leave open)"
    if len(kinds) > 1:
        what = f"Whether layer {layer} of {arm} goes by token id or domain"
        return f"{what} differs among its {len(rows)}{GAP}seeds {left}."
    every = f", in all {len(rows)}{GAP}seeds" if len(rows) > 1 else ""
    return f"Layer {layer} of {arm} goes by {next(iter(kinds))}{every} {left}."


def _kind(row: TokenSplitRow) -> str:
    """What the expert is shown to depend on; how much of each is no question of p."""
    domain, token = row.domain_given_token_p < ALPHA, row.token_p < ALPHA
    if domain:
        return "the token id and, for one id, by the domain" if token else "the domain, not shown by the token id"
    return "the token id alone, as far as is shown" if token else "neither token id nor domain, as far as is shown"


def _beyond(rows: Sequence[TokenSplitRow]) -> str:
    """What the expert tells of the domain of two tokens with one id, of what the id leaves open."""
    shares = [row.domain_given_token_share for row in rows]
    if len(rows) > 1:
        return percent_range(min(shares), max(shares))
    row = rows[0]
    return percent_interval(
        row.domain_given_token_share, row.domain_given_token_low_share, row.domain_given_token_high_share
    )
