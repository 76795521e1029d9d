import importlib.util
import random
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "word_problems.py"
PER_TEMPLATE = 20
NUMBER = r"[-−]?[$£€]?\d++(?:\.\d++)?(?:/\d++)?"
EQUATION = re.compile(rf"(?<![\w.,/])({NUMBER}(?: [×*÷/+−-] {NUMBER})+) = ({NUMBER})(?! [×*÷/+−-] )(?!\w)")


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("word_problems", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    # A dataclass looks its own module up by name while it is being defined.
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


@pytest.fixture(scope="module")
def problems(script):
    return script.word_problems(seed=7, per_template=PER_TEMPLATE)


def number(text):
    return Fraction(re.sub("[$£€]", "", text).replace("−", "-"))


def evaluate(chain):
    first, *rest = chain.split(" ")
    terms = [number(first)]
    for operator, operand in zip(rest[::2], rest[1::2], strict=True):
        if operator in "×*":
            terms[-1] *= number(operand)
        elif operator in "÷/":
            terms[-1] /= number(operand)
        else:
            terms.append(number(operand) * (1 if operator == "+" else -1))
    return sum(terms)


def equations(text):
    """Every "a op b [op c…] = value" of a text, except as the tail of one such as "x + 2 × 3 = 9"."""
    for match in EQUATION.finditer(text):
        before = text[: match.start()].rsplit("\n", 1)[-1]
        if not re.search(r"\S [×*÷/+−-] $", before):
            yield match.groups()


def test_there_are_enough_templates(script, problems):
    assert len(script.TEMPLATES) >= 72
    counts = Counter(problem.template for problem in problems)
    assert set(counts) == set(script.TEMPLATES)
    assert set(counts.values()) == {PER_TEMPLATE}


def test_same_seed_same_problems(script, problems):
    assert script.word_problems(seed=7, per_template=PER_TEMPLATE) == problems
    other = script.word_problems(seed=8, per_template=2)
    assert not {problem.text for problem in other} & {problem.text for problem in problems}


def test_no_problem_is_repeated(problems):
    assert len({problem.text for problem in problems}) == len(problems)


def test_global_random_state_is_untouched(script):
    before = random.getstate()
    script.word_problems(seed=1, per_template=1)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 3 × 14 = 42.", [("3 × 14", "42")]),
        ("- £1.50 * 2 + £1 = £4 in all", [("£1.50 * 2 + £1", "£4")]),
        ("2/3 ÷ 1/6 = 4 and −3 + 5 = 2", [("2/3 ÷ 1/6", "4"), ("−3 + 5", "2")]),
        ("x + 2 × 3 = 9, 2 + 3 = 4k, 2 + 3 = 1 + 4", []),
    ],
)
def test_equations_are_found(text, expected):
    assert list(equations(text)) == expected


def test_every_equation_is_true(problems):
    checked = 0
    for problem in problems:
        found = list(equations(problem.text))
        # Every equals sign belongs to an equation that was recognised, so none escapes the check.
        assert len(found) == problem.text.count("="), problem.text
        for chain, value in found:
            assert evaluate(chain) == number(value), problem.text
        checked += len(found)
    assert checked > 4000


def test_texts_are_finished(problems):
    for problem in problems:
        assert not re.search(r"[{}#]|\(s\)|\.\.|  |\bNone\b|Fraction|Number|Money", problem.text), problem.text
        assert problem.text[-1] == "."
        assert not re.search(r"(?<![\d.,/:])1 (?:hour|day|year|degree|egg|stick|seat)s\b", problem.text), problem.text


def test_length_is_moderate(problems):
    lengths = [len(problem.text) for problem in problems]
    assert 350 <= sum(lengths) / len(lengths) <= 700


def test_templates_never_coincide(script, problems):
    names = re.compile("|".join((*script.NAMES, *script.TOWNS)))
    owners = {}
    for problem in problems:
        masked = re.sub(r"\d+(?:[.:/]\d+)*", "0", names.sub("N", problem.text))
        assert owners.setdefault(masked, problem.template) == problem.template
