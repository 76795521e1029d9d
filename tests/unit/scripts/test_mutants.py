"""The table of known bugs fits source and tests as they are, and a check of it can fail."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
TEST = "tests/test_adding.py::test_adding"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """Under a name of its own: tests of reliability have a module `mutants` too."""
    sys.path.insert(0, str(ROOT / "scripts"))
    specification = importlib.util.spec_from_file_location("mutants_script", ROOT / "scripts" / "mutants.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "scripts"))
    del sys.modules["known_bugs"]


def test_every_bug_can_be_put_back_in_one_place(script: Any) -> None:
    names = [mutant.name for mutant in script.MUTANTS]
    assert len(names) == len(set(names)) >= 15
    for mutant in script.MUTANTS:
        assert script.mutated(mutant, ROOT / script.PACKAGE) != (ROOT / script.PACKAGE / mutant.file).read_text("utf-8")


def test_every_named_test_exists(script: Any) -> None:
    for mutant in script.MUTANTS:
        assert 1 <= len(mutant.tests) <= 3, mutant.name
        for test in mutant.tests:
            file, _, function = test.partition("::")
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            assert function.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture
def toy(script: Any, tmp_path: Path) -> Any:
    """A package of two lines, its test, and the bug of it."""
    for name, text in {
        "src/toy/__init__.py": "def add(a, b):\n    return a + b\n",
        TEST.partition("::")[0]: "from toy import add\n\n\ndef test_adding():\n    assert add(2, 2) == 4\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return script.Mutant("minus", "no case", "__init__.py", "a + b", "a - b", (TEST,))


def checked(script: Any, root: Path, *mutants: Any) -> tuple[bool, list[str]]:
    said: list[str] = []
    noticed = script.check(mutants, jobs=2, root=root, package="src/toy", say=lambda text, **_: said.append(text))
    return noticed, said


def test_only_what_a_test_notices_is_caught(script: Any, toy: Any, tmp_path: Path) -> None:
    """Neither a change that no test can see, nor one that is only a mistake in the table."""
    before = (tmp_path / "src/toy/__init__.py").read_text()
    times = replace(toy, name="times", new="a * b")
    unknown = replace(toy, name="unknown", new="a + c")
    noticed, said = checked(script, tmp_path, toy, times, unknown)
    assert not noticed
    assert said[0] == "minus: caught by test_adding"
    assert said[1] == "times: SURVIVED (pytest ended with 0; no failure)"
    assert said[2] == "unknown: SURVIVED (pytest ended with 1; NameError: name 'c' is not defined)"
    assert said[3] == "mutants: 1 of 3 caught"
    assert (tmp_path / "src/toy/__init__.py").read_text() == before


def test_a_test_that_fails_anyway_catches_nothing(script: Any, toy: Any, tmp_path: Path) -> None:
    (tmp_path / TEST.partition("::")[0]).write_text("def test_adding():\n    assert False\n")
    noticed, said = checked(script, tmp_path, toy)
    assert not noticed
    assert said == ["without a mutant pytest ended with 1: {'test_adding': 'assert False'}"]


@pytest.mark.parametrize(("old", "times"), [("a ÷ b", 0), ("a", 3)])
def test_a_change_that_no_longer_fits_is_an_error(script: Any, toy: Any, tmp_path: Path, old: str, times: int) -> None:
    with pytest.raises(ValueError, match=f"minus: __init__.py has {times} times, not once: '{old}'"):
        checked(script, tmp_path, replace(toy, old=old))
