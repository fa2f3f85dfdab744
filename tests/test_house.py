"""The house is as its plan says: imports follow the arrows, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "model": {"relearn.flows", "relearn.serving", "mlflow", "prefect", "bentoml"},
    "serving": {"relearn.flows", "mlflow", "prefect"},
    "flows": {"bentoml"},
}
MLFLOW = {f"flows/{name}.py" for name in ("store", "tracking", "registry", "archive", "compare")}
FILES = sorted(path for room in FORBIDDEN for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The packages that a file imports, anywhere in it: `mlflow` of others', `relearn.model` of ours."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[: 2 if name.startswith("relearn.") else 1]) for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    """No room imports what it must not know."""
    name = path.relative_to(ROOT).as_posix()
    forbidden = FORBIDDEN[name.split("/")[0]] | (set() if name in MLFLOW else {"mlflow"})
    assert set() == imported(path) & forbidden


def test_importing_does_nothing(tmp_path: Path) -> None:
    """Importing every module makes no file, changes no variable, seeds nothing and prints nothing."""
    modules = [
        "relearn."
        + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in FILES
    ]
    code = (
        "import importlib, os, torch\n"
        "ours = lambda: ({key for key in os.environ if key[:7] != '_MLFLOW'}, torch.initial_seed())\n"
        "before = ours()\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "assert before == ours()\n"
    )
    here, tools = tmp_path / "here", tmp_path / "tools"  # Prefect and BentoML make folders of their own
    here.mkdir()
    tools.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        env={"HOME": str(tools), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert [] == list(here.iterdir())


def test_nothing_can_unpickle() -> None:
    """No file of ours loads a pickle, in any of the ways there are."""
    ways = ("read_pickle", "weights_only=False", "allow_pickle=True", "torch.jit.load")
    for path in FILES:
        assert set() == imported(path) & {"pickle", "joblib", "cloudpickle", "dill", "shelve"}
        for way in ways:
            assert way not in path.read_text(), f"{path}: {way}"


def test_the_layout_names_files_that_are_there() -> None:
    """Every file that the layout note names exists."""
    note = (ROOT / "docs" / "decisions" / "layout.md").read_text()
    named = {word for word in note.replace("`", " ").split() if word.endswith(".py") and "/" in word}
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name
