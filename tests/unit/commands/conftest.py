import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # synthetic_suite


@pytest.fixture(scope="module")
def without_run_measures() -> Iterator[None]:
    """Tables without what is measured run by run, for tests that ask for none of it: it takes seconds a suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moe_emergence.analysis.tables.measures_of_runs", lambda *given: {})
        yield
