"""The Emergence section: the same probe text at every traced step, as one compact value for the page's script."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.specialisation import FIRST_CHOICE, InformationRow, information_rows
from moe_emergence.analysis.tables import Tables, prepared
from moe_emergence.analysis.traces import Trace, read_trace, trace_steps
from moe_emergence.report.emergence_findings import findings
from moe_emergence.report.emergence_steps import bytes_a_token, step_payload
from moe_emergence.report.emergence_text import (
    DOCUMENTS,
    TOKENS,
    ShownDocument,
    domain_schemes_of,
    shown_documents,
    text_payload,
)
from moe_emergence.report.passages import readable_ink
from moe_emergence.report.style import ARM_COLOURS, DIVERGING, arm_styles
from moe_emergence.report.visible import visible

ROUTE_BYTES = 4_000_000
"""What the routes of the shown tokens may take of the page, before base64."""
_SHADES = 41
_DASHES = ("solid", "dash", "dot", "dashdot")
"""As Plotly calls them."""
_Information = Mapping[tuple[str, int, int, int], InformationRow]
"""(arm, seed, step, layer) to the row of the first choice."""


def emergence(suite: Suite, tables: Tables) -> dict[str, Any] | None:
    """Of every arm with experts every seed at every traced step; None where there is none.

    Raises:
        DataError: the prepared data is not there or has changed.
        AnalysisError: a trace is missing or torn.
    """
    runs = [run for run in _runs_with_experts(suite) if _steps(run)]
    if not runs:
        return None
    data = prepared(replace(suite, runs=tuple(runs)))
    first = read_trace(runs[0], _steps(runs[0])[0])
    documents = shown_documents(data, first, domain_schemes_of(tables), _tokens_a_domain(runs, first))
    information = _information(suite, tables, runs)
    styles = arm_styles([arm.name for arm in suite.arms], suite.dense)
    arms = list(dict.fromkeys(run.arm for run in runs))
    shown = [
        _run(run, run in suite.going, documents, information) | _look(styles[run.arm], arms.index(run.arm))
        for run in runs
    ]
    layers = sorted({layer for run in runs for layer in run.manifest.moe_layers})
    seeds = [seed for seed in suite.seeds if any(run.seed == seed for run in runs)]
    return {
        "domains": [visible(domain) for domain in runs[0].manifest.data.domains],
        "documents": list(text_payload(documents)),
        "arms": [visible(arm) for arm in arms],
        "seeds": seeds,
        "runs": shown,
        "findings": list(findings(information.values(), seeds, layers)),
        "versus": _versus(runs),
        "shades": _shades(),
        "limit": _limit(shown),
        "probe": {"documents": len(first.domain), "tokens": len(first.document)},
    }


def _runs_with_experts(suite: Suite) -> list[Run]:
    """Arm after arm in the suite's order, each one's seeds in the suite's order."""
    runs = [run for run in (*suite.runs, *suite.going) if run.manifest.moe_layers]
    arms = [arm.name for arm in suite.arms]
    return sorted(runs, key=lambda run: (arms.index(run.arm), suite.seeds.index(run.seed)))


def _steps(run: Run) -> list[int]:
    return [step for step in trace_steps(run) if step <= run.last_step]


def _tokens_a_domain(runs: Sequence[Run], trace: Trace) -> int:
    cost = sum(len(_steps(run)) * bytes_a_token(run, len(run.manifest.moe_layers)) for run in runs)
    return min(DOCUMENTS * TOKENS, ROUTE_BYTES // cost // len(np.unique(trace.domain)))


def _information(suite: Suite, tables: Tables, runs: Sequence[Run]) -> _Information:
    """From the table; of runs still going, which measures leave out, from their traces."""
    shown = {(run.arm, run.seed) for run in runs}
    going = information_rows(replace(suite, runs=tuple(run for run in runs if run in suite.going)))
    return {
        (row.arm, row.seed, row.step, row.layer): row
        for row in (*going, *tables.information)
        if row.counted == FIRST_CHOICE and (row.arm, row.seed) in shown
    }


def _run(run: Run, going: bool, documents: Sequence[ShownDocument], information: _Information) -> dict[str, Any]:
    tokens = np.concatenate([document.tokens for document in documents])
    experts = 1 if run.config.moe is None else run.config.moe.num_experts
    return {
        "name": visible(run.arm),
        "seed": run.seed,
        "going": going,
        "layers": list(run.manifest.moe_layers),
        "experts": experts,
        "slots": 1 if run.config.moe is None else run.config.moe.top_k,
        "steps": list(_step_payloads(run, tokens, information)),
    }


def _step_payloads(run: Run, tokens: np.ndarray, information: _Information) -> Iterator[dict[str, Any]]:
    for step in _steps(run):
        trace = read_trace(run, step)
        rows = [information.get((run.arm, run.seed, step, layer.layer)) for layer in trace.layers]
        yield step_payload(run, trace, tokens, rows)


def _look(style: Mapping[str, Any], place: int) -> dict[str, str]:
    """The arm's colour in every figure, and a dash by its place: drifts may lie on top of each other."""
    return {"colour": style["color"], "dash": _DASHES[(place + place // len(ARM_COLOURS)) % len(_DASHES)]}


def _versus(runs: Sequence[Run]) -> str | None:
    """What the first arm stands beside at first: one whose learned router nothing balances, else the next."""
    others = [run for run in runs if run.arm != runs[0].arm]
    free = [run for run in others if _is_free(run)]
    return next((visible(run.arm) for run in (*free, *others)), None)


def _is_free(run: Run) -> bool:
    moe = run.config.moe
    return moe is not None and moe.router == "learned" and moe.balance_coef == 0 and moe.bias_rate == 0


def _shades() -> list[tuple[str, str]]:
    """Ground and ink from far below the uniform share to far above; the one in the middle is the uniform share's."""
    grounds = [to_hex(DIVERGING(place / (_SHADES - 1))) for place in range(_SHADES)]
    return [(ground, readable_ink(ground)) for ground in grounds]


def _limit(runs: Sequence[Mapping[str, Any]]) -> float:
    """log2 of the largest share ÷ uniform in any table, at least 1: where the colours end."""
    layers = [(run, layer) for run in runs for step in run["steps"] for layer in step["layers"]]
    ratios = [run["experts"] * max(row) / sum(row) for run, layer in layers for row in layer["counts"] if sum(row)]
    return max(1.0, math.log2(max(ratios, default=1.0)))
