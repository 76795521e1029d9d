"""Where a suite's results come from: the upcycling receipts, and how far a domain can be told by its format alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_emergence.analysis.fields import Fields
from moe_emergence.analysis.records import Run, Suite


@dataclass(frozen=True, kw_only=True)
class ReceiptRow:
    """One upcycling, measured on a fixed batch before training.

    Attributes:
        relative_logit_difference: max |Δ logit| ÷ max |dense logit|: 0 when upcycling changed nothing.
        kl_nats: KL(dense ‖ upcycled), nats a token, ≥ 0.
        lm_loss_difference: upcycled − dense, nats a token.
    """

    arm: str
    seed: int
    relative_logit_difference: float
    kl_nats: float
    dense_lm_loss: float
    upcycled_lm_loss: float
    lm_loss_difference: float
    parameters_total: int
    parameters_dense: int
    parameters_active: int


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """How many documents a classifier that sees one surface feature (or all of them) puts into the right domain.

    Attributes:
        stage: before or after cleaning.
        feature: `all together`, or one feature.
        accuracy, chance: shares of documents, 0..1; chance is naming the largest domain always.
    """

    stage: str
    feature: str
    accuracy: float
    chance: float
    documents: int


ALL_FEATURES = "all together"


def receipt_rows(suite: Suite) -> tuple[ReceiptRow, ...]:
    """One row a run that was upcycled at its start."""
    return tuple(row for run in suite.runs for row in _receipt_row(run))


def _receipt_row(run: Run) -> Iterator[ReceiptRow]:
    if run.manifest.receipt is not None:
        yield ReceiptRow(arm=run.arm, seed=run.seed, **vars(run.manifest.receipt))


def audit_rows(suite: Suite) -> tuple[AuditRow, ...]:
    """The format audit of the suite's corpus, stage by stage; all arms share their data."""
    if not suite.runs:
        return ()
    run = suite.runs[0]
    audits = Fields(run.manifest.data.record, f"{run.folder}/manifest.json: 'data': 'record'").group("format_audit")
    return tuple(row for stage in audits.values for row in _audit_rows(stage, audits.group(stage)))


def _audit_rows(stage: str, audit: Fields) -> Iterator[AuditRow]:
    documents, chance = audit.whole("documents"), audit.number("chance")
    features = [(feature.text("name"), feature.number("accuracy")) for feature in audit.groups("features")]
    for name, accuracy in [(ALL_FEATURES, audit.number("accuracy")), *features]:
        yield AuditRow(stage=stage, feature=name, accuracy=accuracy, chance=chance, documents=documents)
