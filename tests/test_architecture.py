"""The architecture: which package imports which, without a circle; importing a module does nothing."""

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from infra.import_graph import FILES, MODULES, dependencies_of, imports_of, package_graph, package_of

ROOT = Path(__file__).parents[1]
# Each package and those below it that it may import. `flows.base` are the modules at the top of flows/ that
# its packages build on, `flows` the four flows there; `serving.base` is its config, `serving` the service.
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "model.images": {"model"},
    "model.description": {"model", "model.images"},
    "model.sources": {"model", "model.description", "model.images"},
    "model.data": {"model", "model.description", "model.images", "model.sources"},
    "model.preparation": {"model", "model.data", "model.description", "model.images", "model.sources"},
    "model.networks": {"model", "model.data"},
    "model.training": {"model", "model.data", "model.networks"},
    "model.inference": {"model", "model.data", "model.images", "model.networks", "model.preparation"},
    "model.evaluation": {"model", "model.data", "model.images", "model.inference"},
    "model.backprop": {"model", "model.data"},
    "model.drift": {"model.evaluation"},
    "model.plots": {
        "model",
        "model.backprop",
        "model.data",
        "model.drift",
        "model.evaluation",
        "model.preparation",
        "model.training",
    },
    "serving.base": {"model"},
    "serving.metrics": {"model"},
    "serving.page": set(),
    "serving.releases": {"model", "model.images", "model.inference"},
    "serving.http": {"model", "serving.base"},
    "serving.inputs": {"model", "model.images", "model.inference", "serving.http"},
    "serving.runtime": {"model", "model.inference", "serving.base", "serving.releases"},
    "serving.predictions": {
        *("model", "model.drift", "model.inference"),
        *("serving.base", "serving.http", "serving.inputs", "serving.runtime"),
    },
    "serving.api": {
        *("model", "model.images", "model.inference", "serving.base", "serving.http", "serving.inputs"),
        *("serving.metrics", "serving.page", "serving.predictions", "serving.runtime"),
    },
    "serving": {
        "model",
        "serving.base",
        "serving.api",
        "serving.http",
        "serving.releases",
        "serving.runtime",
    },
    "serving.deployment": {
        "model",
        "model.inference",
        "serving",
        "serving.base",
        "serving.http",
        "serving.runtime",
    },
}
ROOMS_OF_MODEL = {name for name in ALLOWED if name.startswith("model")}
ROOMS_OF_SERVING = {name for name in ALLOWED if name.startswith("serving")}
BELOW = ROOMS_OF_MODEL | ROOMS_OF_SERVING
GROUND = {"flows.base", "flows.process", "flows.terminal"}
ALLOWED |= {
    "flows.base": BELOW,
    "flows.process": ROOMS_OF_MODEL | {"serving.base"},
    "flows.terminal": ROOMS_OF_MODEL | {"flows.base"},
    "flows.orchestration": BELOW | GROUND,
    "flows.tracking": ROOMS_OF_MODEL | GROUND,
    "flows.training": ROOMS_OF_MODEL | GROUND | {"flows.tracking"},
    "flows.releases": BELOW | GROUND | {"flows.tracking"},
    "flows.feedback": BELOW | GROUND | {"flows.releases"},
    "flows.promotion": BELOW | GROUND | {"flows.tracking", "flows.releases", "flows.feedback"},
    "flows.evaluation": BELOW
    | GROUND
    | {"flows.tracking", "flows.releases", "flows.feedback", "flows.promotion"},
    "flows.monitoring": BELOW | GROUND | {"flows.orchestration"},
    "flows": BELOW
    | GROUND
    | {"flows.orchestration", "flows.tracking", "flows.training", "flows.releases"}
    | {"flows.feedback", "flows.promotion", "flows.monitoring"},
    "flows.scheduling": BELOW
    | GROUND
    | {"flows.orchestration", "flows.tracking", "flows.monitoring", "flows"},
    "flows.ops.checks": BELOW
    | GROUND
    | {"flows.orchestration", "flows.tracking", "flows.releases", "flows.scheduling"},
    "flows.ops": BELOW
    | GROUND
    | {"flows.orchestration", "flows.tracking", "flows.releases", "flows.scheduling", "flows.ops.checks"},
}
ALLOWED["flows.cli"] = set(ALLOWED)
# Libraries that only these packages import; the flows themselves and all that schedules them know Prefect.
ONLY_IN = {"mlflow": "flows.tracking", "prefect": "flows", "bentoml": "serving"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    """No module imports a package that its own may not know."""
    package = package_of(module)
    used = {package_of(other) for other in dependencies_of(module)} - {package}
    assert set() == used - ALLOWED[package]
    for library, home in ONLY_IN.items():
        if library in imports_of(module):
            assert module.startswith(home), f"{library} is imported in {home} only"


def test_every_arrow_is_used() -> None:
    """The packages of model and serving are allowed no more than they import."""
    graph = package_graph()
    assert {name: ALLOWED[name] for name in BELOW} == {name: graph[name] for name in BELOW}


def test_there_is_no_circle() -> None:
    """Neither packages nor modules form one; imports inside functions and names in strings count."""
    TopologicalSorter(ALLOWED).prepare()
    TopologicalSorter({module: dependencies_of(module) for module in MODULES}).prepare()


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
    """No module loads a pickle, in any of the ways there are."""
    ways = ("read_pickle", "weights_only=False", "allow_pickle=True", "torch.jit.load")
    for module, path in MODULES.items():
        assert set() == imports_of(module) & {"pickle", "joblib", "cloudpickle", "dill", "shelve"}
        for way in ways:
            assert way not in path.read_text(), f"{path}: {way}"
