"""What cannot be read is refused, by file and key; what has not ended is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic_suite import quickstart_like, write_suite

from moe_emergence.analysis.reading import read_given, read_suite
from moe_emergence.analysis.stored import inputs_digest
from moe_emergence.errors import AnalysisError

LOOKS = (0, 2, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_suite(tmp_path / "planted", quickstart_like(steps=6, looks=LOOKS))


def change_json(path: Path, change: Any) -> None:
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def change_lines(path: Path, event: str, change: Any) -> None:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        if line["event"] == event:
            change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def test_reads_every_run_in_the_order_of_the_suite(folder: Path) -> None:
    suite = read_suite(folder)
    assert [run.arm for run in suite.runs] == ["dense", "moe", "no_lb", "top2", "moe_blocks"]
    assert suite.missing == ()
    assert suite.dense == "dense"
    moe = suite.runs[1]
    assert moe.last_step == 6
    assert moe.tokens_trained == 6 * 16 * 256
    assert moe.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert [(look.split, look.step) for look in moe.evaluations] == [
        ("dev", 0), ("test", 0), ("dev", 2), ("dev", 6), ("test", 6),
    ]  # fmt: skip
    assert [layer.layer for layer in moe.last_test.routing] == [2, 3]
    assert suite.runs[0].last_test.routing == ()


@pytest.mark.parametrize("key", ["suite", "question", "arms", "seeds", "command", "conclusive", "note"])
def test_a_missing_key_of_the_suite_is_named(folder: Path, key: str) -> None:
    change_json(folder / "suite.json", lambda values: values.pop(key))
    with pytest.raises(AnalysisError, match=rf"suite\.json: no key '{key}'"):
        read_suite(folder)


@pytest.mark.parametrize("key", ["environment", "data", "base", "receipt", "moe_layers", "parameters"])
def test_a_missing_key_of_a_manifest_is_named(folder: Path, key: str) -> None:
    change_json(folder / "moe/seed-42/manifest.json", lambda values: values.pop(key))
    with pytest.raises(AnalysisError, match=rf"moe/seed-42/manifest\.json: no key '{key}'"):
        read_suite(folder)


@pytest.mark.parametrize("key", ["digest", "corpus", "corpus_digest", "domains", "sources", "record"])
def test_a_missing_key_of_the_data_is_named(folder: Path, key: str) -> None:
    change_json(folder / "moe/seed-42/manifest.json", lambda values: values["data"].pop(key))
    with pytest.raises(AnalysisError, match=rf"manifest\.json: 'data': no key '{key}'"):
        read_suite(folder)


@pytest.mark.parametrize("key", ["split", "lm_loss", "lm_loss_macro", "bits_per_byte", "predicted_tokens", "routing"])
def test_a_missing_key_of_an_evaluation_is_named_with_its_line(folder: Path, key: str) -> None:
    change_lines(folder / "top2/seed-42/metrics.jsonl", "evaluation", lambda line: line.pop(key))
    with pytest.raises(AnalysisError, match=rf"top2/seed-42/metrics\.jsonl, line 1: no key '{key}'"):
        read_suite(folder)


@pytest.mark.parametrize("key", ["layer", "assignments", "first_choice", "mean_probabilities", "entropy_per_token"])
def test_a_missing_key_of_a_layer_is_named(folder: Path, key: str) -> None:
    change_lines(folder / "moe/seed-42/metrics.jsonl", "evaluation", lambda line: line["routing"][1].pop(key))
    with pytest.raises(AnalysisError, match=rf"line 1: 'routing'\[1\]: no key '{key}'"):
        read_suite(folder)


def test_a_domain_without_a_loss_is_named(folder: Path) -> None:
    change_lines(folder / "dense/seed-42/metrics.jsonl", "evaluation", lambda line: line["lm_loss"].pop("math"))
    with pytest.raises(AnalysisError, match="'lm_loss': no key 'math'"):
        read_suite(folder)


def test_counts_of_the_wrong_shape_are_refused(folder: Path) -> None:
    change_lines(
        folder / "moe/seed-42/metrics.jsonl", "evaluation", lambda line: line["routing"][0]["assignments"].pop()
    )
    with pytest.raises(AnalysisError, match=r"'assignments' must hold numbers \[domains, experts\] = \[3, 8\]"):
        read_suite(folder)


@pytest.mark.parametrize("name", ["manifest.json", "timings.jsonl"])
def test_a_missing_file_of_a_finished_run_is_named(folder: Path, name: str) -> None:
    (folder / "moe/seed-42" / name).unlink()
    with pytest.raises(AnalysisError, match=rf"cannot read .*moe/seed-42/{name}: No such file"):
        read_suite(folder)


def test_a_torn_file_is_named(folder: Path) -> None:
    path = folder / "moe/seed-42/manifest.json"
    path.write_text(path.read_text("utf-8")[:100], "utf-8")
    with pytest.raises(AnalysisError, match=r"moe/seed-42/manifest\.json is not whole JSON"):
        read_suite(folder)


def test_a_torn_line_is_named(folder: Path) -> None:
    path = folder / "moe/seed-42/metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3][:20] + "\n", *lines[4:]]), "utf-8")
    with pytest.raises(AnalysisError, match=r"metrics\.jsonl, line 4 is not whole JSON"):
        read_suite(folder)


def test_runs_without_an_end_are_missing_not_left_out(folder: Path) -> None:
    path = folder / "moe/seed-42/metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:5], lines[5][:20]]), "utf-8")
    shutil.rmtree(folder / "top2/seed-42")
    (folder / "no_lb/seed-42/metrics.jsonl").unlink()
    suite = read_suite(folder)
    assert [run.arm for run in suite.runs] == ["dense", "moe_blocks"]
    assert [(run.arm, run.reason) for run in suite.missing] == [
        ("moe", "unfinished: recorded up to step 2 of 6"),
        ("no_lb", "nothing recorded of its 6 steps"),
        ("top2", "not started"),
    ]


def test_runs_on_different_data_are_refused(folder: Path) -> None:
    change_json(folder / "top2/seed-42/manifest.json", lambda values: values["data"].update(digest="other"))
    with pytest.raises(AnalysisError, match=r"top2.*'digest' is 'other', but .*dense.*must share their data"):
        read_suite(folder)


def test_a_config_of_another_run_is_refused(folder: Path) -> None:
    change_json(folder / "top2/seed-42/config.json", lambda values: values.update(seed=43))
    with pytest.raises(AnalysisError, match="'top2' and 43, but the folder is that of 'top2' and 42"):
        read_suite(folder)


@pytest.mark.parametrize("name", ["../dense", "/etc", "", "a/b", "..", "x\0", "C:\\x"])
def test_an_arm_never_names_a_folder_elsewhere(folder: Path, name: str) -> None:
    change_json(folder / "suite.json", lambda values: values["arms"][0].update(name=name))
    with pytest.raises(AnalysisError, match="must be the name of a folder"):
        read_suite(folder)


def test_a_suite_without_arms_or_with_one_twice_is_refused(folder: Path) -> None:
    change_json(folder / "suite.json", lambda values: values["arms"].append(values["arms"][0]))
    with pytest.raises(AnalysisError, match="names 'dense' twice"):
        read_suite(folder)
    change_json(folder / "suite.json", lambda values: values["arms"].clear())
    with pytest.raises(AnalysisError, match="'arms' and 'seeds' must not be empty"):
        read_suite(folder)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [("question", 3, "a string"), ("conclusive", "no", "true or false"), ("seeds", [1.5], "a list of whole numbers")],
)
def test_a_value_of_the_wrong_kind_is_named(folder: Path, key: str, value: Any, wanted: str) -> None:
    change_json(folder / "suite.json", lambda values: values.update({key: value}))
    with pytest.raises(AnalysisError, match=f"'{key}' must be {wanted}"):
        read_suite(folder)


def test_a_run_alone_is_read_as_a_suite_of_one_arm(folder: Path) -> None:
    run = folder / "moe" / "seed-42"
    suite = read_given([run])
    assert (suite.folder, suite.seeds, [arm.name for arm in suite.arms]) == (run, (42,), ["moe"])
    assert [(run.arm, run.seed) for run in suite.runs] == [("moe", 42)]
    assert suite.arms[0].baseline is None


def test_runs_given_together_are_arms_compared_with_the_first(folder: Path, tmp_path: Path) -> None:
    suite = read_given([folder / name / "seed-42" for name in ("dense", "no_lb", "moe")], tmp_path / "out")
    assert [(arm.name, arm.baseline) for arm in suite.arms] == [("dense", None), ("no_lb", "dense"), ("moe", "dense")]
    assert [run.arm for run in suite.runs] == ["dense", "no_lb", "moe"]
    assert suite.folder == tmp_path / "out"
    assert "moe.balance_coef" in suite.arms[1].changes
    assert "name" not in suite.arms[1].changes


def test_a_suite_given_alone_is_itself_with_results_elsewhere_if_wanted(folder: Path, tmp_path: Path) -> None:
    assert read_given([folder]).folder == folder
    assert read_given([folder], tmp_path / "out").folder == tmp_path / "out"


def test_what_cannot_be_read_together_is_refused(folder: Path, tmp_path: Path) -> None:
    run, other = folder / "moe" / "seed-42", tmp_path / "copy"
    shutil.copytree(run, other)
    with pytest.raises(AnalysisError, match=f"{run} and {other} are both 'moe' with seed 42"):
        read_given([run, other], tmp_path / "out")
    with pytest.raises(AnalysisError, match="2 runs given: say with --out"):
        read_given([run, folder / "dense" / "seed-42"])
    with pytest.raises(AnalysisError, match=f"{folder} is a suite: give one suite alone"):
        read_given([run, folder], tmp_path / "out")
    with pytest.raises(AnalysisError, match="neither a suite nor a run"):
        read_given([tmp_path])


def test_other_runs_do_not_take_the_place_of_a_suite_s_results(folder: Path, tmp_path: Path) -> None:
    arms = ("moe_blocks", "dense", "moe", "no_lb", "top2")
    runs = [folder / arm / "seed-42" for arm in arms]
    message = (
        rf"--out {folder} is a suite of 5 runs, and {runs[1]}, {runs[2]} are not these: .* another folder to --out"
    )
    with pytest.raises(AnalysisError, match=message):
        read_given(runs[1:3], folder)
    with pytest.raises(AnalysisError, match="is a suite of 5 runs"):
        read_given(runs[:1], folder)
    other = write_suite(tmp_path / "other", quickstart_like(steps=6, looks=LOOKS))
    with pytest.raises(AnalysisError, match=f"{other} are not these"):
        read_given([other], folder)
    assert read_given([folder], folder).folder == folder
    assert len(read_given(runs, folder).runs) == 5


def unfinished(folder: Path, kept: int, torn: str = "") -> None:
    """The first `kept` lines of moe's metrics and the beginning of another; its last trace is gone."""
    run = folder / "moe/seed-42"
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:kept]) + torn, "utf-8")
    for trace in (run / "traces").glob("step-000006.*"):
        trace.unlink()


def test_a_run_that_is_still_going_is_read_up_to_its_last_trace(folder: Path) -> None:
    unfinished(folder, 7, '{"event": "step", "step": 5, "lm_l')
    suite = read_suite(folder)
    (going,) = suite.going
    assert (going.arm, going.seed, going.last_step, going.reason) == ("moe", 42, 2, "going")
    assert going.steps.tolist() == [1, 2, 3, 4]
    assert [(look.split, look.step) for look in going.evaluations] == [("dev", 0), ("test", 0), ("dev", 2)]
    assert "moe" not in [run.arm for run in suite.runs]
    assert [run.reason for run in suite.missing] == ["unfinished: recorded up to step 4 of 6"]


def test_a_trace_ahead_of_the_records_is_not_yet_counted(folder: Path) -> None:
    unfinished(folder, 7)
    traces = folder / "moe/seed-42/traces"
    shutil.copy(traces / "step-000002.parquet", traces / "step-000005.parquet")
    assert [run.last_step for run in read_suite(folder).going] == [2]


def test_only_the_last_line_of_a_going_run_may_be_torn(folder: Path) -> None:
    unfinished(folder, 4, '{"event": "st\n')
    with pytest.raises(AnalysisError, match=r"metrics\.jsonl, line 5 is not whole JSON"):
        read_suite(folder)


def test_a_going_run_alone_is_a_suite_without_results(folder: Path) -> None:
    unfinished(folder, 7)
    suite = read_given([folder / "moe/seed-42"])
    assert (suite.runs, [run.last_step for run in suite.going]) == ((), [2])


def test_without_a_trace_a_run_has_only_begun(folder: Path) -> None:
    unfinished(folder, 7)
    shutil.rmtree(folder / "moe/seed-42/traces")
    assert read_suite(folder).going == ()


def test_a_going_run_whose_records_cannot_be_read_keeps_the_others_readable(folder: Path) -> None:
    unfinished(folder, 7)
    change_json(folder / "moe/seed-42/manifest.json", lambda values: values.pop("receipt"))
    suite = read_suite(folder)
    assert suite.going == ()
    assert len(suite.runs) == 4
    assert suite.missing[0].reason.startswith(
        "unfinished: recorded up to step 4 of 6, and cannot be shown: manifest.json: no key 'receipt'"
    )


def test_what_a_going_run_adds_makes_no_table_stale(folder: Path) -> None:
    unfinished(folder, 7)
    before = inputs_digest(read_suite(folder))
    traces = folder / "moe/seed-42/traces"
    shutil.copy(traces / "step-000002.parquet", traces / "step-000004.parquet")
    suite = read_suite(folder)
    assert suite.going[0].last_step == 4
    assert inputs_digest(suite) == before
