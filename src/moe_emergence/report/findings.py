"""What a figure or a table shows, in words with its numbers: every title on the page is computed here."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from moe_emergence.analysis.balance import RoutingRow
from moe_emergence.analysis.evolution import LossPoint
from moe_emergence.analysis.origins import ALL_FEATURES, AuditRow
from moe_emergence.analysis.shares import ShareRow
from moe_emergence.analysis.token_rows import ClassInformationRow, TokenClassRow
from moe_emergence.report.curves import lines_of, mean_line
from moe_emergence.report.numbers import decimal, end, interval, listed, loss, percent, percent_interval, plural

Row = TypeVar("Row", RoutingRow, ShareRow)


def place(row: Row, rows: Sequence[Row]) -> str:
    """`layer 3`, and the seed where the rows are of several: expert numbers of two seeds have nothing in common."""
    several = len({other.seed for other in rows}) > 1
    return f"layer {row.layer}{f' of seed {row.seed}' if several else ''}"


def share_finding(shares: Sequence[ShareRow], counted: str = "assignments") -> str:
    """The cell of one arm that stands out most from the uniform share."""
    top = max(shares, key=lambda row: row.share / row.uniform)
    ratio = decimal(top.share / top.uniform)
    cell = percent_interval(top.share, top.low, top.high)
    return (
        f"{top.arm}: in {place(top, shares)}, {cell} of {top.domain} {counted} go to expert {top.expert}, {ratio} "
        f"times the uniform {percent(top.uniform)}"
    )


def class_finding(
    cells: Sequence[TokenClassRow], measured: Sequence[ClassInformationRow], before: Sequence[ClassInformationRow]
) -> str:
    """How much one arm's experts tell of a token's class, where it is most, and at step 0; rows of one arm and seed."""
    if not measured:
        top = max(cells, key=lambda row: row.share / row.uniform)
        return f"{top.arm}: in layer {top.layer}, {percent(top.share)} of {top.token_class} go to expert {top.expert}"
    best = max(measured, key=lambda row: row.estimate / row.maximum if row.maximum else 0.0)
    bits = interval(best.estimate, best.low, best.high)
    begun = next((loss(row.estimate) for row in before if (row.layer, row.domain) == (best.layer, best.domain)), None)
    return (
        f"{best.arm}: in layer {best.layer}, experts tell {bits} bits of a {best.domain} token's class, "
        f"{percent(max(0.0, best.estimate) / best.maximum if best.maximum else 0.0)} of all there is to tell"
        f"{'' if begun is None else f'; untrained they told {begun}'}"
    )


def slots(row: RoutingRow) -> str:
    """What a load is a share of: a token has one assignment with top-1, k with top-k."""
    return "tokens" if row.top_k == 1 else "assignments"


def confidence_finding(routing: Sequence[RoutingRow]) -> str:
    """Which arm's router is the most certain, by entropy per token ÷ ln E, and which the least."""
    known = [row for row in routing if row.entropy_per_token_share is not None]
    if not known:
        return "With a single expert there is nothing to be certain of"
    ordered = sorted(known, key=lambda row: row.entropy_per_token_share or 0.0)
    least, most = ordered[0], ordered[-1]
    text = (
        f"Most certain router: {least.arm}, {place(least, known)}, at {percent(least.entropy_per_token_share)} of ln E"
    )
    if len(known) == 1:
        return text
    return f"{text}; least certain: {most.arm}, {place(most, known)}, at {percent(most.entropy_per_token_share)}"


def spread_finding(routing: Sequence[RoutingRow]) -> str:
    """Which arm spreads its load least, and which most, as effective experts."""
    ordered = sorted(routing, key=lambda row: row.effective_experts / row.experts)
    least, most = ordered[0], ordered[-1]
    text = (
        f"Least even load: {least.arm}, {place(least, routing)}, as if {decimal(least.effective_experts)} of "
        f"{least.experts} experts shared it"
    )
    if len(routing) == 1:
        return text
    return f"{text}; most even: {most.arm}, {place(most, routing)}, {decimal(most.effective_experts)}"


def loss_finding(points: Sequence[LossPoint]) -> str:
    """Lowest and highest macro LM loss at the end of the curves, on dev, and how far they are apart."""
    ends = {arm: losses[None] for arm, losses in last_losses(points).items()}
    best, worst = min(ends, key=lambda arm: ends[arm]), max(ends, key=lambda arm: ends[arm])
    if best == worst:
        return f"{best} ends at an LM loss of {loss(ends[best])} nats a token on dev"
    return (
        f"On dev, {best} ends lowest at {loss(ends[best])} nats a token, {worst} highest at {loss(ends[worst])}: "
        f"{end(ends[worst] - ends[best])} apart"
    )


def domain_loss_finding(points: Sequence[LossPoint]) -> str:
    """The domain on which the arms' LM losses on dev end furthest apart; of one arm, its easiest and hardest."""
    ends = last_losses(points)
    domains = [domain for domain in dict.fromkeys(point.domain for point in points) if domain is not None]
    if len(ends) == 1:
        ((arm, losses),) = ends.items()
        return _hardest(arm, {domain: losses[domain] for domain in domains})
    spread = {domain: _spread([losses[domain] for losses in ends.values()]) for domain in domains}
    widest = max(spread, key=lambda domain: spread[domain])
    return f"The arms end furthest apart on {widest}: {end(spread[widest])} nats a token on dev"


def _hardest(arm: str, losses: Mapping[str, float]) -> str:
    easy, hard = min(losses, key=lambda domain: losses[domain]), max(losses, key=lambda domain: losses[domain])
    if easy == hard:
        return f"{arm} ends at {loss(losses[hard])} nats a token of {hard} on dev"
    return (
        f"{hard} is the hardest domain for {arm}: it ends at {loss(losses[hard])} nats a token on dev, on {easy} at "
        f"{loss(losses[easy])}"
    )


def last_losses(points: Sequence[LossPoint]) -> dict[str, dict[str | None, float]]:
    """Arm to domain (None: mean over domains) to where its drawn line ends: the mean of its seeds, nats a token."""
    ends: dict[str, dict[str | None, float]] = {}
    for arm, domain in dict.fromkeys((point.arm, point.domain) for point in points):
        lines = lines_of((p for p in points if (p.arm, p.domain) == (arm, domain)), lambda point: point.lm_loss)
        ends.setdefault(arm, {})[domain] = mean_line(list(lines.values()))[1][-1]
    return ends


def audit_finding(audit: Sequence[AuditRow]) -> str:
    """How far format alone tells the domains apart, after the last stage of cleaning."""
    last = [row for row in audit if row.stage == audit[-1].stage]
    features = listed([row.feature for row in last if row.feature != ALL_FEATURES])
    together = next(row for row in last if row.feature == ALL_FEATURES)
    return (
        f"From a document's surface alone ({features}), a classifier names the domain of {percent(together.accuracy)} "
        f"of {plural(together.documents, 'document')} {together.stage}; naming the largest domain always would be "
        f"right for {percent(together.chance)}. The closer to {percent(1)}, the more a router could separate domains "
        "by format alone."
    )


def _spread(losses: Sequence[float]) -> float:
    return max(losses) - min(losses)
