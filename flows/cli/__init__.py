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
from relearn.flows.ending import ended, fail
from relearn.flows.settings import Settings
from relearn.model.config import PRESETS, TrainConfig, problems
from relearn.model.errors import ConfigError, InputError
from relearn.model.home import RUNS_PAGE, Home
from relearn.serving.settings import API_KEYS

PREFIX = "RELEARN_"
OWN_VARIABLES = {
    *("RELEARN_HOME", "RELEARN_DATA", RUNS_PAGE),
    *("RELEARN_CONFIG", "RELEARN_PRESET", API_KEYS),
}


def _versions() -> str:
    """Ours, Python's, and those of the tools: what a report of a fault should name."""
    names = ("relearn", "torch", "prefect", "mlflow", "bentoml")
    return "\n".join([*(f"{name} {version(name)}" for name in names), f"python {platform.python_version()}"])


app = App(
    name="relearn",
    help="Turns labelled images into a served, trusted classifier, and keeps it fresh.",
    default_parameter=Parameter(negative_iterable=(), consume_multiple=True, show_env_var=False),
    version=_versions,
    version_flags=["--version"],
    version_format="plaintext",
    result_action="return_value",
)
for verb, line in {
    "relearn.flows.cli.learn:run": "Train every network asked for, and release the best where it is better.",
    "relearn.flows.cli.learn:train": "Train one network and evaluate it.",
    "relearn.flows.cli.learn:evaluate": "Score the classifier of a run on any dataset.",
    "relearn.flows.cli.data:eda": "Look at the data: splits, images, labels, pixels.",
    "relearn.flows.cli.backprop:backprop": "Show backpropagation with numbers, step by step.",
    "relearn.flows.cli.runs:compare": "Put runs side by side, best first.",
    "relearn.flows.cli.releases:release": "Judge the classifier of a run; serve it where it is better.",
    "relearn.flows.cli.releases:rollback": "Let a version that was live before be live again.",
    "relearn.flows.cli.releases:history": "Tell what was live when, who decided it, and why.",
    "relearn.flows.cli.releases:reference": "Compare candidates by other images from now on.",
    "relearn.flows.cli.releases:reproduce": "Train a version again from its card, and compare.",
    "relearn.flows.cli.monitor:monitor": "Look at the recorded answers, and whether they have drifted.",
    "relearn.flows.cli.feedback:app": "Let what people said of images become data, or not.",
    "relearn.flows.cli.upkeep:status": "Tell on one screen what is live, what runs, what comes next.",
    "relearn.flows.cli.upkeep:doctor": "Test every seam, and say how to mend what fails.",
    "relearn.flows.cli.upkeep:prune": "Remove old versions, files and checkpoints that nobody needs.",
    "relearn.flows.cli.api:serve": "Start the prediction API of the released classifier.",
    "relearn.flows.cli.together:up": "Start pages, runner and API, and keep them alive.",
    "relearn.flows.cli.plans:schedule": "Retrain by the clock: what was planned, or a new plan.",
    "relearn.flows.cli.api:predict": "Read image files with the released classifier, without a server.",
    "relearn.flows.cli.upkeep:config": "Print the effective settings, and where each comes from.",
}.items():
    module, attribute = verb.split(":")
    app.command(verb, name=module.rsplit(".", 1)[1] if attribute == "app" else attribute, help=line)

app.register_install_completion_command(help="Complete verbs and flags in this shell from now on.")

sources: dict[str, str] = {}
"""Where each setting of the verb now running comes from; `relearn config` prints it."""


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
        _refuse(tokens[0])
    if preset not in PRESETS:
        raise ConfigError([f"--preset: got {preset!r}, accepted: {', '.join(PRESETS)}"])
    layers: list[Callable[..., None]] = [Env(PREFIX, command=False)]
    if config is not None:
        layers.append(_layer(_read(config), tokens, source=str(config)))
    # A preset is for the verbs that train; the others pass over it.
    layers.append(_layer(PRESETS[preset], tokens, source=f"preset {preset}", allow_unknown=True))
    app.config = (*layers, _remember)
    return app(tokens, exit_on_error=False, print_error=False)


def _layer(values: Mapping[str, object], tokens: Sequence[str], **how: Any) -> Dict:
    """Settings for the verb in `tokens`, below its name: else one called as a verb is passed over."""
    return Dict(dict.fromkeys(tokens[:1], values), **how)


def _refuse(verb: str) -> NoReturn:
    """The parser would import every verb to say as much."""
    verbs = [name for name in app if not name.startswith("-")]
    close = difflib.get_close_matches(verb, verbs, n=1)
    advice = f"did you mean {close[0]!r}?" if close else f"accepted: {', '.join(verbs)}"
    raise InputError(f"verb: got {verb!r}, {advice}", "usage")


def _read(path: Path) -> dict[str, object]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--config {path} is no TOML: {error}") from None
    for name, value in values.items():
        if isinstance(value, dict):
            raise InputError(
                f"--config {path}: got {name!r}, accepted: settings such as epochs = 5, in no table"
            )
    return values


def _remember(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    sources.clear()
    for argument in arguments:
        if argument.tokens:
            name, source = argument.name.removeprefix("--").replace("-", "_"), argument.tokens[0].source
            sources[name] = f"{PREFIX}{name.upper()}" if source == "env" else source


def _origins() -> dict[str, str]:
    """Names, for messages, of the settings that no flag has set."""
    files = {name: f"{name} in {where}" for name, where in sources.items() if where.endswith(".toml")}
    return files | {name: where for name, where in sources.items() if where.startswith(PREFIX)}


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End as after Ctrl-C: what was opened is closed, what was started is ended."""
    raise SystemExit(143)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Every expected failure is one line."""
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _leave)  # the terminal is closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer letters than we write
            stream.reconfigure(errors="replace")
    try:
        return ended(lambda: _run(arguments))
    except CycloptsError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return fail(2, "config", *problems(cause, TrainConfig.model_fields, _origins()))
        return fail(2, "usage", str(error))


def _run(arguments: Sequence[str]) -> None:
    if ignored := environment.prepare(Home.from_environment()):
        _warn(f"of no effect here, and ignored: {', '.join(ignored)}")
    _warn_of_unknown_variables()
    app.meta(list(arguments), exit_on_error=False, print_error=False)


def _warn_of_unknown_variables() -> None:
    known = OWN_VARIABLES | {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            _warn(f"{name} is set, but no setting has that name")


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201
