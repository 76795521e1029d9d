"""How much of a run with experts is measured: what the first page needs, or everything that there is."""

from dataclasses import dataclass

from moe_emergence.analysis.causal.interventions import ANCESTOR, INTERVENTIONS, NEXT
from moe_emergence.analysis.causal.measured import KNOCKOUT, PARTS


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What was measured of every run with experts besides what takes no time: as an order, and as a table's only row.

    Attributes:
        name: "quick" or "all".
        interventions: those of the knock-outs at the last step.
        parts: of the causal tests at the last step.
        earlier_steps: whether experts are also taken away at the earlier steps whose weights are kept.
    """

    name: str
    interventions: tuple[str, ...]
    parts: tuple[str, ...]
    earlier_steps: bool


QUICK = Scope(name="quick", interventions=(NEXT, ANCESTOR), parts=(KNOCKOUT,), earlier_steps=False)
ALL = Scope(name="all", interventions=INTERVENTIONS, parts=PARTS, earlier_steps=True)
SNAPSHOT_INTERVENTIONS = (NEXT, ANCESTOR)
"""What is done to experts of earlier steps: enough for the scoreboard."""
