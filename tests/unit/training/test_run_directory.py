"""A run's folder: never written over, reopened only as it was, its records cut back to a step."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moe_emergence.config import MoEConfig, RunConfig, TrainingConfig, to_dict
from moe_emergence.errors import RunDirectoryError
from moe_emergence.training.run_directory import CONFIG, METRICS, TIMINGS, RunDirectory, write_json
from moe_emergence.training.start import refuse_changes

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
        (replace(CONFIGURATION, seed=7), "seed = 42, not 7"),
        (replace(CONFIGURATION, training=TrainingConfig(steps=6)), r"training\.steps = 5, not 6"),
        (replace(CONFIGURATION, moe=MoEConfig(layers=(2,))), r"moe\.layers = \(1, 2\), not \(2,\)"),
        (replace(CONFIGURATION, moe=None), r"moe\.layers = \(1, 2\), not None"),
    ],
)
def test_a_changed_field_is_named_with_both_values(run: RunDirectory, changed: RunConfig, message: str) -> None:
    with pytest.raises(RunDirectoryError, match=rf"was started with .*{message}.*\. Continue it unchanged, or choose"):
        refuse_changes(run, run.changes_to(changed))


def test_the_same_configuration_is_no_change(run: RunDirectory) -> None:
    assert RunDirectory.open_existing(run.path).changes_to(CONFIGURATION) == []


def test_a_second_process_is_kept_out_until_the_first_lets_go(run: RunDirectory) -> None:
    code = (
        "import sys; from pathlib import Path; from moe_emergence.training.run_directory import RunDirectory\n"
        "try: RunDirectory.open_existing(Path(sys.argv[1])).lock()\n"
        "except Exception as error: sys.exit(str(error))"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "is in use: another process trains there" in refused.stderr
    run.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_a_lock_left_by_a_killed_process_keeps_nobody_out(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    RunDirectory.create(tmp_path, CONFIGURATION).close()


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


EVENTS = [("evaluation", 0), ("step", 1), ("step", 2), ("collapse", 2), ("evaluation", 2), ("trace", 2), ("step", 3)]


def test_cut_back_drops_what_came_after_the_checkpoint_in_both_records(run: RunDirectory) -> None:
    """A checkpoint is taken after the step's update and before its evaluation."""
    for name in (METRICS, TIMINGS):
        for event, step in EVENTS:
            run.append(name, {"event": event, "step": step})
    run.close()
    with (run.path / METRICS).open("a") as file:
        file.write('{"torn')
    run.cut_back(2)
    for name in (METRICS, TIMINGS):
        assert [(line["event"], line["step"]) for line in run.read(name)] == EVENTS[:4]
    run.append(METRICS, {"event": "step", "step": 3})
    run.close()
    assert (run.path / METRICS).read_text().endswith('{"event": "step", "step": 3}\n')


def test_cut_back_to_nothing(run: RunDirectory) -> None:
    run.append(METRICS, {"event": "evaluation", "step": 0})
    run.cut_back(None)
    run.append(METRICS, {"event": "step", "step": 1})
    run.close()
    assert [line["event"] for line in run.read(METRICS)] == ["step"]


@pytest.mark.parametrize(
    ("steps", "missing"), [([], 1), ([1], 2), ([2, 3], 1), ([1, 3], 2), ([1, 2, 2, 3], 3), ([2, 1, 3], 3)]
)
def test_records_without_a_step_before_the_checkpoint_are_refused(
    run: RunDirectory, steps: list[int], missing: int
) -> None:
    for step in steps:
        run.append(METRICS, {"event": "step", "step": step})
    run.close()
    with pytest.raises(RunDirectoryError, match=f"lacks step {missing}, or has it in the wrong place, .*of step 3"):
        run.cut_back(3)
    assert [line["step"] for line in run.read(METRICS)] == steps, "nothing is lost"


@pytest.mark.parametrize("line", ["{", "3", '{"event": "step"}', '{"event": "step", "step": "x"}', "\x00\x00"])
def test_a_damaged_line_is_refused_by_the_file_s_name(run: RunDirectory, line: str) -> None:
    (run.path / METRICS).write_text(f'{{"event": "step", "step": 1}}\n{line}\n{{"event": "end", "step": 2}}\n')
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl is damaged"):
        list(run.read(METRICS))


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
