"""What experts gain in LM loss: of what routing by domain gains where an arm is routed so, else against dense alone."""

from moe_emergence.analysis.comparisons import LossDifferenceRow
from moe_emergence.analysis.oracle import OracleGainRow
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report.numbers import GAP, difference_interval, magnitude_interval, percent_interval


def gain(suite: Suite, tables: Tables, arm: str) -> str:
    """`moe wins 37.0 % [30.0, 44.0] of what routing by domain gains over dense in LM loss.`"""
    if suite.dense is None:
        return "What experts gain is not known: no arm without experts has a result."
    scale = next((row for row in tables.oracle_gains if row.arm == arm), None)
    if scale is not None:
        return _of_oracle(scale, suite.dense)
    rows = [row for row in tables.loss_differences if (row.arm, row.against, row.domain) == (arm, suite.dense, None)]
    if not rows:
        return f"What experts gain is not known: {arm} and {suite.dense} share no seed, or test documents are too few."
    return f"{_against_dense(rows[0])}; no arm is routed by domain to compare with."


def _of_oracle(row: OracleGainRow, dense: str) -> str:
    over = f", on average over {row.seeds}{GAP}seeds" if row.seeds > 1 else ""
    if row.share is None or row.share_low is None or row.share_high is None:
        return (
            f"{row.arm} gains {difference_interval(row.gain, row.low, row.high)} nats per token over {dense}{over}; "
            "routing by domain is not shown to gain, so no share is given."
        )
    share = percent_interval(row.share, row.share_low, row.share_high)
    of = f"of what routing by domain gains over {dense} in LM loss"
    if row.share_low > 0:
        return f"{row.arm} wins {share} {of}{over}."
    if row.share_high < 0:
        return f"{row.arm} loses where routing by domain gains: {share} of that gain over {dense} in LM loss{over}."
    return f"{row.arm} is not shown to win any {of}: {share}{over}."


def _against_dense(row: LossDifferenceRow) -> str:
    if row.low <= 0 <= row.high:
        change = difference_interval(row.difference, row.low, row.high)
        return f"{row.arm}'s LM loss is not shown to differ from {row.against}'s, {change} nats per token"
    side = "lower" if row.high < 0 else "higher"
    change = magnitude_interval(row.difference, row.low, row.high)
    return f"{row.arm}'s LM loss is {change} nats per token {side} than {row.against}'s"
