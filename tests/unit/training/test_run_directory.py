"""A run's folder: never written over, reopened only as it was, its records cut back to a step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moe_emergence.config import MoEConfig, RunConfig, TrainingConfig, to_dict
from moe_emergence.errors import RunDirectoryError
from moe_emergence.training.run_directory import CONFIG, METRICS, TIMINGS, RunDirectory, write_json

CONFIGURATION = RunConfig(moe=MoEConfig(layers=(1, 2)), training=TrainingConfig(steps=5))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIGURATION)


def test_a_new_run_keeps_its_configuration(run: RunDirectory) -> None:
    assert json.loads((run.path / CONFIG).read_text()) == to_dict(CONFIGURATION)
    assert RunDirectory.open_existing(run.path).config == CONFIGURATION
    assert not run.finished


def test_an_empty_folder_can_be_used(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, CONFIGURATION).path == tmp_path


def test_a_used_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="already used: choose another folder, or continue it with --resume"):
        RunDirectory.create(tmp_path, CONFIGURATION)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirectoryError, match=str(path)):
            RunDirectory.create(path, CONFIGURATION)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_a_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no run in .*no config\.json there"):
        RunDirectory.open_existing(tmp_path)


@pytest.mark.parametrize("content", ["{", "null"])
def test_a_damaged_configuration_is_refused(run: RunDirectory, content: str) -> None:
    (run.path / CONFIG).write_text(content)
    with pytest.raises(RunDirectoryError, match=r"config\.json"):
        RunDirectory.open_existing(run.path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(CONFIGURATION, seed=7), "was started with seed = 42, not 7"),
        (replace(CONFIGURATION, training=TrainingConfig(steps=6)), r"training\.steps = 5, not 6"),
        (replace(CONFIGURATION, moe=MoEConfig(layers=(2,))), r"moe\.layers = \(1, 2\), not \(2,\)"),
        (replace(CONFIGURATION, moe=None), r"moe\.layers = \(1, 2\), not None"),
    ],
)
def test_a_changed_field_is_named_with_both_values(run: RunDirectory, changed: RunConfig, message: str) -> None:
    with pytest.raises(RunDirectoryError, match=f"{message}.*: continue it unchanged, or choose another folder"):
        RunDirectory.reopen(run.path, changed)


def test_a_run_is_reopened_as_it_was(run: RunDirectory) -> None:
    assert RunDirectory.reopen(run.path, CONFIGURATION).config == CONFIGURATION


# Records


def test_records_are_read_as_they_were_written(run: RunDirectory) -> None:
    lines = [{"event": "step", "step": 1, "lm_loss": 0.1 + 0.2, "text": "a\u2028b é"}, {"event": "end", "step": 2}]
    for line in lines:
        run.append(METRICS, line)
    assert list(run.read(METRICS)) == lines, "each line is there at once"
    assert run.finished
    assert list(run.read(TIMINGS)) == []
    run.close()


def test_a_torn_last_line_is_passed_over(run: RunDirectory) -> None:
    run.append(METRICS, {"event": "step", "step": 1})
    run.close()
    with (run.path / METRICS).open("a") as file:
        file.write('{"event": "end", "st')
    assert [line["step"] for line in run.read(METRICS)] == [1]
    assert not run.finished


def test_a_torn_line_that_is_whole_json_is_still_torn(run: RunDirectory) -> None:
    (run.path / METRICS).write_text('{"event": "step", "step": 1}\n{"event": "end", "step": 12}')
    assert not run.finished


def test_cut_back_drops_what_came_after_in_both_records(run: RunDirectory) -> None:
    for name in (METRICS, TIMINGS):
        for step in (0, 1, 2, 2, 3):
            run.append(name, {"event": "step", "step": step})
    run.close()
    with (run.path / METRICS).open("a") as file:
        file.write('{"torn')
    run.cut_back(2)
    for name in (METRICS, TIMINGS):
        assert [line["step"] for line in run.read(name)] == [0, 1, 2, 2]
    run.append(METRICS, {"event": "step", "step": 3})
    run.close()
    assert (run.path / METRICS).read_text().endswith('{"event": "step", "step": 3}\n')
    assert [line["step"] for line in run.read(METRICS)] == [0, 1, 2, 2, 3]


def test_cut_back_also_while_the_records_are_open(run: RunDirectory) -> None:
    run.append(METRICS, {"event": "step", "step": 1})
    run.cut_back(0)
    run.append(METRICS, {"event": "step", "step": 2})
    run.close()
    assert [line["step"] for line in run.read(METRICS)] == [2]


def test_cut_back_keeps_lines_byte_by_byte(run: RunDirectory) -> None:
    run.append(METRICS, {"event": "step", "step": 1, "loss": 1e-7, "third": 1 / 3, "text": "é"})
    before = (run.path / METRICS).read_bytes()
    run.append(METRICS, {"event": "step", "step": 2})
    run.close()
    run.cut_back(1)
    assert (run.path / METRICS).read_bytes() == before


def test_json_is_replaced_in_one_move(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    write_json(tmp_path / "a.json", {"a": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
