"""Tables that are not cut, whatever they are written to."""

import pytest

from moe_emergence.commands.printing import human, print_rows, print_table


def test_numbers_are_right_and_nothing_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest's workers have one
    wide = "w" * 90
    print_rows(
        "things [of note]", [{"name": wide, "count": 1234567, "share": 0.25}, {"name": "b", "count": 5, "share": 2.0}]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "things [of note]"
    assert lines[-3].split() == [wide, "1,234,567", "0.25"]
    assert lines[-2].endswith("5       2")
    assert all(line == line.rstrip() for line in lines)


def test_markup_in_cells_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", ["[red]a"], [False], [["[bold]b[/bold] :smile:"]])
    shown = capsys.readouterr().out
    assert "[red]a" in shown
    assert "[bold]b[/bold] :smile:" in shown


def test_no_rows_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("t", [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("amount", "text"), [(5.0, "5 B"), (1024.0, "1 KiB"), (1024**3 * 1.5, "1.5 GiB"), (1024.0**4, "1024 GiB")]
)
def test_amounts_for_people(amount: float, text: str) -> None:
    assert human(amount, ("B", "KiB", "MiB", "GiB"), 1024) == text
