"""Fixtures: one real `relearn run`, the servers of its home, copies of its home."""

import atexit
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from filelock import FileLock

from relearn.model.home import Home
from relearn.model.ports import find_free_port
from tests.flows.postgres import Postgres
from tests.flows.zoo import Zoo

# Prefect creates its home on import, which happens when these tests are collected.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)

RELEARN = [str(Path(sys.executable).with_name("relearn"))]
STARTUP_TIMEOUT_SECONDS = 120.0  # 20 s for all three servers together on two idle cores


@dataclass(frozen=True)
class Ran:
    """Output and home of `relearn run --dataset digits --epochs 3`, read-only."""

    folder: Path
    home: Home
    output: str
    errors: str


@dataclass(frozen=True)
class Page:
    """A server: command as run, URL, process."""

    command: str
    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Restore the environment after each test, since commands set variables for the tools they start."""
    original = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(original)


@pytest.fixture(scope="session")
def clean() -> dict[str, str]:
    """Environment of a new user's shell, with a free port as Prefect's default server port."""
    prefixes = ("RELEARN_", "PREFECT_", "MLFLOW_", "BENTOML_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return variables | {"PREFECT_SERVER_API_PORT": str(find_free_port()), "COLUMNS": "100"}


@pytest.fixture(scope="session")
def ran(clean: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Make one real retraining for all tests, also those of other test processes."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, output_file = root / "ran", root / "ran.json"
    with FileLock(root / "ran.lock"):
        if not output_file.exists():
            folder.mkdir()
            completed = subprocess.run(
                [*RELEARN, "run", "--dataset", "digits", "--epochs", "3"],
                cwd=folder,
                env=clean | {"RELEARN_HOME": str(folder / "home")},
                capture_output=True,
                text=True,
                check=False,
            )
            assert 0 == completed.returncode, completed.stderr
            output_file.write_text(json.dumps([completed.stdout, completed.stderr]))
    return Ran(folder, Home(folder / "home", folder / "home" / "data"), *json.loads(output_file.read_text()))


@pytest.fixture(scope="session")
def pages(ran: Ran, clean: dict[str, str]) -> Iterator[dict[str, Page]]:
    """The prediction API and the pages of MLflow and Prefect, started at once, each on a free port."""
    folder, home = Path(sys.executable).parent, ran.home
    commands = {
        "api": f"RELEARN_HOME={home.root} {folder}/relearn serve --model-name digits",
        "mlflow": "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{folder}/mlflow server --workers 1 --backend-store-uri sqlite:///{home.root}/mlflow.db",
        "prefect": f"PREFECT_HOME={home.root}/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false "
        f"{folder}/prefect server start",
    }
    servers = {name: _open_page(command, ran.folder, clean) for name, command in commands.items()}
    yield servers
    _stop([page.process for page in servers.values()])


@pytest.fixture(scope="session")
def prefect_page(pages: dict[str, Page]) -> str:
    """URL of the Prefect server; it has the flow run of `ran`."""
    return answering(pages["prefect"], "/api/health")


@pytest.fixture(scope="session")
def mlflow_page(pages: dict[str, Page]) -> str:
    """URL of the MLflow server."""
    return answering(pages["mlflow"], "/health")


@pytest.fixture(scope="session")
def served(pages: dict[str, Page]) -> str:
    """URL of the prediction API of the released classifier."""
    return answering(pages["api"], "/readyz")


@pytest.fixture(scope="session")
def prefect_server(clean: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty Prefect server for the tests of one test process."""
    folder = tmp_path_factory.mktemp("prefect-server")
    port, program = find_free_port(), Path(sys.executable).with_name("prefect")
    command = f"exec {program} server start --port {port}"
    process = _start(command, folder, clean | {"PREFECT_HOME": str(folder)})
    yield answering(Page(command, f"http://127.0.0.1:{port}", process), "/api/health")
    _stop([process])


@pytest.fixture
def on_server(prefect_server: str) -> Iterator[str]:
    """Make flows report to the Prefect server of this test process."""
    with report_to(prefect_server):
        yield prefect_server


@contextmanager
def report_to(prefect_server: str) -> Iterator[None]:
    """Make flows report to this server, except for logs, which might be sent after its end."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    with temporary_settings(
        {PREFECT_API_URL: f"{prefect_server}/api", PREFECT_LOGGING_TO_API_ENABLED: False}
    ):
        yield


def forget(name: str) -> None:
    """Delete the deployments of model `name`: other tests count them."""
    from prefect import get_client

    from relearn.flows.monitor import monitor
    from relearn.flows.retrain import retrain
    from relearn.flows.scheduling.deployments import find_deployment

    with get_client(sync_client=True) as client:
        for deployment in (find_deployment(client, flow, name) for flow in (retrain, monitor)):
            if deployment:
                client.delete_deployment(deployment.id)


@pytest.fixture(scope="session")
def copy(ran: Ran) -> Callable[[Path], Home]:
    """Return a function that copies data and runs of `ran` into a new home, where new runs are stored."""

    def make(root: Path) -> Home:
        home = Home(root, root / "data")
        shutil.copytree(ran.home.dataset_cache, home.dataset_cache)
        shutil.copy(ran.home.root / "mlflow.db", root)
        with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as database:
            database.execute("update experiments set artifact_location = ?", [home.artifacts.as_uri()])
        return home

    return make


@pytest.fixture
def copied(copy: Callable[[Path], Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home for this test with the runs, registered versions and data of `ran`."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return copy(tmp_path / "home")


@pytest.fixture(scope="session")
def one_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The zoo that tests copy, read-only."""
    return Zoo.open(tmp_path_factory.mktemp("zoo") / "home")


@pytest.fixture
def zoo(one_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A home for this test with three registered versions, none of them live."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return one_zoo.copy(tmp_path / "home")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for this test, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="relearn-pg-") as folder:
        database = Postgres(Path(folder))
        database.start()
        try:
            yield database
        finally:
            database.stop("immediate")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small disk for the home of this test."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()

    def mount(options: str) -> Path:
        completed = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount_point], capture_output=True, check=False
        )
        if completed.returncode:
            pytest.skip("only an administrator can mount a small disk")
        return mount_point

    monkeypatch.setenv("RELEARN_HOME", str(mount_point / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    yield mount
    subprocess.run(["umount", "--lazy", mount_point], capture_output=True, check=False)


def _open_page(command: str, folder: Path, environment: dict[str, str]) -> Page:
    port = find_free_port()
    command = f"{command} --port {port}"
    return Page(command, f"http://127.0.0.1:{port}", _start(command, folder, environment))


def _start(command: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".log", delete=False) as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    children = [child for shell in processes for child in psutil.Process(shell.pid).children(recursive=True)]
    for shell in processes:
        os.killpg(shell.pid, signal.SIGTERM)
    for survivor in psutil.wait_procs(children, timeout=20)[1]:
        survivor.kill()
    for shell in processes:
        shell.wait()


def answering(page: Page, path: str) -> str:
    """Return the URL of the server as soon as it answers under `path`."""
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert page.process.poll() is None, f"{page.command} ended with {page.process.returncode}"
        try:
            if httpx.get(page.url + path, timeout=5).is_success:
                return page.url
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{page.command} did not answer")


@pytest.fixture
def port() -> int:
    """A free port."""
    return find_free_port()


def epochs_kept(home: Home) -> int:
    """Return the number of epochs in the newest checkpoint."""
    return max((int(path.name[:5]) for path in home.checkpoints.glob("*/*.safetensors")), default=0)


def wait_for_epochs(home: Home, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until the training in `process` has saved `count` more epochs."""
    goal = epochs_kept(home) + count
    while epochs_kept(home) < goal:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
