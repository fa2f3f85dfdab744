"""The box of commands that stands at the end of `relearn run`: each can be pasted as it is."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from model.home import Home


def commands(name: str, example: Path, home: Home) -> dict[str, str]:
    """What to do next, and the command for it."""
    serve = f"{_program('relearn')} serve --name {name}"
    picture = shlex.quote(str(_near(example)))
    return {
        "serve it": serve,
        "ask it": f"curl --data-binary @{picture} -H 'Content-Type: image/png' http://127.0.0.1:3000/predict",
        "compare runs": f"{_program('relearn')} compare --name {name}",
        "runs in a browser": (
            f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {_program('mlflow')} server --workers 1 "
            f"--backend-store-uri {shlex.quote(home.tracking_uri)}"
        ),
        "flows in a browser": (
            f"PREFECT_HOME={shlex.quote(str(home.prefect))} PREFECT_SERVER_ANALYTICS_ENABLED=false "
            f"{_program('prefect')} server start"
        ),
    }


def say_next(console: Console, name: str, example: Path, home: Home) -> None:
    """Print the commands between two rules; lines are not broken and have no frame, so they can be copied."""
    console.rule("what next")
    for purpose, command in commands(name, example, home).items():
        console.print(f"# {purpose}", style="dim")
        console.print(command, soft_wrap=True, markup=False, highlight=False)
    console.rule()


def _program(name: str) -> str:
    return shlex.quote(str(_near(Path(sys.executable).parent / name)))


def _near(path: Path) -> Path:
    """The path as seen from the working folder, where that is shorter."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
