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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from relearn.flows.cli.parameters import format_default
from relearn.flows.cli.sources import apply_sources, describe_sources, given_values, print_stderr_warning
from relearn.flows.config import Settings
from relearn.flows.process import environment
from relearn.flows.process.logs import show_logs
from relearn.flows.process.shutdown import print_error, run_with_exit_code
from relearn.flows.terminal.console import set_quiet
from relearn.model.config import format_problems
from relearn.model.errors import RelearnError, StopSignal, UserInputError
from relearn.model.home import Home, working_folder
from relearn.serving.config import API_KEYS, ENVIRONMENT_PREFIX

HELP_FLAGS = {"--help", "-h", "--version"}  # these need neither home nor current folder
MIN_COLUMNS = 60  # in a narrower table columns are empty; the terminal wraps its lines instead
# Each topic with an example, and its commands with their modules of this package.
COMMANDS = {
    "Start here": ("relearn run --dataset photos", {"run": "train", "data": "data"}),
    "Train": (
        "relearn train --network cnn --epochs 5",
        {"train": "train", "evaluate": "train", "compare": "compare"},
    ),
    "Release": (
        'relearn rollback --reason "wrong labels"',
        {"release": "releases", "rollback": "releases", "history": "releases"},
    ),
    "Serve": (
        "relearn predict cat.jpg",
        {"serve": "serve", "up": "serve", "predict": "serve", "feedback": "feedback"},
    ),
    "Operate": (
        'relearn schedule --cron "0 3 * * *"',
        {
            **{"status": "operation", "monitor": "operation", "schedule": "schedule"},
            **{"notify": "notify", "doctor": "operation", "home": "home"},
        },
    ),
}


DOCS = Path(__file__).parents[3] / "docs"  # of a checkout; a wheel has none
EPILOGUE = (
    f"Every flag is also a variable (--batch-size: {ENVIRONMENT_PREFIX}BATCH_SIZE), a setting also a line of "
    "--config (batch_size = 32). RELEARN_HOME is the folder of all state (./.relearn), RELEARN_DATA that of "
    f"downloaded data sets; {API_KEYS} are the keys of remote clients."
) + (f"\n\nDocs: {DOCS}/getting-started.md" if DOCS.is_dir() else "")
# The usage of commands whose arguments cyclopts would call ARGS.
USAGES = {"release": "[RUN]", "compare": "[RUN...]", "predict": "FILE..."}


def _format_versions() -> str:
    """Return the versions that a bug report should name: Relearn, the tools and Python."""
    names = ("relearn", "torch", "prefect", "mlflow", "bentoml")
    return "\n".join([*(f"{name} {version(name)}" for name in names), f"python {platform.python_version()}"])


# A list is one flag with several values, and has no opposite.
PARAMETERS = Parameter(
    negative_iterable=(), consume_multiple=True, show_env_var=False, show_default=format_default
)
OPTIONS = Group("Options", sort_key=100)

app = App(
    name="relearn",
    help="Turn labeled images into a served, trusted classifier and keep it fresh.",
    help_epilogue=EPILOGUE,
    default_parameter=PARAMETERS,
    version=_format_versions,
    version_flags=["--version"],
    version_format="plaintext",
    result_action="return_value",
    group_commands=OPTIONS,
)


def _read_docstrings(path: Path) -> dict[str, str | None]:
    """Read the docstrings of a module and its functions without importing it; the module's is named `app`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {"app": ast.get_docstring(tree), **{node.name: ast.get_docstring(node) for node in functions}}


def _register_commands() -> None:
    """Register each command by its import path, with its docstring as help."""
    for order, (topic, (example, commands)) in enumerate(COMMANDS.items()):
        group = Group(f"{topic}: {example}", sort_key=order)
        for place, (command, module) in enumerate(commands.items()):
            docstrings = _read_docstrings(Path(__file__).with_name(f"{module}.py"))
            name = command if command in docstrings else "app"
            usage = f"Usage: relearn {command} [OPTIONS] {USAGES[command]}" if command in USAGES else None
            app.command(
                f"{__package__}.{module}:{name}",
                name=command,
                group=group,
                sort_key=place,
                help=docstrings[name],
                **({"usage": usage} if usage else {}),
            )


_register_commands()
app.register_install_completion_command(help="Install shell completion of commands and flags.")


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), group=OPTIONS)] = False,
    verbose: Annotated[bool, Parameter(alias="-v", negative=(), group=OPTIONS)] = False,
) -> object:
    """Set how much is printed and the precedence of the settings, then run the subcommand.

    Parameters
    ----------
    quiet
        Print only the result and errors.
    verbose
        Print also the paths in use and the logs of the libraries.
    """
    if quiet and verbose:
        raise UserInputError("--quiet: got --verbose as well, accepted: one of the two", "usage")
    set_quiet(quiet)
    if verbose:
        show_logs()
        _print_paths(Home.from_environment())
    if not tokens:
        from relearn.flows.cli.overview import print_overview

        print_overview(Home.from_environment())
        return None
    if tokens[0] not in app:
        _reject_unknown_subcommand(tokens[0])
    return app(tokens, exit_on_error=False, print_error=False)


def _print_paths(home: Home) -> None:
    """Print to standard error where everything lies that the command uses."""
    paths = {
        "program": f"{sys.executable}, relearn {version('relearn')}",
        "home": home.root,
        "data": home.data,
        "runs": environment.redact_password(home.tracking_uri),
        "Prefect": os.environ.get("PREFECT_API_URL") or home.prefect,
    }
    for label, path in paths.items():
        print(f"{label:8} {path}", file=sys.stderr)  # noqa: T201


def _reject_unknown_subcommand(token: str) -> NoReturn:
    """Raise `UserInputError` for an unknown subcommand; cyclopts would import all to suggest one."""
    subcommands = [name for name in app if not name.startswith("-")]
    close_matches = difflib.get_close_matches(token, subcommands, n=1)
    advice = f"did you mean {close_matches[0]!r}?" if close_matches else f"accepted: {', '.join(subcommands)}"
    raise UserInputError(f"command: got {token!r}, {advice}", "usage")


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
    return run_app(lambda: _dispatch(arguments), Settings.model_fields)


def run_app(program: Callable[[], None], fields: Mapping[str, FieldInfo]) -> int:
    """Run `program`, which calls an `App`; return its exit code and print every expected failure in one line.

    `fields` are the settings that it parses.
    """
    try:
        return run_with_exit_code(program)
    except CycloptsError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return print_error(2, "config", *format_problems(cause, fields, describe_sources()))
        if isinstance(error, UnusedCliTokensError):
            tokens = " ".join(error.unused_tokens or ())
            return print_error(2, "usage", f"arguments: got {tokens!r} too many")
        return print_error(2, "usage", str(error))
    finally:
        given_values.clear()


def _dispatch(arguments: Sequence[str]) -> None:
    try:
        working_folder()  # torch, imported in a folder that was removed, would end the process
        ignored_variables = environment.set_tool_defaults(Home.from_environment())
    except UserInputError:
        if not HELP_FLAGS & set(arguments):
            raise
        ignored_variables = []
    if ignored_variables:
        print_stderr_warning(f"ignored, since they have no effect here: {', '.join(ignored_variables)}")
    app.config = (apply_sources,)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if HELP_FLAGS & set(arguments):
        with suppress(CycloptsError, RelearnError):  # for the values that apply, in place of the defaults
            app.parse_known_args([word for word in arguments if word not in HELP_FLAGS])
    app.meta(list(arguments), exit_on_error=False, print_error=False)
