"""Configs in files: Python files that define them, and the JSON of run folders and exported files."""

import dataclasses
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs import transform_error

from dslstm_jax.config.recognizer import RecognizerConfig
from dslstm_jax.config.training import Config
from dslstm_jax.config.upgrade import upgrade
from dslstm_jax.errors import ConfigError

AnyConfig = TypeVar("AnyConfig", Config, RecognizerConfig)


def load_config(location: str) -> Config:
    """Runs a config file and returns the Config it defines.

    Args:
      location: `FILE.py`, whose `config` is taken, or `FILE.py:NAME` for one of several.

    Raises:
      ConfigError: no such file, the file does not run, or the name is not a Config in it.
    """
    file, _, name = location.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"config {file}: no such file")
    try:
        values = runpy.run_path(file)
    except ConfigError as error:
        raise ConfigError(f"config {file}: {error}") from error
    except Exception as error:  # a user's file can fail in any way
        raise ConfigError(f"config {file} does not run: {type(error).__name__}: {error}") from error
    configs = {key: value for key, value in values.items() if isinstance(value, Config)}
    wanted = name or "config"
    if wanted not in configs:
        names = ", ".join(f"{file}:{key}" for key in configs) or "none"
        raise ConfigError(f"config {file} has no {wanted!r}; it defines: {names}")
    return configs[wanted]


def to_dict(config: Config | RecognizerConfig) -> dict[str, Any]:
    """The config as nested dictionaries and lists, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(
    values: Mapping[str, Any],
    source: str = "config",
    kind: type[AnyConfig] = Config,  # type: ignore[assignment]
) -> AnyConfig:
    """The inverse of `to_dict`; fields left out take their defaults, and those of version 0.1.0 today's names.

    Args:
      values: nested dictionaries and lists.
      source: what the errors name.
      kind: the dataclass to make of them, Config or RecognizerConfig.

    Raises:
      ConfigError: an unknown field, or a value of the wrong type; the message names it and `source`.
    """
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(upgrade(values), kind)
    except Exception as error:  # cattrs raises groups of many kinds
        refused = _config_error(error)
        reasons = [str(refused)] if refused else transform_error(error, path="config")
        raise ConfigError(f"{source}: {'; '.join(reasons)}") from error


def _config_error(error: BaseException) -> ConfigError | None:
    """The error of a dataclass that refused its values, if there is one in the group."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_config_error, error.exceptions)), None)
    return error if isinstance(error, ConfigError) else None
