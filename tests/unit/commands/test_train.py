"""`train`: the layers of its configuration, and what it hands to the loop."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_emergence import cli
from moe_emergence.commands import train as command
from moe_emergence.commands.fields import build_run
from moe_emergence.commands.files import read_values, to_yaml
from moe_emergence.config import MoEConfig, OptimizerConfig, RunConfig, TrainingConfig, to_dict
from moe_emergence.errors import ConfigError
from moe_emergence.experiments.presets import PRESETS


def _config(*arguments: str) -> RunConfig:
    parser = command.command()
    return build_run(command.layers(parser, parser.parse(arguments)))


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("training: {steps: 11, batch_size: 4}\noptimizer:\n  learning_rate: 1e-3\n")
    return path


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    folder.mkdir()
    run = RunConfig(name="earlier", moe=MoEConfig(top_k=2), training=TrainingConfig(steps=9))
    (folder / "config.json").write_text(json.dumps(to_dict(run)))
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of the training loop, none of which trains."""
    made: list[dict[str, Any]] = []

    def train(config: RunConfig, folder: Path, **options: Any) -> SimpleNamespace:
        made.append({"config": config, "folder": folder} | options)
        return SimpleNamespace(folder=folder, reason="finished", steps=3, lm_loss_macro=1.25)

    monkeypatch.setattr("moe_emergence.training.loop.train", train)
    return made


def test_without_layers_it_is_the_default_run() -> None:
    assert _config() == RunConfig()


def test_preset_then_yaml_then_options_whatever_their_order(yaml: Path) -> None:
    preset = PRESETS["moe"]()
    run = _config("--training.steps", "5", "--config", str(yaml), "--preset", "moe")
    assert (run.training.steps, run.training.batch_size) == (5, 4)
    assert run.training.evaluations == preset.training.evaluations
    assert run.optimizer.learning_rate == 1e-3
    assert run.moe == preset.moe


def test_a_yaml_of_some_fields_is_enough(yaml: Path) -> None:
    expected = RunConfig(training=TrainingConfig(steps=11, batch_size=4), optimizer=OptimizerConfig(learning_rate=1e-3))
    assert _config("--config", str(yaml)) == expected


def test_moe_null_makes_it_dense() -> None:
    assert _config("--preset", "moe", "--moe", "null").moe is None


def test_a_resumed_run_has_its_own_fields(earlier: Path) -> None:
    run = _config("--resume", "--out", str(earlier))
    assert (run.name, run.training.steps, run.moe) == ("earlier", 9, MoEConfig(top_k=2))


def test_a_fork_starts_from_the_fields_of_its_parent(earlier: Path) -> None:
    run = _config("--from", str(earlier), "--out", "elsewhere", "--training.steps", "4")
    assert (run.name, run.training.steps, run.moe) == ("earlier", 4, MoEConfig(top_k=2))


@pytest.mark.parametrize("name", PRESETS)
def test_the_printed_config_gives_the_same_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--preset", name, "--moe.layers", "1", "--print_config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    run = _config("--config", str(tmp_path / "printed.yaml"))
    assert run == _config("--preset", name, "--moe.layers", "1")
    assert to_yaml(run) == printed


def test_json_is_read_too(tmp_path: Path) -> None:
    run = RunConfig(moe=MoEConfig(layers=(0, 3)), question="a: b # 'c'\nd")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(run)))
    assert _config("--config", str(tmp_path / "config.json")) == run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training: {stepz: 3}", "there is no field training.stepz. Did you mean training.steps?"),
        ("moe: {num_expertz: 3}", "there is no field moe.num_expertz. Did you mean moe.num_experts?"),
        ("training: {steps: x}", "training.steps must be a whole number; got 'x'"),
        ("training: {steps: 3", "is not YAML"),
        ("- 3", "must hold fields and values"),
        ("", "must hold fields and values"),
        (b"\xff\xfe", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused_by_name(
    content: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["train", "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--moe.top_k", "9"], "moe.top_k must lie between 1 and moe.num_experts (8); got 9"),
        (["--preset", "mo"], "there is no preset 'mo'; did you mean moe?"),
        (["--config", "/no/run.yaml"], "cannot read /no/run.yaml: No such file or directory"),
        (["--resume", "--out", "/no/run"], "no run in /no/run (no config.json there): give the folder of a run"),
        ([], "--out is missing: give the run's folder"),
    ],
)
def test_mistakes_end_with_one_line(
    arguments: list[str], message: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert calls == []


def test_a_folder_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_values(tmp_path)


def test_the_loop_gets_what_was_asked(
    calls: list[dict[str, Any]], earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", "--out", str(out), "--from", str(earlier), "--training.steps", "3", "--quiet"]) == 0
    (call,) = calls
    assert (call["folder"], call["fork"], call["resume"], call["allow_inexact"]) == (out, earlier, False, False)
    assert call["config"].training.steps == 3
    assert capsys.readouterr().out == f"earlier: finished at step 3, test LM loss 1.2500 nats a token\n{out}\n"


def test_allow_inexact_reaches_the_loop(calls: list[dict[str, Any]], earlier: Path) -> None:
    arguments = ["--out", str(earlier), "--resume", "--allow-inexact", "--execution.threads", "3"]
    assert cli.main(["train", *arguments]) == 0
    assert calls[0]["allow_inexact"] is True
    assert calls[0]["config"].execution.threads == 3


def test_of_several_processes_one_reports(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "--out", str(tmp_path / "run")]) == 0
    assert len(calls) == 1
    assert capsys.readouterr().out == ""


def test_a_file_of_fields_begins_a_run_that_is_to_be_continued_and_is_not_there(yaml: Path, tmp_path: Path) -> None:
    """A scheduler gives the same command again and again, also before the first file was written."""
    run = _config("--config", str(yaml), "--resume", "--out", str(tmp_path / "new"))
    assert run.training.steps == 11
