"""The box of commands that stands at the end of `relearn run`: each can be pasted as it is."""

import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from relearn.flows.results import EXAMPLE, Retrained
from relearn.model.home import Home


def commands(done: Retrained, home: Home, flows_page: str | None) -> dict[str, str]:
    """What to do next, and the command for it; `flows_page` is that of a Prefect server that stays."""
    picture = shlex.quote(str(_near(home.releases(done.name) / EXAMPLE)))
    return {
        "serve it": f"{_relearn()} serve --name {done.name}",
        "ask it": f"curl --data-binary @{picture} -H 'Content-Type: image/png' http://127.0.0.1:3000/predict",
        "what was decided": f"{_relearn()} history --name {done.name}",
        "compare runs": f"{_relearn()} compare --name {done.name}",
        f"runs in a browser, at {done.url}": _runs_page(done, home),
        "flows in a browser": _open(flows_page) if flows_page else _flows_server(home),
    }


def say_next(console: Console, done: Retrained, home: Home, flows_page: str | None) -> None:
    """Print the commands between two rules; lines are not broken and have no frame, so they can be copied."""
    console.rule("what next")
    for purpose, command in commands(done, home, flows_page).items():
        console.print(f"# {purpose}", style="dim", soft_wrap=True)
        console.print(command, soft_wrap=True, markup=False, highlight=False)
    console.rule()


def _runs_page(done: Retrained, home: Home) -> str:
    store = home.tracking_uri
    if store.startswith("http"):
        return _open(done.url)
    # A database with a password is named by the variable that holds it.
    named = shlex.quote(store) if store.startswith("sqlite") else '"$MLFLOW_TRACKING_URI"'
    return (
        "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{_program('mlflow')} server --workers 1 --backend-store-uri {named}"
    )


def _flows_server(home: Home) -> str:
    return (
        f"PREFECT_HOME={shlex.quote(str(home.prefect))} PREFECT_SERVER_ANALYTICS_ENABLED=false "
        f"{_program('prefect')} server start"
    )


def _open(page: str) -> str:
    return f"{_program('python')} -m webbrowser {shlex.quote(page)}"


def _relearn() -> str:
    """The program, with the home where it is not the one that is found without being named."""
    named = os.environ.get("RELEARN_HOME")
    return (f"RELEARN_HOME={shlex.quote(named)} " if named else "") + _program("relearn")


def _program(name: str) -> str:
    return shlex.quote(str(_near(Path(sys.executable).parent / name)))


def _near(path: Path) -> Path:
    """The path as seen from the working folder, where that is shorter."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
