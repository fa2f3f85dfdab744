import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Tools write into the home folder of the user, and report of themselves, when a test imports them. Threads of
# torch that wait in a loop take a core from the tests beside them: a run of two networks took 96 s of CPU
# time, now 56.
os.environ |= {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HOME": tempfile.mkdtemp(prefix="user-"),
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
settings.register_profile("without deadline", deadline=None)  # an example may wait for a busy machine
settings.load_profile("without deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nothing-missing",
        action="store_true",
        help="fail, rather than skip, where a program or data is missing",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; `make test-all` runs it")
    config.addinivalue_line("markers", "series: a round of a long series; `make soak` runs it")
    config.addinivalue_line(
        "markers", "needs(program): skipped, by name, where this program is not on the PATH"
    )


# The longest groups start first, each in its own process; the short ones fill the rest of the time.
LONGEST_GROUPS = (
    *("ran", "bento", "test_reconcile.py", "test_release.py", "test_resume.py"),
    *("test_supervisor.py", "test_schemathesis.py", "test_store.py"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for `--dist loadgroup`: by the servers that they share, else by file. Longest first."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_GROUPS)}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: ranks.get(Path(_group(item)).name, len(ranks)))


def _group(item: pytest.Item) -> str:
    """Return the group of a test; those of one group run in the same process, one after the other.

    The servers of `pages` write into the home of `ran`, so tests that read that home, rather than a copy of
    it, run beside no other test of it.
    """
    fixtures = set(item.fixturenames)
    if "bento" in fixtures:
        return "bento"
    reads_home = "ran" in fixtures and "copy" not in fixtures
    return "ran" if reads_home or "pages" in fixtures else item.location[0]


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


@pytest.fixture(scope="session")
def ants_and_bees(request: pytest.FixtureRequest) -> Path:
    """398 photos of two classes in the folder that `RELEARN_DATA` names, 245 in `train`, 153 in `val`."""
    folder = Path(os.environ.get("RELEARN_DATA") or "nowhere").absolute() / "ants-bees"
    if not folder.is_dir():
        _missing(request.config, "RELEARN_DATA names no folder with ants-bees in it")
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or leaves something in, the home of whoever runs it."""
    tools = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "BENTOML_HOME"}
    for name in list(os.environ):
        if (name.startswith("RELEARN_") and name != "RELEARN_DATA") or name in tools:
            monkeypatch.delenv(name)
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path_factory.mktemp("home")))
