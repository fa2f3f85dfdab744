"""The command line: `relearn COMMAND …`.

The module of a subcommand is imported only when it runs, so `--help` is fast; its help is its docstring.
Flags are generated from the settings tables. Precedence: flag, environment variable `RELEARN_…`,
`--config FILE.toml`, preset, default.
"""

import ast
import difflib
import io
import os
import platform
import shutil
import signal
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter, UnusedCliTokensError
from cyclopts.config import Dict, Env
from pydantic import ValidationError

from relearn.flows import environment
from relearn.flows.cli.config_sources import config_sources
from relearn.flows.config import Settings
from relearn.flows.shutdown import print_error, run_with_exit_code
from relearn.model.config import PRESETS, TrainConfig, format_problems
from relearn.model.errors import ConfigError, StopSignal, UserInputError
from relearn.model.home import MLFLOW_UI_URL, Home, working_folder
from relearn.serving.config import API_KEYS

ENV_PREFIX = "RELEARN_"
HELP_FLAGS = {"--help", "-h", "--version"}  # these need neither home nor current folder
MIN_COLUMNS = 60  # in a narrower table columns are empty; the terminal wraps its lines instead
EXTRA_VARIABLES = {
    *("RELEARN_HOME", "RELEARN_DATA", MLFLOW_UI_URL),
    *("RELEARN_CONFIG", "RELEARN_PRESET", API_KEYS),
}


COMMANDS = {  # modules of this package with their commands, by topic
    "Data": {"data": ["app"], "eda": ["eda"]},
    "Training": {"train": ["run", "train", "evaluate"], "compare": ["compare"], "backprop": ["backprop"]},
    "Releases": {"releases": ["release", "rollback", "history", "reference", "reproduce"]},
    "Serving": {"serve": ["serve", "predict"], "feedback": ["app"]},
    "Operation": {
        "up": ["up"],
        "schedule": ["schedule"],
        "monitor": ["monitor"],
        "maintenance": ["status", "doctor", "prune", "config"],
    },
}


def _format_versions() -> str:
    """Return the versions that a bug report should name: Relearn, the tools and Python."""
    names = ("relearn", "torch", "prefect", "mlflow", "bentoml")
    return "\n".join([*(f"{name} {version(name)}" for name in names), f"python {platform.python_version()}"])


app = App(
    name="relearn",
    help="Turn labeled images into a served, trusted classifier and keep it fresh. Start with `relearn run`.",
    default_parameter=Parameter(negative_iterable=(), consume_multiple=True, show_env_var=False),
    version=_format_versions,
    version_flags=["--version"],
    version_format="plaintext",
    result_action="return_value",
    group_commands=Group("Options", sort_key=len(COMMANDS)),
)


def _read_docstrings(path: Path) -> dict[str, str | None]:
    """Read the docstrings of a module and its functions without importing it; the module's is named `app`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {"app": ast.get_docstring(tree), **{node.name: ast.get_docstring(node) for node in functions}}


for order, (topic, modules) in enumerate(COMMANDS.items()):
    group = Group(topic, sort_key=order)
    for module, commands in modules.items():
        docstrings = _read_docstrings(Path(__file__).with_name(f"{module}.py"))
        for command in commands:
            app.command(
                f"{__package__}.{module}:{command}",
                name=module if command == "app" else command,
                group=group,
                help=docstrings[command],
            )

app.register_install_completion_command(help="Install shell completion of commands and flags.")


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(env_var="RELEARN_CONFIG")] = None,
    preset: Annotated[
        str, Parameter(env_var="RELEARN_PRESET", help=f"Named set of settings: {', '.join(PRESETS)}.")
    ] = "default",
) -> object:
    """Set the precedence of the settings, then run the subcommand.

    Parameters
    ----------
    config
        TOML file with settings.
    """
    if tokens and tokens[0] not in app:
        _reject_unknown_subcommand(tokens[0])
    if preset not in PRESETS:
        raise ConfigError([f"--preset: got {preset!r}, accepted: {', '.join(PRESETS)}"])
    layers: list[Callable[..., None]] = [Env(ENV_PREFIX, command=False)]
    if config is not None:
        layers.append(_build_layer(_read_settings_file(config), tokens, source=str(config)))
    # A preset has settings of training; commands that do not train ignore it.
    layers.append(_build_layer(PRESETS[preset], tokens, source=f"preset {preset}", allow_unknown=True))
    app.config = (*layers, _record_sources)
    return app(tokens, exit_on_error=False, print_error=False)


def _build_layer(values: Mapping[str, object], tokens: Sequence[str], **options: Any) -> Dict:
    """Return `values` as settings of the command in `tokens`.

    They are nested under the command's name: cyclopts would read a setting named like a command, such as
    `monitor`, as the settings of that command.
    """
    return Dict(dict.fromkeys(tokens[:1], values), **options)


def _reject_unknown_subcommand(token: str) -> NoReturn:
    """Raise `UserInputError` for an unknown subcommand; cyclopts would import all to suggest one."""
    subcommands = [name for name in app if not name.startswith("-")]
    close_matches = difflib.get_close_matches(token, subcommands, n=1)
    advice = f"did you mean {close_matches[0]!r}?" if close_matches else f"accepted: {', '.join(subcommands)}"
    raise UserInputError(f"command: got {token!r}, {advice}", "usage")


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


def _record_sources(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """Record in `config_sources` where every value that is not a default comes from."""
    config_sources.clear()
    _warn_of_unknown_variables(arguments)
    for argument in arguments:
        if argument.tokens:
            name, source = argument.name.removeprefix("--").replace("-", "_"), argument.tokens[0].source
            config_sources[name] = f"{ENV_PREFIX}{name.upper()}" if source == "env" else source


def _describe_sources() -> dict[str, str]:
    """Map each setting that is not a default to its name in messages: flag, variable, or file."""
    return {
        name: source
        if source.startswith(ENV_PREFIX)
        else f"--{name.replace('_', '-')}"
        if source == "cli"
        else f"{name} in {source}"
        for name, source in config_sources.items()
    }


def _exit_on_signal(_signal: int, _frame: FrameType | None) -> None:
    """Exit with 143 through all `finally` blocks: files are closed, child processes ended."""
    raise StopSignal(143)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; print every expected failure in one line."""
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _exit_on_signal)  # sent when the terminal closes
    columns = shutil.get_terminal_size().columns  # COLUMNS if it is a number, else of the terminal, else 80
    if "COLUMNS" in os.environ or columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(max(columns, MIN_COLUMNS))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack some of the characters
            stream.reconfigure(errors="replace")
    try:
        return run_with_exit_code(lambda: _dispatch(arguments))
    except CycloptsError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return print_error(
                2, "config", *format_problems(cause, TrainConfig.model_fields, _describe_sources())
            )
        if isinstance(error, UnusedCliTokensError):
            tokens = " ".join(error.unused_tokens or ())
            return print_error(2, "usage", f"arguments: got {tokens!r} too many")
        return print_error(2, "usage", str(error))


def _dispatch(arguments: Sequence[str]) -> None:
    try:
        working_folder()  # torch, imported in a folder that was removed, would end the process
        ignored_variables = environment.set_tool_defaults(Home.from_environment())
    except UserInputError:
        if not HELP_FLAGS & set(arguments):
            raise
        ignored_variables = []
    if ignored_variables:
        _print_warning(f"ignored, since they have no effect here: {', '.join(ignored_variables)}")
    app.config = ()  # of an earlier command line in this process
    app.meta(list(arguments), exit_on_error=False, print_error=False)


def _warn_of_unknown_variables(arguments: ArgumentCollection) -> None:
    """Warn of variables that set neither an argument of this command nor a setting of another one."""
    flags = (argument.name.removeprefix("--").replace("-", "_") for argument in arguments)
    known_variables = EXTRA_VARIABLES | {
        f"{ENV_PREFIX}{name.upper()}" for name in (*flags, *Settings.model_fields)
    }
    for variable in sorted(os.environ):
        if variable.startswith(ENV_PREFIX) and variable not in known_variables:
            _print_warning(f"{variable} is set, but has no effect on this command")


def _print_warning(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201
