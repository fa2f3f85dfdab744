"""The command line: `relearn VERB …`.

Verbs are imported only when asked for, so `--help` answers at once. Their flags derive from the settings
tables; a value comes from the flag, else `RELEARN_…`, else `--config FILE.toml`, else the preset, else the
table's default.
"""

import difflib
import io
import os
import platform
import signal
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict, Env
from pydantic import ValidationError

from relearn.flows import environment
from relearn.flows.cli.setting_origins import setting_origins
from relearn.flows.config import Settings
from relearn.flows.shutdown import print_error, run_with_exit_code
from relearn.model.config import PRESETS, TrainConfig, format_problems
from relearn.model.errors import ConfigError, UserInputError
from relearn.model.home import MLFLOW_UI_URL, Home, working_folder
from relearn.serving.config import API_KEYS

ENV_PREFIX = "RELEARN_"
HELP_FLAGS = {"--help", "-h", "--version"}  # these need neither home nor current folder
MIN_COLUMNS = 20  # with fewer the tables are empty; such a COLUMNS counts as not set
EXTRA_VARIABLES = {
    *("RELEARN_HOME", "RELEARN_DATA", MLFLOW_UI_URL),
    *("RELEARN_CONFIG", "RELEARN_PRESET", API_KEYS),
}


def _format_versions() -> str:
    """Ours, Python's, and those of the tools: what a report of a fault should name."""
    names = ("relearn", "torch", "prefect", "mlflow", "bentoml")
    return "\n".join([*(f"{name} {version(name)}" for name in names), f"python {platform.python_version()}"])


app = App(
    name="relearn",
    help="Turns labelled images into a served, trusted classifier, and keeps it fresh.",
    default_parameter=Parameter(negative_iterable=(), consume_multiple=True, show_env_var=False),
    version=_format_versions,
    version_flags=["--version"],
    version_format="plaintext",
    result_action="return_value",
)
for command_path, help_line in {
    "relearn.flows.cli.train:run": "Train every network asked for, and release the best where it is better.",
    "relearn.flows.cli.train:train": "Train one network and evaluate it.",
    "relearn.flows.cli.train:evaluate": "Score the classifier of a run on any dataset.",
    "relearn.flows.cli.eda:eda": "Look at the data: splits, images, labels, pixels.",
    "relearn.flows.cli.backprop:backprop": "Show backpropagation with numbers, step by step.",
    "relearn.flows.cli.compare:compare": "Put runs side by side, best first.",
    "relearn.flows.cli.releases:release": "Judge the classifier of a run; serve it where it is better.",
    "relearn.flows.cli.releases:rollback": "Let a version that was live before be live again.",
    "relearn.flows.cli.releases:history": "Tell what was live when, who decided it, and why.",
    "relearn.flows.cli.releases:reference": "Compare candidates by other images from now on.",
    "relearn.flows.cli.releases:reproduce": "Train a version again from its card, and compare.",
    "relearn.flows.cli.monitor:monitor": "Look at the recorded answers, and whether they have drifted.",
    "relearn.flows.cli.feedback:app": "Let what people said of images become data, or not.",
    "relearn.flows.cli.maintenance:status": "Tell on one screen what is live, what runs, what comes next.",
    "relearn.flows.cli.maintenance:doctor": "Test every seam, and say how to mend what fails.",
    "relearn.flows.cli.maintenance:prune": "Remove old versions, files and checkpoints that nobody needs.",
    "relearn.flows.cli.serve:serve": "Start the prediction API of the released classifier.",
    "relearn.flows.cli.up:up": "Start pages, runner and API, and keep them alive.",
    "relearn.flows.cli.schedule:schedule": "Retrain by the clock: what was planned, or a new plan.",
    "relearn.flows.cli.serve:predict": "Read image files with the released classifier, without a server.",
    "relearn.flows.cli.maintenance:config": "Print the effective settings, and where each comes from.",
}.items():
    module, attribute = command_path.split(":")
    app.command(
        command_path, name=module.rsplit(".", 1)[1] if attribute == "app" else attribute, help=help_line
    )

app.register_install_completion_command(help="Complete verbs and flags in this shell from now on.")


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(env_var="RELEARN_CONFIG")] = None,
    preset: Annotated[str, Parameter(env_var="RELEARN_PRESET")] = "default",
) -> object:
    """Put the layers of settings in order, then run the verb.

    Parameters
    ----------
    config
        TOML file with settings.
    preset
        Named set of settings: default, tutorial or tutorial-rmsprop.
    """
    if tokens and tokens[0] not in app:
        _reject_verb(tokens[0])
    if preset not in PRESETS:
        raise ConfigError([f"--preset: got {preset!r}, accepted: {', '.join(PRESETS)}"])
    layers: list[Callable[..., None]] = [Env(ENV_PREFIX, command=False)]
    if config is not None:
        layers.append(_build_layer(_read_settings_file(config), tokens, source=str(config)))
    # A preset is for the verbs that train; the others pass over it.
    layers.append(_build_layer(PRESETS[preset], tokens, source=f"preset {preset}", allow_unknown=True))
    app.config = (*layers, _record_origins)
    return app(tokens, exit_on_error=False, print_error=False)


def _build_layer(values: Mapping[str, object], tokens: Sequence[str], **options: Any) -> Dict:
    """Settings for the verb in `tokens`, below its name: else one called as a verb is passed over."""
    return Dict(dict.fromkeys(tokens[:1], values), **options)


def _reject_verb(verb: str) -> NoReturn:
    """The parser would import every verb to say as much."""
    verbs = [name for name in app if not name.startswith("-")]
    close_matches = difflib.get_close_matches(verb, verbs, n=1)
    advice = f"did you mean {close_matches[0]!r}?" if close_matches else f"accepted: {', '.join(verbs)}"
    raise UserInputError(f"verb: got {verb!r}, {advice}", "usage")


def _read_settings_file(path: Path) -> dict[str, object]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"--config {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"--config {path} is no TOML: {error}") from None
    for name, value in values.items():
        if isinstance(value, dict):
            raise UserInputError(
                f"--config {path}: got {name!r}, accepted: settings such as epochs = 5, in no table"
            )
    return values


def _record_origins(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    setting_origins.clear()
    for argument in arguments:
        if argument.tokens:
            name, source = argument.name.removeprefix("--").replace("-", "_"), argument.tokens[0].source
            setting_origins[name] = f"{ENV_PREFIX}{name.upper()}" if source == "env" else source


def _describe_origins() -> dict[str, str]:
    """Names, for messages, of the settings that no flag has set."""
    from_file = {
        name: f"{name} in {origin}" for name, origin in setting_origins.items() if origin.endswith(".toml")
    }
    return from_file | {
        name: origin for name, origin in setting_origins.items() if origin.startswith(ENV_PREFIX)
    }


def _exit_on_signal(_signal: int, _frame: FrameType | None) -> None:
    """End as after Ctrl-C: what was opened is closed, what was started is ended."""
    raise SystemExit(143)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Every expected failure is one line."""
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _exit_on_signal)  # the terminal is closed
    columns = os.environ.get("COLUMNS", "")
    if not columns.isdecimal() or int(columns) < MIN_COLUMNS:
        os.environ.pop("COLUMNS", None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer letters than we write
            stream.reconfigure(errors="replace")
    try:
        return run_with_exit_code(lambda: _dispatch(arguments))
    except CycloptsError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return print_error(
                2, "config", *format_problems(cause, TrainConfig.model_fields, _describe_origins())
            )
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
        _print_warning(f"of no effect here, and ignored: {', '.join(ignored_variables)}")
    _warn_of_unknown_variables()
    app.meta(list(arguments), exit_on_error=False, print_error=False)


def _warn_of_unknown_variables() -> None:
    known_variables = EXTRA_VARIABLES | {
        f"{ENV_PREFIX}{field_name.upper()}" for field_name in Settings.model_fields
    }
    for variable in sorted(os.environ):
        if variable.startswith(ENV_PREFIX) and variable not in known_variables:
            _print_warning(f"{variable} is set, but no setting has that name")


def _print_warning(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201
