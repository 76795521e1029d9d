"""Every figure of a suite, with the finding that is its title and how to read it."""

from collections.abc import Iterator
from functools import partial

from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.tables import Tables
from moe_emergence.report import findings
from moe_emergence.report.collapse_drawings import collapse_drawings, training_sample
from moe_emergence.report.curves import domain_loss_curves, entropy_curves, loss_curves
from moe_emergence.report.drawing import Drawing
from moe_emergence.report.evidence_drawings import evidence_drawings
from moe_emergence.report.going import going_drawings
from moe_emergence.report.heatmap_drawings import class_drawings, share_drawings
from moe_emergence.report.measure_drawings import legend_of, loss_difference_drawings, specialisation_drawings
from moe_emergence.report.numbers import count, plural


def drawings(suite: Suite, tables: Tables) -> list[Drawing]:
    """What there is to draw; a suite without experts has only its losses."""
    return [
        *specialisation_drawings(suite, tables),
        *share_drawings(suite, tables),
        *class_drawings(suite, tables),
        *loss_difference_drawings(suite, tables),
        *_loss_drawings(suite, tables),
        *collapse_drawings(suite, tables),
        *_entropy_drawings(suite, tables),
        *evidence_drawings(suite, tables),
        *going_drawings(suite),
    ]


def _entropy_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    if not any(point.maximum > 0 for point in tables.entropy_over_steps):
        return
    legend = legend_of(suite)
    sample = training_sample(suite, tables.entropy_over_steps[0].steps)
    where = f"Lines: training tokens ({sample}); title: test text at the last step."
    yield Drawing(
        name="entropy-per-token",
        section="routing",
        tables=("entropy_over_steps",),
        title=findings.confidence_finding(tables.routing),
        reading=(
            "Confidence: the mean entropy of a token's routing probabilities (without noise), as a share of its "
            f"maximum ln E. 1: undecided; 0: certain. {where}"
        ),
        make=partial(entropy_curves, tables.entropy_over_steps, legend, "entropy_per_token"),
    )
    yield Drawing(
        name="entropy-of-load",
        section="routing",
        tables=("entropy_over_steps",),
        title=findings.spread_finding(tables.routing),
        reading=(
            "Balance: the entropy of the shares of assignments, as a share of its maximum ln E. 1: all experts equally "
            f"busy; ln k ÷ ln E: the same k take everything. {where}"
        ),
        make=partial(entropy_curves, tables.entropy_over_steps, legend, "entropy_of_load"),
    )


def _loss_drawings(suite: Suite, tables: Tables) -> Iterator[Drawing]:
    if not tables.loss_over_steps:
        return
    legend = legend_of(suite)
    tokens = sum(suite.runs[0].evaluation("dev", suite.runs[0].last_step).predicted_tokens.values())
    seeds = plural(max(row.runs for row in tables.arms), "seed")
    reading = (
        f"Cross-entropy of the next token in nats, lower is better; no auxiliary loss in it. Dev text, title "
        f"included: n = {count(tokens)} predicted tokens, {seeds} an arm. Losses on test are in the tables."
    )
    yield Drawing(
        name="loss",
        section="loss",
        tables=("loss_over_steps",),
        title=findings.loss_finding(tables.loss_over_steps),
        reading=reading,
        make=partial(loss_curves, tables.loss_over_steps, legend),
    )
    yield Drawing(
        name="loss-domains",
        section="loss",
        tables=("loss_over_steps",),
        title=findings.domain_loss_finding(tables.loss_over_steps),
        reading=f"The same, a panel a domain. {reading}",
        make=partial(domain_loss_curves, tables.loss_over_steps, legend),
    )
