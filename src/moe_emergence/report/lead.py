"""The first lines of the page: do experts specialise, what does no balancing cost, is it token or domain. One sentence
each, with numbers and intervals; where a suite cannot answer, the sentence says why."""

from collections.abc import Callable, Sequence

from moe_emergence.analysis.arm_verdicts import ArmVerdictRow
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_information import TokenSplitRow
from moe_emergence.report.answer_balance import arm_balance, balanced_reference
from moe_emergence.report.answer_loss import against_in_words
from moe_emergence.report.answer_specialisation import layer_information, strongest, untrained
from moe_emergence.report.numbers import GAP, count, interval, listed, loss, p_value, percent_range, span
from moe_emergence.report.shown import at_last_step
from moe_emergence.report.verdicts import (
    arm_verdicts,
    fresh_range,
    is_learned,
    largest_p,
    layer_names,
    null_range,
    verdict_phrase,
)

TOKEN_ID = "token id"
_NEITHER = "neither token id nor domain, as far as is shown"
_AND_DOMAIN = " and, for one id, on the domain"


def lead(suite: Suite, tables: Tables) -> tuple[str, str, str]:
    """The three answers, in this order."""
    return _specialise(suite, tables), _cost(suite, tables), _token_or_domain(suite, tables)


def balanced_arms(suite: Suite) -> list[str]:
    """Arms whose routers learn and are balanced, by a loss or by a bias."""
    return [arm.name for arm in suite.arms if _all(suite.runs_of(arm.name), _learns, _is_balanced)]


def unbalanced_arms(suite: Suite) -> list[str]:
    """Arms whose routers learn and that nothing balances."""
    return [arm.name for arm in suite.arms if _all(suite.runs_of(arm.name), _learns, lambda run: not _is_balanced(run))]


def _all(runs: Sequence[Run], *tests: Callable[[Run], bool]) -> bool:
    return bool(runs) and all(test(run) for run in runs for test in tests)


def _learns(run: Run) -> bool:
    return run.config.moe is not None and run.config.moe.router == "learned"


def _is_balanced(run: Run) -> bool:
    return run.config.moe is not None and (run.config.moe.balance_coef > 0 or run.config.moe.bias_rate > 0)


def _no_experts(suite: Suite) -> str | None:
    """Why nothing can be said of experts at all."""
    if not suite.runs:
        return "no run has ended yet" if suite.going else "no run has a result"
    if all(run.config.moe is None for run in suite.runs):
        return "no run with a result has experts"
    return None if any(map(_learns, suite.runs)) else "no run with a result has a router that learns"


def _specialise(suite: Suite, tables: Tables) -> str:
    """`moe, balanced, shows learned specialisation in layer 3: …; among other balanced arms: top2 in layer 3, …`."""
    unknown = "Whether experts specialise is not known"
    if reason := _no_experts(suite):
        return f"{unknown}: {reason}."
    arms = balanced_arms(suite)
    if not arms:
        others = [f"{arm} shows {_verdict(tables, arm)}" for arm in unbalanced_arms(suite) if _verdict(tables, arm)]
        return f"Whether balanced experts specialise is not known: no balanced arm has a result{_then(others)}."
    first, *others = arms
    rows = arm_verdicts(tables, first)
    if not rows:
        return f"{unknown}: it takes two domains, each with two held-out documents or more."
    return f"{first}, balanced, shows {_verdict(tables, first)}: {_information(rows)}{_others(tables, others)}."


def _then(parts: Sequence[str]) -> str:
    return "".join(f"; {part}" for part in parts)


def _verdict(tables: Tables, arm: str) -> str:
    rows = arm_verdicts(tables, arm)
    return verdict_phrase(rows) if rows else ""


def _foremost(rows: Sequence[ArmVerdictRow]) -> ArmVerdictRow:
    """The layer that tells most, among those that are shown to have learned where there are any."""
    return strongest([row for row in rows if is_learned(row)] or rows)


def _information(rows: Sequence[ArmVerdictRow]) -> str:
    top = _foremost(rows)
    fresh = fresh_range(top)
    gates = f"{untrained(rows)} reach {percent_range(*fresh)} and " if fresh else ""
    permuted = f"documents with permuted domains {'' if fresh else 'reach '}{percent_range(*null_range(top))}"
    told = f"a token's expert tells {layer_information(top)} of all there is to know of its domain"
    return f"{told}, where {gates}{permuted} (largest p {p_value(largest_p(top))}, adjusted for layers and arms)"


def _others(tables: Tables, arms: Sequence[str]) -> str:
    """Where the other balanced arms show it."""
    found = [f"{arm} in {_where(tables, arm)}" for arm in arms if _verdict(tables, arm)]
    return f"; of the other balanced arms it is shown by {listed(found)}" if found else ""


def _where(tables: Tables, arm: str) -> str:
    learned = [row.layer for row in arm_verdicts(tables, arm) if is_learned(row)]
    return layer_names(learned) if learned else "no layer"


def _cost(suite: Suite, tables: Tables) -> str:
    """`Without the balance loss, no_lb: …; with it, moe: …; LM loss against moe, nats a token: higher in no_lb (…)`."""
    unknown = "What no balancing costs is not known"
    if reason := _no_experts(suite):
        return f"{unknown}: {reason}."
    without, with_it = unbalanced_arms(suite), balanced_arms(suite)
    if not without:
        shown = [f"with it, {arm}: {arm_balance(suite, tables, arm)}" for arm in with_it[:1]]
        return f"{unknown}: no arm without balancing has a result{_then(shown)}."
    parts = [_unbalanced(suite, tables, arm, with_it) for arm in without]
    return f"Without balancing, {'; without it, '.join(parts)}."


def _unbalanced(suite: Suite, tables: Tables, arm: str, balanced: Sequence[str]) -> str:
    reference = balanced_reference(suite, arm, balanced)
    own = f"{arm}: {arm_balance(suite, tables, arm)}"
    if reference is None:
        return f"{own}; what that costs in LM loss is not known: no balanced arm has a result"
    rows = [row for row in tables.loss_differences if (row.arm, row.against, row.domain) == (arm, reference, None)]
    told = against_in_words(rows, tables.equivalence)
    cost = f"nats a token, is {told}" if rows else "is not known to differ, for want of documents"
    return f"{own}; with it, {reference}: {arm_balance(suite, tables, reference)}; LM loss against {reference}, {cost}"


def _token_or_domain(suite: Suite, tables: Tables) -> str:
    """`In layer 3 of moe, the expert depends on the token id and, for one id, on the domain: the id tells … bits …`."""
    unknown = "Whether experts go by the token or by the domain is not known"
    if reason := _no_experts(suite):
        return f"{unknown}: {reason}."
    arm = next(iter((*balanced_arms(suite), *unbalanced_arms(suite))), "")
    split = [row for row in tables.token_split if (row.arm, row.counted, row.x) == (arm, FIRST_CHOICE, TOKEN_ID)]
    last = at_last_step(suite, split)
    if not last:
        return f"{unknown}: too few token ids are frequent in two domains, or it was not measured."
    measured = {row.layer for row in last}
    judged = [row for row in arm_verdicts(tables, arm) if row.layer in measured]
    layer = _foremost(judged).layer if judged else max(measured)
    rows = [row for row in last if row.layer == layer]
    begun = [row for row in split if row.layer == layer and row.step == 0 and row not in rows]
    return f"In layer {layer} of {arm}, the expert depends on {_followed(rows)}: {_split(rows, begun)}."


def _followed(rows: Sequence[TokenSplitRow]) -> str:
    found = dict.fromkeys(map(_kind, rows))
    return next(iter(found)) if len(found) == 1 else f"not the same in all {len(rows)} seeds ({'; '.join(found)})"


def _kind(row: TokenSplitRow) -> str:
    """What the expert is shown to depend on; how much of each is no question of p."""
    domain, token = row.domain_given_token_p < ALPHA, row.token_p < ALPHA
    if domain:
        return f"the token id{_AND_DOMAIN}" if token else "the domain, and is not shown to depend on the token id"
    return "the token id, and is not shown to depend on the domain beyond it" if token else _NEITHER


def _split(rows: Sequence[TokenSplitRow], begun: Sequence[TokenSplitRow]) -> str:
    """Bits of two terms have unlike ceilings, so each is given as a share of its own, then and untrained."""
    token = _bits([(row.token_information, row.token_low, row.token_high) for row in rows])
    domain = _bits([(row.domain_given_token, row.domain_given_token_low, row.domain_given_token_high) for row in rows])
    known = [row.share_of_tokens for row in rows]
    return (
        f"the id tells {token} bits of the expert, {_shares(rows, 'token_share')} of H(E)"
        f"{_untrained(begun, 'token_share')}; of two tokens with one id the expert still tells {domain} bits of their "
        f"domain, {_shares(rows, 'domain_given_token_share')} of H(D|id), which the id leaves open"
        f"{_untrained(begun, 'domain_given_token_share')}; {_larger(rows)} (on {span([row.ids for row in rows], count)}"
        f"{GAP}ids that domains share, {percent_range(min(known), max(known))} of tokens)"
    )


def _shares(rows: Sequence[TokenSplitRow], name: str) -> str:
    shares = [getattr(row, name) for row in rows]
    return percent_range(min(shares), max(shares))


def _untrained(begun: Sequence[TokenSplitRow], name: str) -> str:
    return f" (untrained, at step 0, {_shares(begun, name)})" if begun else ""


def _larger(rows: Sequence[TokenSplitRow]) -> str:
    """Which share of its ceiling is the larger one: said only where the intervals are apart in every seed."""
    everywhere = "" if len(rows) == 1 else " in every seed"
    if all(row.token_low_share > row.domain_given_token_high_share for row in rows):
        return f"as shares of these ceilings, the id tells more{everywhere}"
    if all(row.domain_given_token_low_share > row.token_high_share for row in rows):
        return f"as shares of these ceilings, the domain beyond the id is told more{everywhere}"
    return f"neither share is shown to be the larger{everywhere}"


def _bits(values: Sequence[tuple[float, float, float]]) -> str:
    """`0.812 [0.790, 0.830]`, or the range over seeds with the ends of their intervals."""
    if len(values) == 1:
        return interval(*values[0])
    ends = span([end for _, low, high in values for end in (low, high)], loss)
    return f"{span([value for value, _, _ in values], loss)} (intervals within {ends}, {len(values)}{GAP}seeds)"
