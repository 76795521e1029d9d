import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_run, which the browser tests use too

from tiny_run import write_run

from moe_emergence.explore.explorer import Explorer
from moe_emergence.explore.run import Loaded, Models, open_run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it, do not write there."""
    return write_run(tmp_path_factory.mktemp("explored") / "moe" / "seed-1")


@pytest.fixture(scope="session")
def explorer(tiny_run: Path) -> Explorer:
    return Explorer(open_run(tiny_run))


@pytest.fixture(scope="session")
def loaded(tiny_run: Path) -> Loaded:
    """The newest weights, loaded apart from the explorer's."""
    return Models(open_run(tiny_run)).at(5)
