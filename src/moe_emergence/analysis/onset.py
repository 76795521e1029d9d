"""When domain information emerges: the step from which on a router tells more of the domain than untrained gates do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_emergence.analysis.specialisation import FIRST_CHOICE, InformationRow


@dataclass(frozen=True, kw_only=True)
class OnsetRow:
    """One layer of one run, by plug-in I(E;D) of the first choice at every trace.

    Attributes:
        upper: the larger of the upper ends of the central 95 % of untrained gates on the hidden states of the first and
            of the last step, bits; upper_share: ÷ H(D).
        step: the first traced step from which on I(E;D) stays above it to the end; None if it ends at or below it.
    """

    arm: str
    seed: int
    layer: int
    upper: float
    upper_share: float
    step: int | None


def onset_rows(information: Sequence[InformationRow]) -> tuple[OnsetRow, ...]:
    """One a run and layer whose first and last trace have untrained gates."""
    curves: dict[tuple[str, int, int], list[InformationRow]] = {}
    for row in information:
        if row.counted == FIRST_CHOICE:
            curves.setdefault((row.arm, row.seed, row.layer), []).append(row)
    return tuple(row for curve in curves.values() for row in _onset(sorted(curve, key=lambda row: row.step)))


def _onset(curve: Sequence[InformationRow]) -> Iterator[OnsetRow]:
    first, last = curve[0], curve[-1]
    if first.fresh_high is None or last.fresh_high is None:
        return
    upper, step = max(first.fresh_high, last.fresh_high), None
    for row in reversed(curve):
        if row.plug_in <= upper:
            break
        step = row.step
    yield OnsetRow(
        arm=last.arm,
        seed=last.seed,
        layer=last.layer,
        upper=upper,
        upper_share=upper / last.maximum if last.maximum else 0.0,
        step=step,
    )
