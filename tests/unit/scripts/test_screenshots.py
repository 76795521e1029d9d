"""Pictures for the README stay small, whatever is in them."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

import screenshots


@pytest.mark.parametrize("noise", [0, 40])
def test_a_picture_is_reduced_below_the_limit_at_its_own_size(noise: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screenshots, "BYTES", 15_000)
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 200)[None, :, None] + noise * random.random((100, 200, 3))
    file = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(file, "PNG")
    small = screenshots.reduced(file.getvalue())
    assert len(small) < 15_000
    assert (len(file.getvalue()) > 15_000) == (noise > 0)
    assert Image.open(io.BytesIO(small)).size == (200, 100)


def test_without_a_report_the_command_that_writes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="moe-emergence report"):
        screenshots.main([str(tmp_path)])
