"""`pretrain-base`: a mistake in the mix leaves nothing behind."""

from pathlib import Path

import pytest

from moe_emergence import cli


@pytest.mark.parametrize(("mix", "said"), [("prose=90", "every domain once"), ("code=x,math=1,prose=1", "got 'x'")])
def test_a_mix_that_is_none_is_one_line_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mix: str, said: str
) -> None:
    out = tmp_path / "base"
    assert cli.main(["pretrain-base", "--mix", mix, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.strip().splitlines()) == 1
    assert not out.exists()
