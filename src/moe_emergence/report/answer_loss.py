"""What experts did to LM loss: the answer box's sentences, with intervals over documents."""

from collections.abc import Callable, Iterator, Sequence

from moe_emergence.analysis.comparisons import ArmLossRow, LossDifferenceRow
from moe_emergence.analysis.equivalence import EquivalenceRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import GAP, count, difference, difference_interval, interval, listed, loss, plural


def loss_sentences(suite: Suite, tables: Tables) -> Iterator[str]:
    """Every arm against the dense one; without one, every arm's own LM loss, then each against its baseline."""
    macro = [row for row in tables.arm_losses if row.domain is None]
    if not macro:
        losses = [f"{row.arm} {loss(row.lm_loss_macro)}" for row in tables.arms if row.lm_loss_macro is not None]
        if losses:
            yield f"LM loss on test, nats a token, without intervals for want of documents: {listed(losses)}."
        return
    compared = differences_shown(suite, tables.loss_differences, None)
    steps = sorted({run.last_step for run in suite.runs})
    after = (
        f"after {count(steps[0])} to {plural(steps[-1], 'step')}"
        if len(steps) > 1
        else f"after {plural(steps[0], 'step')}"
    )
    over = f", mean over {plural(len(suite.domains), 'domain')}" if len(suite.domains) > 1 else ""
    own = {row.arm: f"{interval(row.lm_loss, row.low, row.high)}{_seeds(row)}" for row in macro}
    scale = f"held-out test text, {after}, nats a token{over}"
    for against in dict.fromkeys(row.against for row in compared):
        rows = [row for row in compared if row.against == against]
        told = against_in_words(rows, tables.equivalence)
        yield f"LM loss against {against} ({own[against]}): {told}. ({scale[0].upper()}{scale[1:]}.)"
    named = {name for row in compared for name in (row.arm, row.against)}
    rest = [f"{arm} {value}" for arm, value in own.items() if arm not in named]
    if rest:
        lead = "Compared with nothing" if compared else "LM loss"
        yield f"{lead}: {listed(rest)}. ({scale[0].upper()}{scale[1:]}.)"


def differences_shown(suite: Suite, rows: Sequence[LossDifferenceRow], *domains: str | None) -> list[LossDifferenceRow]:
    """Rows against the dense arm, or against baselines where there is none; of `domains` alone where they are given."""
    wanted = [row for row in rows if not domains or row.domain in domains]
    to_dense = [row for row in wanted if row.against == suite.dense]
    return to_dense or wanted


def against_in_words(rows: Sequence[LossDifferenceRow], equivalence: Sequence[EquivalenceRow]) -> str:
    """`lower in a (…); not shown to differ (the interval includes 0) in b (…); all within the ±0.01 nats …`."""
    lower = [_shown(row) for row in rows if row.high < 0]
    higher = [_shown(row) for row in rows if row.low > 0]
    open_ones = [_shown(row) for row in rows if row.low <= 0 <= row.high]
    parts = [
        f"lower in {listed(lower)}" if lower else "",
        f"higher in {listed(higher)}" if higher else "",
        f"not shown to differ (the interval includes 0) in {listed(open_ones)}" if open_ones else "",
    ]
    return "; ".join(part for part in [*parts, within_margin(rows, equivalence)] if part)


def within_margin(
    rows: Sequence[LossDifferenceRow],
    equivalence: Sequence[EquivalenceRow],
    name: Callable[[LossDifferenceRow], str] = lambda row: row.arm,
) -> str:
    """Whether differences are shown to be too small to matter, which an interval without 0 does not say: `all within
    the ±0.01 nats fixed beforehand as no difference that matters`; nothing where that was not tested."""
    tested = {(row.arm, row.against, row.domain): row for row in equivalence}
    found = [(row, test) for row in rows if (test := tested.get((row.arm, row.against, row.domain))) is not None]
    if not found:
        return ""
    margin = f"the ±{found[0][1].margin:g} nats fixed beforehand as no difference that matters"
    inside = [name(row) for row, test in found if test.equivalent]
    others = [name(row) for row, test in found if not test.equivalent]
    if not others:
        return f"{'all ' if len(inside) > 1 else ''}within {margin}"
    if not inside:
        return f"{'none' if len(others) > 1 else 'not'} shown to be within {margin}"
    return f"within {margin}: {listed(inside)}; not shown to be: {listed(others)}"


def _shown(row: LossDifferenceRow) -> str:
    change = difference_interval(row.difference, row.low, row.high)
    steps = "" if row.step == row.against_step else f"; at step {count(row.step)} against {count(row.against_step)}"
    if row.seeds == 1:
        return f"{row.arm} ({change}{steps})"
    each = " to ".join(dict.fromkeys((difference(row.seed_low), difference(row.seed_high))))
    return f"{row.arm} ({change}; single seeds {each}{steps})"


def _seeds(row: ArmLossRow) -> str:
    return f", mean of {row.seeds}{GAP}seeds" if row.seeds > 1 else ""


def loss_difference_finding(rows: Sequence[LossDifferenceRow], equivalence: Sequence[EquivalenceRow]) -> str:
    """How many arms' macro LM loss differs from what they are compared with, whether by enough to matter, and the
    largest difference."""
    macro = [row for row in rows if row.domain is None]
    apart = [row for row in macro if row.low > 0 or row.high < 0]
    if not apart:
        none = f"No arm's LM loss is shown to differ: all {plural(len(macro), 'interval')} include 0"
        return "; ".join(filter(None, (none, within_margin(macro, equivalence))))
    top = max(apart, key=lambda row: abs(row.difference))
    change = difference_interval(top.difference, top.low, top.high)
    parts = (
        f"{len(apart)} of {plural(len(macro), 'arm')} differ in LM loss beyond their intervals",
        within_margin(apart, equivalence),
        f"largest: {top.arm} against {top.against}, {change} nats a token",
    )
    return "; ".join(filter(None, parts))
