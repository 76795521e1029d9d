"""A run's configuration in files: YAML or JSON in, YAML out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, get_loader

from moe_emergence.config import RunConfig, to_dict
from moe_emergence.errors import ConfigError


def read_values(path: Path) -> dict[str, Any]:
    """The dotted values in a YAML (or JSON) file.

    Raises:
        ConfigError: the file cannot be read or does not hold fields and values.
    """
    try:
        content = get_loader("yaml")(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # the YAML library's errors share no base with those of text decoding
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold fields and values, as `train --print_config` writes them; got {content!r}")
    return _flat(content)


def _flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in content.items():
        inner = isinstance(value, Mapping) and len(value) > 0
        values |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return values


def to_yaml(config: RunConfig) -> str:
    """The whole configuration; read back it gives the same."""
    return ArgumentParser().dump(Namespace(**to_dict(config)), skip_validation=True)
