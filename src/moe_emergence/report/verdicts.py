"""What may be said of specialisation, in the words of the verdicts; layers and seeds are counted, never averaged."""

from collections.abc import Iterable, Sequence

from moe_emergence.analysis.comparisons import InformationDifferenceRow
from moe_emergence.analysis.specialisation import ALPHA, FIRST_CHOICE, LEARNED, NOT_LEARNED, InformationRow, VerdictRow
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.token_rows import ClassInformationRow
from moe_emergence.report.numbers import listed, percent_interval, plural, points_interval


def verdict_phrase(verdicts: Sequence[VerdictRow]) -> str:
    """One arm's verdicts: `learned specialisation in layer 3; no evidence of learned specialisation in layer 2`."""
    seeds = len({row.seed for row in verdicts})
    layers = sorted({row.layer for row in verdicts})
    learned = {layer: sum(is_learned(row) for row in verdicts if row.layer == layer) for layer in layers}
    parts = []
    for number in sorted(set(learned.values()), reverse=True):
        mine = [layer for layer in layers if learned[layer] == number]
        where = layer_names(mine)
        if number == 0:
            where = f"any of {where}" if len(mine) > 1 else where
            parts.append(f"{NOT_LEARNED} in {where}{f' in any of {seeds} seeds' if seeds > 1 else ''}")
        elif number == seeds:
            parts.append(f"{LEARNED} in {where}{f' in all {seeds} seeds' if seeds > 1 else ''}")
        else:
            parts.append(f"{LEARNED} in {where} in {number} of {seeds} seeds")
    return "; ".join(parts)


def is_learned(row: VerdictRow) -> bool:
    return row.verdict == LEARNED


def layer_names(layers: Sequence[int]) -> str:
    """`layer 3`, `layers 2 and 3`."""
    return f"layer{'s' if len(layers) > 1 else ''} {listed([str(layer) for layer in layers])}"


def arms_of(rows: Iterable[VerdictRow | InformationRow | InformationDifferenceRow]) -> list[str]:
    """Arms in the order of the table."""
    return list(dict.fromkeys(row.arm for row in rows))


def final_information(tables: Tables, arm: str | None = None) -> list[InformationRow]:
    """First choice at each run's last trace: what verdicts are about."""
    rows = [row for row in tables.information if row.counted == FIRST_CHOICE and arm in (None, row.arm)]
    last = {(row.arm, row.seed): row.step for row in sorted(rows, key=lambda row: row.step)}
    return [row for row in rows if row.step == last[row.arm, row.seed]]


def at_the_end(rows: Iterable[ClassInformationRow]) -> list[ClassInformationRow]:
    """Of each run the rows of its last recorded step."""
    found = list(rows)
    last = {(row.arm, row.seed): row.step for row in sorted(found, key=lambda row: row.step)}
    return [row for row in found if row.step == last[row.arm, row.seed]]


def corrected_share(row: InformationRow) -> float:
    """I(E;D) freed of the bias of few documents, ÷ H(D): the value that the interval belongs to."""
    return row.corrected / row.maximum if row.maximum else 0.0


def share_with_interval(row: InformationRow) -> str:
    """`8.4 % [7.8, 9.0]` of H(D)."""
    return percent_interval(corrected_share(row), row.low_share, row.high_share)


def fresh_range(row: InformationRow) -> tuple[float, float] | None:
    """What fresh gates show, ÷ H(D), less the bias that was taken off this row's own value: verdicts compare counts as
    they are, so beside `corrected_share` the same must come off both."""
    if row.fresh_low is None or row.fresh_high is None or row.maximum == 0:
        return None
    return (row.fresh_low - _bias(row)) / row.maximum, (row.fresh_high - _bias(row)) / row.maximum


def null_range(row: InformationRow) -> tuple[float, float]:
    """The permutation null's central 95 %, ÷ H(D), less the same."""
    if row.maximum == 0:
        return 0.0, 0.0
    return (row.null_low - _bias(row)) / row.maximum, (row.null_high - _bias(row)) / row.maximum


def _bias(row: InformationRow) -> float:
    return row.plug_in - row.corrected


def specialisation_finding(tables: Tables) -> str:
    """How many of all (arm, seed, layer) beat both nulls, and in which arms."""
    verdicts = tables.verdicts
    learned = [row for row in verdicts if is_learned(row)]
    what = "arms × layers" if len({row.seed for row in verdicts}) == 1 else "arms × seeds × layers"
    if not learned:
        return f"No evidence of learned specialisation: 0 of {len(verdicts)} {what} beat both nulls"
    where = "; ".join(f"{arm} {_where(arm, verdicts)}" for arm in arms_of(learned))
    none = [arm for arm in arms_of(verdicts) if arm not in arms_of(learned)]
    rest = f"; none in {listed(none)}" if none else ""
    return f"Learned specialisation in {len(learned)} of {len(verdicts)} {what}: {where}{rest}"


def _where(arm: str, verdicts: Sequence[VerdictRow]) -> str:
    mine = [row for row in verdicts if row.arm == arm]
    seeds = len({row.seed for row in mine})
    if seeds > 1:
        return f"{sum(map(is_learned, mine))} of {len(mine)}"
    return layer_names([row.layer for row in mine if is_learned(row)])


def information_finding(tables: Tables) -> str:
    """The arm, layer and seed that ends with the most domain information, and where it began."""
    top = max(final_information(tables), key=corrected_share)
    mine = [
        row
        for row in tables.information
        if (row.arm, row.seed, row.layer, row.counted) == (top.arm, top.seed, top.layer, top.counted)
    ]
    first = min(mine, key=lambda row: row.step)
    seed = f", seed {top.seed}" if len({row.seed for row in tables.information}) > 1 else ""
    before = share_with_interval(first)
    return (
        f"Most domain information at the end: {top.arm}, layer {top.layer}{seed}: {share_with_interval(top)} of H(D), "
        f"from {before}"
    )


def information_difference_finding(rows: Sequence[InformationDifferenceRow]) -> str:
    """The largest difference to a baseline that is beyond chance after Holm, or that there is none."""
    apart = [row for row in rows if row.p_holm < ALPHA]
    if not apart:
        return "No arm's domain information is shown to differ from its baseline's"
    top = max(apart, key=lambda row: abs(row.share))
    change = points_interval(top.share, top.low_share, top.high_share)
    return (
        f"{len(apart)} of {plural(len(rows), 'difference')} to the baseline are beyond chance; largest: {top.arm} "
        f"against {top.against}, layer {top.layer}: {change} points"
    )
