"""One real `relearn run`, the servers that its box of commands starts, and copies of what it left."""

import atexit
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from relearn.model.home import Home
from tests.flows.postgres import Postgres
from tests.flows.zoo import Zoo

# Prefect makes its home when it is imported, which collecting these tests does.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)

RELEARN = [str(Path(sys.executable).with_name("relearn"))]
PORTS = {"serve the classifier": 3000, "runs in a browser": 5000, "flows in a browser": 4200}
STARTUP = 120.0  # seconds; 20 for all three servers together on two quiet cores


@dataclass(frozen=True)
class Ran:
    """What `relearn run --dataset digits --epochs 3` printed and left; to be read, not to be changed."""

    folder: Path
    home: Home
    output: str
    errors: str

    @property
    def box(self) -> dict[str, str]:
        """The printed commands, by what they are for."""
        lines = self.output.partition("next steps")[2].splitlines()[1:]
        return {
            purpose.removeprefix("# ").partition(", at ")[0]: command
            for purpose, command in itertools.pairwise(lines)
            if purpose.startswith("# ")
        }


@dataclass(frozen=True)
class Page:
    """A server from the box: the command as it was run, where it answers, its process."""

    command: str
    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a verb sets for the tools that it starts ends with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def clean() -> dict[str, str]:
    """The environment of a newcomer's shell; the port where Prefect's server is looked for is a free one."""
    ours = ("RELEARN_", "PREFECT_", "MLFLOW_", "BENTOML_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PREFECT_SERVER_API_PORT": str(free_port()), "COLUMNS": "100"}


@pytest.fixture(scope="session")
def ran(clean: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The main job, really done once for all tests."""
    folder = tmp_path_factory.mktemp("ran")
    done = subprocess.run(
        [*RELEARN, "run", "--dataset", "digits", "--epochs", "3"],
        cwd=folder,
        env=clean | {"RELEARN_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return Ran(folder, Home(folder / "home", folder / "home" / "data"), done.stdout, done.stderr)


@pytest.fixture(scope="session")
def pages(ran: Ran, clean: dict[str, str]) -> Iterator[dict[str, Page]]:
    """The servers of the box, all started at once: each command as printed, but on a free port."""
    started = {purpose: _start(ran, ran.box[purpose], port, clean) for purpose, port in PORTS.items()}
    yield started
    _stop([page.process for page in started.values()])


@pytest.fixture(scope="session")
def prefect_page(pages: dict[str, Page]) -> str:
    """Where the Prefect server of the box answers; it knows the flow of `ran`."""
    return answering(pages["flows in a browser"], "/api/health")


@pytest.fixture(scope="session")
def mlflow_page(pages: dict[str, Page]) -> str:
    """Where the MLflow server of the box answers."""
    return answering(pages["runs in a browser"], "/health")


@pytest.fixture(scope="session")
def served(pages: dict[str, Page]) -> str:
    """Where the released classifier answers."""
    return answering(pages["serve the classifier"], "/readyz")


@pytest.fixture
def on_server(prefect_page: str) -> Iterator[str]:
    """Flows called here report to the server of the box, but for their logs, which would outlive it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{prefect_page}/api", PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield prefect_page


def forget(name: str) -> None:
    """Let Prefect's server know nothing of `name`: other tests count what it has."""
    from prefect import get_client

    from relearn.flows.monitor import monitor
    from relearn.flows.retrain import retrain
    from relearn.flows.scheduling.deployments import find_deployment

    with get_client(sync_client=True) as client:
        for found in (find_deployment(client, flow, name) for flow in (retrain, monitor)):
            if found:
                client.delete_deployment(found.id)


@pytest.fixture(scope="session")
def copy(ran: Ran) -> Callable[[Path], Home]:
    """Makes a home of what `ran` prepared and tracked; files of new runs go into it."""

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
    """A home of this test's own, in the state that `ran` left: its runs, registered versions and data."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return copy(tmp_path / "home")


@pytest.fixture(scope="session")
def one_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """To be copied, not to be changed."""
    return Zoo.open(tmp_path_factory.mktemp("zoo") / "home")


@pytest.fixture
def zoo(one_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A home of this test's own with three registered versions, of which none is live yet."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return one_zoo.copy(tmp_path / "home")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="relearn-pg-") as folder:
        database = Postgres(Path(folder))
        database.start()
        try:
            yield database
        finally:
            database.stop("immediate")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk of its own under the home of this test."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("only an administrator can mount a small disk")
        return place

    monkeypatch.setenv("RELEARN_HOME", str(place / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    yield mount
    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def _start(ran: Ran, printed: str, port: int, environment: dict[str, str]) -> Page:
    free = free_port()
    command = f"{printed} --port {free}"
    log = (ran.folder / f"{port}.log").open("wb")
    with log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=ran.folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Page(command, f"http://127.0.0.1:{free}", process)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    families = [one for shell in processes for one in psutil.Process(shell.pid).children(recursive=True)]
    for shell in processes:
        os.killpg(shell.pid, signal.SIGTERM)
    for left in psutil.wait_procs(families, timeout=20)[1]:
        left.kill()
    for shell in processes:
        shell.wait()


def answering(page: Page, path: str) -> str:
    """The URL of the page, as soon as it answers under `path`."""
    deadline = time.monotonic() + STARTUP
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
    """A port of this machine that nobody listens on."""
    return free_port()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def epochs_kept(home: Home) -> int:
    """How many epochs the newest checkpoint has."""
    return max((int(path.name[:5]) for path in home.checkpoints.glob("*/*.safetensors")), default=0)


def wait_for_epochs(home: Home, more: int, process: subprocess.Popen[str]) -> None:
    """Return when a training has kept so many epochs more; it has to live until then."""
    goal = epochs_kept(home) + more
    while epochs_kept(home) < goal:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
