"""The reliability matrix: `pytest tests/reliability` for its short form, with `--long` for the full counts."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Runs, Zygote, numbered

from moe_emergence.config import ExecutionConfig, RunConfig

FIGURE, CASE = "figure", "case"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the full counts of the reliability matrix; minutes")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Every figure that the tests have recorded."""
    figures: list[str] = []
    cases: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for kind in ("passed", "failed"):
        for report in terminalreporter.stats.get(kind, ()):
            figures += [value for name, value in report.user_properties if name == FIGURE]
            kinds = [value for name, value in report.user_properties if name == CASE]
            cases.update(kinds)
            held.update(kinds if kind == "passed" else ())
    figures += [f"{name}: {held[name]} of {count}" for name, count in cases.items()]
    if figures:
        terminalreporter.section("reliability")
        for figure in sorted(figures):
            terminalreporter.write_line(figure)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--long`, what is marked so is left out."""
    if not config.getoption("--long", default=False):
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the full counts were asked for; the option is there only where this folder was."""
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Record a figure for the summary."""
    return lambda text: record_property(FIGURE, text)


@pytest.fixture
def case_of(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Count this test as one case of what is named; the summary says how many held. Called before what may fail."""
    return lambda name: record_property(CASE, name)


@pytest.fixture(scope="session")
def forty(toy_config: Callable[..., RunConfig]) -> dict[str, RunConfig]:
    """Runs of 40 steps with a checkpoint every 3 and dropout on, one for each way to compute a step."""
    training = {"steps": 40, "checkpoint_every": 3, "evaluations": 4}
    top_1 = toy_config(training=training)
    runs = {
        "top 1": top_1,
        "top 2, keep 1": toy_config(moe={"top_k": 2}, training=training | {"keep_checkpoints": 1}),
        "dense": toy_config(moe=None, training=training),
        "4 micro-batches": toy_config(training=training | {"micro_batch_size": 1}),
        "3 micro-batches": toy_config(training=training | {"batch_size": 6, "micro_batch_size": 2}),
    }
    if "precision" in ExecutionConfig.__dataclass_fields__:
        runs["bf16"] = replace(top_1, execution=replace(top_1.execution, precision="bf16"))
    return runs


@pytest.fixture(scope="session")
def twelve(toy_config: Callable[..., RunConfig]) -> RunConfig:
    """A run of 12 steps that keeps three checkpoints, one every 3 steps."""
    return toy_config(training={"steps": 12, "checkpoint_every": 3, "keep_checkpoints": 3, "evaluations": 4})


@pytest.fixture(scope="session")
def zygote(forty: dict[str, RunConfig], toy_config: Callable[..., RunConfig]) -> Iterator[Zygote]:
    """One a test process."""
    short = {"steps": 2, "evaluations": 2}
    started = Zygote([toy_config(training=short), toy_config(moe=None, training=short | {"micro_batch_size": 2})])
    yield started
    started.close()


@pytest.fixture(scope="session")
def runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(zygote, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """Fresh folders for runs."""
    return numbered(tmp_path)
