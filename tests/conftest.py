import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Tools write into the home folder of the user, and report of themselves, when a test imports them.
os.environ |= {
    "HOME": tempfile.mkdtemp(prefix="user-"),
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nothing-missing",
        action="store_true",
        help="fail, rather than skip, where a program or data is missing",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; `make test-all` runs it")
    config.addinivalue_line(
        "markers", "needs(program): skipped, by name, where this program is not on the PATH"
    )


# Tests of flows that ask none of the servers which the others share.
ALONE = {
    f"tests/flows/{name}.py"
    for name in (
        *(
            "evaluation/test_compare",
            "promotion/test_gate",
            "training/test_report",
            "releases/test_release_state",
        ),
        *("tracking/test_store", "tracking/test_runs", "ops/test_supervisor"),
        *("cli/test_app", "cli/test_backprop", "cli/test_eda", "cli/test_home", "cli/test_serve"),
    )
}


class ByRoom(LoadScopeScheduling):
    """One worker tests the flows and another the service, so that each server is started once for all."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        layer = "/".join(file.split("/")[:2])
        return layer if layer in {"tests/flows", "tests/serving"} and file not in ALONE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRoom:
    return ByRoom(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        missing = [program for program in mark.args if shutil.which(program) is None]
        if missing:
            _missing(item.config, f"{', '.join(missing)} not on the PATH")


def _missing(config: pytest.Config, what: str) -> None:
    if config.getoption("--nothing-missing"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder that `RELEARN_DATA` names, with MNIST in it."""
    folder = Path(os.environ.get("RELEARN_DATA") or "nowhere").absolute()
    if not (folder / "MNIST" / "raw").is_dir():
        _missing(request.config, "RELEARN_DATA names no folder with MNIST/raw in it")
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or leaves something in, the home of whoever runs it."""
    tools = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "BENTOML_HOME"}
    for name in list(os.environ):
        if (name.startswith("RELEARN_") and name != "RELEARN_DATA") or name in tools:
            monkeypatch.delenv(name)
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path_factory.mktemp("home")))
