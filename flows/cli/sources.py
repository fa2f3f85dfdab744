"""Sources of the parameters of a command: flag, variable `RELEARN_…`, settings file, preset, default."""

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cyclopts import App, Argument, ArgumentCollection
from cyclopts.config import Dict, Env

from relearn.flows.config import Settings
from relearn.model.config import PRESETS
from relearn.model.errors import ConfigError, UserInputError
from relearn.model.home import MLFLOW_UI_URL
from relearn.serving.config import API_KEYS, ENVIRONMENT_PREFIX

NOTIFY_URL = f"{ENVIRONMENT_PREFIX}NOTIFY_URL"  # of `relearn notify`; no flag, since it is a secret
EXTRA_VARIABLES = {  # those that some commands have no parameter for
    *("RELEARN_HOME", "RELEARN_DATA", MLFLOW_UI_URL),
    *("RELEARN_CONFIG", "RELEARN_PRESET", "RELEARN_QUIET", "RELEARN_VERBOSE", API_KEYS, NOTIFY_URL),
}


class GivenValue(NamedTuple):
    """A value that is no default, as text, and its source: `cli` (a flag), variable, file or preset."""

    text: str
    source: str


given_values: dict[str, GivenValue] = {}
"""Parameters of the running command, by name, whose values are no defaults; see `apply_sources`."""


def apply_sources(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set the arguments without a flag: from a variable, else the settings file, else the preset.

    `given_values` then tells where each one comes from. One file or variable may serve all commands: settings
    of other commands have no effect.
    """
    given_values.clear()
    if commands:  # else the arguments are the options of all commands
        _warn_of_unknown_variables(arguments)
    Env(ENVIRONMENT_PREFIX, command=False)(app, commands, arguments)
    sources = {argument.name: argument.tokens[0].value for argument in arguments if argument.tokens}
    if path := sources.get("--config"):
        _apply_settings(_read_settings_file(Path(path)), path, app, commands, arguments)
    if preset := sources.get("--preset"):
        if preset not in PRESETS:
            raise ConfigError([f"--preset: got {preset!r}, accepted: {', '.join(PRESETS)}"])
        _apply_settings(PRESETS[preset], f"preset {preset}", app, commands, arguments)
    for argument in arguments:
        if argument.tokens:
            name, source = _setting_name(argument), argument.tokens[0].source
            text = " ".join(str(token.value) for token in argument.tokens)
            given_values[name] = GivenValue(text, _variable(name) if source == "env" else source)


def _apply_settings(
    values: Mapping[str, object],
    source: str,
    app: App,
    commands: tuple[str, ...],
    arguments: ArgumentCollection,
) -> None:
    """Set the arguments that have no value yet; an unknown name is an error."""
    names = {_setting_name(argument) for argument in arguments}
    known = {
        name: value for name, value in values.items() if name in names or name not in Settings.model_fields
    }
    Dict(known, source=source, use_commands_as_keys=False)(app, commands, arguments)


def _setting_name(argument: Argument) -> str:
    return argument.name.removeprefix("--").replace("-", "_")


def _variable(name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


def _read_settings_file(path: Path) -> dict[str, object]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"--config {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"--config {path} is not valid TOML: {error}") from None
    for name, value in values.items():
        if isinstance(value, dict):
            raise UserInputError(
                f"--config {path}: got {name!r}, accepted: settings such as epochs = 5, outside of any table"
            )
    return values


def describe_sources() -> dict[str, str]:
    """Map each setting that is not a default to its name in messages: flag, variable, or file."""
    return {
        name: source
        if source.startswith(ENVIRONMENT_PREFIX)
        else f"--{name.replace('_', '-')}"
        if source == "cli"
        else f"{name} in {source}"
        for name, (_, source) in given_values.items()
    }


def _warn_of_unknown_variables(arguments: ArgumentCollection) -> None:
    """Warn of variables that set neither an argument of this command nor a setting of another one."""
    names = map(_setting_name, arguments)
    known_variables = EXTRA_VARIABLES | {_variable(name) for name in (*names, *Settings.model_fields)}
    for variable in sorted(os.environ):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in known_variables:
            print_stderr_warning(f"{variable} is set, but has no effect on this command")


def print_stderr_warning(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201
