"""A router that is never trained, from training to page: it separates domains, and the page calls that not learned."""

from collections.abc import Callable
from pathlib import Path

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.tables import make_tables
from moe_emergence.config import RunConfig
from moe_emergence.experiments.suites import Arm, Suite
from moe_emergence.report.page import write_report
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training.suite import run_suite


def test_what_a_frozen_random_router_separates_is_not_called_learned(
    toy_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = toy_config(moe={"router": "frozen", "layers": (0, 1)}, data={"probe_tokens": 900})
    suite = Suite(name="frozen", question="Does an untrained router specialise?", arms=(Arm(config=config),))
    run_suite(suite, tmp_path, seeds=(7, 8), console=RunConsole(quiet=True))
    recorded = read_suite(tmp_path)
    tables = make_tables(recorded)
    assert len(tables.verdicts) == 4
    assert any(row.above_permutation for row in tables.verdicts), "domains of other words look different to any gate"
    assert not any(row.above_fresh for row in tables.verdicts)
    page = write_report(recorded, tables).read_text("utf-8")
    assert "no evidence of learned specialisation" in page.lower()
    assert "beats both nulls in" not in page
