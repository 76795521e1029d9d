"""Options from dataclasses: types, nearest names, and messages of one line."""

import pytest

from moe_emergence.commands.arguments import Command, nearest
from moe_emergence.commands.fields import build_run, fields_of, optional_groups
from moe_emergence.config import MoEConfig, OptimizerConfig, RunConfig, TrainingConfig, flat
from moe_emergence.errors import ConfigError


@pytest.fixture
def command() -> Command:
    made = Command("make", "Make something.")
    made.option("out", str | None, None, "a folder")
    made.option("max-size", int, 40, "a size")
    made.flag("fast", "soon")
    made.fields(fields_of(RunConfig))
    return made


def test_every_leaf_of_a_run_is_a_field() -> None:
    assert [field.name for field in fields_of(RunConfig)] == list(flat(RunConfig(moe=MoEConfig())))
    assert {field.name: field.default for field in fields_of(RunConfig)} == flat(RunConfig(moe=MoEConfig()))
    assert optional_groups() == ("moe",)


def test_a_field_has_the_text_beneath_it() -> None:
    texts = {field.name: field.text for field in fields_of(RunConfig)}
    assert texts["moe.balance_coef"] == "Weight of the Switch load-balancing loss; 0 turns it off."
    assert texts["optimizer.beta1"] == ""


def test_help_shows_texts_types_and_defaults(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Weight of the Switch load-balancing loss; 0 turns it off. (type: float, default: 0.01)" in shown
    assert "one expert above 60 % in three checks" in shown
    assert "AdamW, warm-up, cosine to zero:" in shown


def test_only_what_was_given_is_among_the_fields(command: Command) -> None:
    given = command.parse(["--moe.top_k", "2", "--training.steps=7", "--fast"])
    assert given.fields == {"moe.top_k": 2, "training.steps": 7}
    assert given.options == {"out": None, "max_size": 40, "fast": True}


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        (["--moe.layers", "2,3"], "moe.layers", (2, 3)),
        (["--moe.layers=[2,3]"], "moe.layers", (2, 3)),
        (["--moe.layers", "2"], "moe.layers", (2,)),
        (["--moe.layers", "null"], "moe.layers", None),
        (["--execution.trackers", "tensorboard"], "execution.trackers", ("tensorboard",)),
        (["--optimizer.learning_rate", "1e-3"], "optimizer.learning_rate", 1e-3),
        (["--optimizer.learning_rate", "-1"], "optimizer.learning_rate", -1.0),
        (["--training.stop_on_collapse", "true"], "training.stop_on_collapse", True),
        (["--moe.balance_window", "blocks:2"], "moe.balance_window", "blocks:2"),
        (["--question", "--why?"], "question", "--why?"),
        (["--name", "123"], "name", "123"),
        (["--moe", "null"], "moe", None),
        (["--moe=null"], "moe", None),
    ],
)
def test_values_are_typed(command: Command, written: list[str], name: str, value: object) -> None:
    found = command.parse(written).fields[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["--training.stepz", "5"], "there is no option --training.stepz. Did you mean --training.steps?"),
        (["--traning.steps=5"], "there is no option --traning.steps. Did you mean --training.steps?"),
        (["--top_k", "2"], "there is no option --top_k. Did you mean --moe.top_k?"),
        (["--moe.topk", "2"], "there is no option --moe.topk. Did you mean --moe.top_k?"),
        (["--max_size", "2"], "there is no option --max_size. Did you mean --max-size?"),
        (["--fsat"], "there is no option --fsat. Did you mean --fast?"),
        (["--zzz"], "there is no option --zzz. See moe-emergence make --help."),
        (["--training.steps", "many"], "training.steps must be a whole number; got 'many'"),
        (["--training.steps", "1.5"], "training.steps must be a whole number; got '1.5'"),
        (["--max-size", "big"], "--max-size must be a whole number; got 'big'"),
        (["--optimizer.clip_norm", "x"], "optimizer.clip_norm must be a number; got 'x'"),
        (["--training.stop_on_collapse", "7"], "training.stop_on_collapse must be true or false; got '7'"),
        (["--moe.router", "none"], "moe.router must be one of learned, frozen, hash, round_robin, domain; got 'none'"),
        (["--execution.threads", "x"], "execution.threads must be a whole number, or null; got 'x'"),
        (["--moe.layers", "a,b"], "moe.layers must be a list of whole numbers, or null; got \"['a', 'b']\""),
        (["--moe", "some"], "--moe takes null alone, for none; its fields have names of their own, as --moe.top_k"),
        (["--training.steps"], "argument --training.steps: expected one argument"),
        (["stray"], "there is no place for stray. Did you mean --out stray?"),
        (["stray", "--out", "x"], "there is no place for stray. See moe-emergence make --help."),
        (["two", "words"], "there is no place for two words. See moe-emergence make --help."),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(command: Command, written: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        command.parse(written)
    assert str(raised.value) == message


def test_what_comes_after_two_dashes_is_no_option() -> None:
    command = Command("say", "Say it.")
    command.position("text", "what")
    assert command.parse(["--", "--hello"])["text"] == "--hello"


def test_a_missing_option_says_what_it_is(command: Command) -> None:
    with pytest.raises(ConfigError, match="--out is missing: give a folder"):
        command.parse([]).required("out", "a folder")


def test_nearest_prefers_the_whole_name() -> None:
    names = ["training.steps", "moe.layers", "optimizer.warmup"]
    assert nearest("training.step", names) == "training.steps"
    assert nearest("layers", names) == "moe.layers"
    assert nearest("qqq", names) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training.stepz": 3}, "run.yaml: there is no field training.stepz. Did you mean training.steps?"),
        ({"qqq": 3}, "run.yaml: there is no field qqq."),
        ({"training": 3}, "run.yaml: training must hold fields; got 3"),
        ({"moe": {}}, "run.yaml: moe must hold fields or be null; got {}"),
        ({"training.steps": "x"}, "run.yaml: training.steps must be a whole number; got 'x'"),
        ({"training.steps": None}, "run.yaml: training.steps must be a whole number; got null"),
    ],
)
def test_values_of_a_file_are_checked_alike(command: Command, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        command.parse_values(values, "run.yaml")
    assert str(raised.value) == message


def test_a_later_layer_wins() -> None:
    layers = [{"training.steps": 5, "training.batch_size": 4}, {"training.steps": 6}]
    assert build_run(layers) == RunConfig(training=TrainingConfig(steps=6, batch_size=4))


def test_null_drops_the_experts_of_earlier_layers() -> None:
    assert build_run([{"moe.top_k": 2}, {"moe": None}]).moe is None
    assert build_run([{"moe.top_k": 2, "moe.z_coef": 0.5}, {"moe": None}, {"moe.top_k": 3}]).moe == MoEConfig(top_k=3)
    assert build_run([{"moe": None}, {"moe.top_k": 2}]).moe == MoEConfig(top_k=2)


def test_null_and_a_field_of_it_contradict() -> None:
    with pytest.raises(ConfigError, match=r"moe is null and moe\.top_k is set: leave one of them out"):
        build_run([{"moe": None, "moe.top_k": 2}])


def test_any_run_comes_back_from_its_leaves() -> None:
    run = RunConfig(name="x", moe=MoEConfig(layers=(1, 2), top_k=2), optimizer=OptimizerConfig(beta1=0.5))
    assert build_run([flat(run)]) == run
    assert build_run([flat(RunConfig())]) == RunConfig()


def test_a_value_out_of_range_says_so_in_its_own_words() -> None:
    with pytest.raises(ConfigError) as raised:
        build_run([{"moe.top_k": 9}])
    assert str(raised.value) == "moe.top_k must lie between 1 and moe.num_experts (8); got 9"
