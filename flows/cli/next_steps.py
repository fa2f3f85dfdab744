"""Next steps: the commands at the end of `relearn run`, ready to paste."""

import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from relearn.flows.results import EXAMPLE_IMAGE_FILENAME, RetrainResult
from relearn.model.home import Home


def build_commands(result: RetrainResult, home: Home, prefect_ui_url: str | None) -> dict[str, str]:
    """Return a command for each purpose; `prefect_ui_url` is None for a temporary server."""
    image_file = shlex.quote(str(_shorten_path(home.releases_dir(result.name) / EXAMPLE_IMAGE_FILENAME)))
    return {
        "serve the classifier": f"{relearn_command()} serve --model-name {result.name}",
        "classify an image": f"curl --data-binary @{image_file} -H 'Content-Type: image/png' http://127.0.0.1:3000/predict",
        "release history": f"{relearn_command()} history --model-name {result.name}",
        "compare runs": f"{relearn_command()} compare --model-name {result.name}",
        f"runs in a browser, at {result.url}": _build_mlflow_command(result, home),
        "flows in a browser": _build_open_command(prefect_ui_url)
        if prefect_ui_url
        else _build_prefect_command(home),
    }


def print_next_steps(console: Console, result: RetrainResult, home: Home, prefect_ui_url: str | None) -> None:
    """Print the commands between two rules; lines are not wrapped or framed, so they can be copied."""
    console.rule("next steps")
    for purpose, command in build_commands(result, home, prefect_ui_url).items():
        console.print(f"# {purpose}", style="dim", soft_wrap=True)
        console.print(command, soft_wrap=True)
    console.rule()


def _build_mlflow_command(result: RetrainResult, home: Home) -> str:
    tracking_uri = home.tracking_uri
    if tracking_uri.startswith("http"):
        return _build_open_command(result.url)
    # The URL of a database may hold a password: print the variable instead.
    store_argument = (
        shlex.quote(tracking_uri) if tracking_uri.startswith("sqlite") else '"$MLFLOW_TRACKING_URI"'
    )
    return (
        "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{_quote_program('mlflow')} server --workers 1 --backend-store-uri {store_argument}"
    )


def _build_prefect_command(home: Home) -> str:
    return (
        f"PREFECT_HOME={shlex.quote(str(home.prefect))} PREFECT_SERVER_ANALYTICS_ENABLED=false "
        f"{_quote_program('prefect')} server start"
    )


def _build_open_command(url: str) -> str:
    return f"{_quote_program('python')} -m webbrowser {shlex.quote(url)}"


def relearn_command() -> str:
    """Return the beginning of each command: `relearn`, after `RELEARN_HOME=…` if that variable is set."""
    home_variable = os.environ.get("RELEARN_HOME")
    return (f"RELEARN_HOME={shlex.quote(home_variable)} " if home_variable else "") + _quote_program(
        "relearn"
    )


def _quote_program(name: str) -> str:
    return shlex.quote(str(_shorten_path(Path(sys.executable).parent / name)))


def _shorten_path(path: Path) -> Path:
    """Return the path relative to the current folder if it lies in there."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
