"""Documents turned in a circle."""

import numpy as np
import pytest

from moe_emergence.analysis.sequences import turned
from moe_emergence.errors import AnalysisError


def test_a_turned_sequence_stays_in_its_document() -> None:
    document = np.repeat([4, 0, 2], [1, 5, 40])
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = turned(document, rng)
        assert np.array_equal(document[moved], document)
        assert np.array_equal(np.sort(moved), np.arange(46))
        assert set(np.diff(moved[6:]).tolist()) <= {1, -39}
    # every offset of the last document may come, none as well
    assert {int(turned(document, rng)[6]) for _ in range(2_000)} == set(range(6, 46))
    with pytest.raises(AnalysisError, match="consecutive"):
        turned(np.array([0, 1, 0]), rng)
