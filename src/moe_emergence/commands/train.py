"""`train`: one run. Its configuration is laid down in layers: preset or earlier run, then YAML, then options."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_emergence.commands.arguments import Arguments, Command
from moe_emergence.commands.fields import build_run, fields_of
from moe_emergence.commands.files import read_values, to_yaml
from moe_emergence.commands.printing import is_first_process
from moe_emergence.commands.suite import INEXACT
from moe_emergence.config import RunConfig, flat
from moe_emergence.errors import ConfigError
from moe_emergence.experiments.presets import PRESETS
from moe_emergence.experiments.suites import did_you_mean
from moe_emergence.interrupt import stop_requests
from moe_emergence.training.run_directory import CONFIG, RunDirectory

PURPOSE = (
    "Train one run. Its fields come from --preset (or the run given to --resume or --from), then from --config, then "
    "from the options below. --moe null trains without experts."
)


def command() -> Command:
    """What `train` takes."""
    train = Command("train", PURPOSE)
    train.option("out", str | None, None, "the run's folder")
    train.option("preset", str | None, None, f"where the fields start: {', '.join(PRESETS)}")
    train.option("config", str | None, None, "a YAML file with some or all fields")
    train.flag("resume", "continue the run in --out; its own fields hold")
    train.flag("allow-inexact", INEXACT)
    train.option("from", str | None, None, "start from the last weights of this run, and from its fields")
    train.flag("print_config", "print all fields as YAML for --config, and stop")
    train.flag("quiet", "no progress")
    train.fields(fields_of(RunConfig))
    return train


def run(arguments: Sequence[str]) -> None:
    """Train, or print the configuration."""
    parser = command()
    given = parser.parse(arguments)
    config = build_run(layers(parser, given))
    if given["print_config"]:
        print(to_yaml(config), end="")
    else:
        _train(config, Path(given.required("out", "the run's folder")), given)


def layers(parser: Command, given: Arguments) -> Iterator[Mapping[str, Any]]:
    """Dotted values, later layers above earlier ones."""
    source = given["from"] or (given["out"] if given["resume"] else None)
    if given["preset"] is not None:
        if given["preset"] not in PRESETS:
            raise ConfigError(f"there is no preset {given['preset']!r}{did_you_mean(given['preset'], list(PRESETS))}")
        yield flat(PRESETS[given["preset"]]())
    elif source is not None and ((Path(source) / CONFIG).exists() or given["config"] is None):
        yield flat(RunDirectory.open_existing(Path(source)).config)
    if given["config"] is not None:
        yield parser.parse_values(read_values(Path(given["config"])), given["config"])
    yield given.fields


def _train(config: RunConfig, folder: Path, given: Arguments) -> None:
    from moe_emergence.tracking.console import RunConsole
    from moe_emergence.training.loop import train

    fork = None if given["from"] is None else Path(given["from"])
    with stop_requests(), RunConsole(quiet=given["quiet"]) as console:
        summary = train(
            config,
            folder,
            resume=given["resume"],
            fork=fork,
            console=console,
            allow_inexact=given["allow_inexact"],
        )
    if not is_first_process():
        return
    loss = f"test LM loss {summary.lm_loss_macro:.4f} nats a token"
    print(f"{config.name}: {summary.reason} at step {summary.steps}, {loss}")
    print(folder)
