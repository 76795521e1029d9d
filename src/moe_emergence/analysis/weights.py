"""A run's model as it was at a traced step: loaded, and compared with what the trace says of it."""

from pathlib import Path
from typing import Any

from moe_emergence.analysis.records import Run
from moe_emergence.analysis.traces import recorded_model
from moe_emergence.errors import AnalysisError
from moe_emergence.models.base import weights_digest
from moe_emergence.training.tensors import model_tensors
from moe_emergence.training.trained import load_trained


def model_at(run: Run, step: int, weights: Path | None = None) -> Any:
    """The model of `step` in eval mode: from the folder `weights`, or the run's newest checkpoint.

    Raises:
        AnalysisError: it is not the model that the trace of `step` was made with.
        ModelError: there is no model to load.
    """
    model = load_trained(run.folder if weights is None else weights)[0]
    recorded = recorded_model(run, step)
    if recorded is None:
        return model
    found = weights_digest(model_tensors(model).items())
    if found != recorded:
        where = "the newest checkpoint in " if weights is None else ""
        raise AnalysisError(
            f"{where}{weights or run.folder} holds a model of digest {found[:16]}, but the trace of step {step} "
            f"was made with {recorded[:16]}: put the run's own weights back, or train the run again"
        )
    return model
