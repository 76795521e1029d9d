"""Blocks in the shares of a mix: shares are kept, nothing comes twice before all of it came."""

from collections import Counter

import numpy as np
import pytest

from moe_emergence.data.mixing import mixed_rows, parse_mix
from moe_emergence.errors import ConfigError

DOMAIN = np.repeat(np.arange(3, dtype=np.int32), [60, 60, 90])
SHARES = {0: 0.05, 1: 0.05, 2: 0.9}


def rows(steps: range, batch: int = 4) -> list[int]:
    found = [mixed_rows(DOMAIN, SHARES, seed=1, step=step, batch_size=batch) for step in steps]
    return np.concatenate(found).tolist()


def test_an_epoch_has_the_shares() -> None:
    """90 blocks of prose last 100 blocks: 5 of each other domain beside them."""
    first = rows(range(25))
    assert Counter(DOMAIN[first].tolist()) == {0: 5, 1: 5, 2: 90}
    assert len(set(first)) == 100, "no block twice"


def test_no_block_comes_again_before_all_of_its_domain_came() -> None:
    code = [row for row in rows(range(25 * 13)) if DOMAIN[row] == 0]
    assert len(code) == 65
    assert sorted(code[:60]) == list(range(60))
    assert len(set(code[60:])) == 5


def test_a_step_is_a_function_of_its_arguments() -> None:
    assert rows(range(7, 9)) == rows(range(9))[28:36]
    assert rows(range(14), batch=2) == rows(range(7)), "whatever the size of a step"
    other = mixed_rows(DOMAIN, SHARES, seed=2, step=0, batch_size=50)
    assert other.tolist() != mixed_rows(DOMAIN, SHARES, seed=1, step=0, batch_size=50).tolist()


def test_shares_are_read_in_any_order_and_sum_to_one() -> None:
    domains = ("code", "math", "prose")
    assert parse_mix("prose=90, code=5,math=5", domains) == {"code": 0.05, "math": 0.05, "prose": 0.9}
    assert parse_mix("", domains) == dict.fromkeys(domains, 1 / 3)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("prose=90,code=10", "every domain once"),
        ("prose=90,code=5,math=5,web=1", "every domain once"),
        ("prose=1,prose=1,code=1,math=1", "every domain once"),
        ("prose", "every domain once"),
        ("prose=x,code=5,math=5", "above 0; got 'x'"),
        ("prose=nan,code=5,math=5", "above 0; got 'nan'"),
        ("prose=inf,code=5,math=5", "above 0; got 'inf'"),
        ("prose=0,code=5,math=5", "above 0; got '0'"),
        ("prose=-1,code=5,math=5", "above 0; got '-1'"),
    ],
)
def test_what_is_no_mix_is_refused(mix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_mix(mix, ("code", "math", "prose"))
