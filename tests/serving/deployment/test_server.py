"""Promises of the server process: it starts, explains a failed start, and leaves no process or file."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest

from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.build_bento import build_bento, build_bentoml_environment
from relearn.serving.deployment.server import Server, run_server, start_server


@pytest.fixture(scope="module")
def source_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers from source, before any release."""
    root = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        server = start_server(
            None, ServeConfig(port=0, workers=2, graceful_timeout_seconds=2), Home(root, root)
        )
    try:
        server.wait_until_ok("/livez")
        yield server
    finally:
        server.stop()


def find_workers(server: Server) -> list[psutil.Process]:
    """Return the worker processes of the server."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "_bentoml_impl.worker.service" in child.cmdline()]


def have_exited(processes: list[psutil.Process], timeout_seconds: float = 15) -> bool:
    return not psutil.wait_procs(processes, timeout=timeout_seconds)[1]


def is_free(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 30) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_server_without_release_is_live_but_not_ready(source_server: Server):
    """`/livez` returns 200, `/readyz` and `/predict` 503 no_release, and the OpenAPI document is served."""
    with httpx.Client(base_url=source_server.url, trust_env=False) as client:
        assert 200 == client.get("/livez").status_code
        for response in (client.get("/readyz"), client.post("/predict", json={"images": [0]})):
            assert (503, "no_release") == (response.status_code, response.json()["error"]["code"])
        assert 200 == client.get("/openapi.json").status_code


def test_damaged_classifier_fails_the_start_immediately(saved: Path, tmp_path: Path) -> None:
    """One line names the file; the start does not wait for the timeout."""
    home = Home(tmp_path, tmp_path)
    bento = build_bento(saved, "digits", "9", home)
    (weights,) = home.bentoml.rglob("models/**/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)

    start_time = time.monotonic()
    with (
        pytest.raises(
            CorruptDataError, match=r"cannot be served: .*weights.safetensors is not what was saved"
        ),
        run_server(bento, ServeConfig(port=0), home),
    ):
        pass
    assert time.monotonic() - start_time < 45


def test_workers_of_a_killed_server_finish_and_exit(source_server: Server):
    """A request in progress is still answered; then no worker outlives the server and keeps the port."""
    assert wait_until(lambda: len(find_workers(source_server)) == 2)
    processes = find_workers(source_server)
    connection, rest = send_half_a_request(source_server.address)
    with connection:
        time.sleep(0.2)
        source_server.process.kill()
        time.sleep(1.5)  # a worker notices within one second
        connection.sendall(rest)
        assert b'"code":"no_release"' in read_response(connection)[1]

    assert have_exited(processes)
    assert is_free(source_server.address)


def test_workers_run_the_source_in_their_bento(server: Server, bento: str, home: Home):
    """No code comes from the current directory of the process that started the server."""
    source = home.bentoml / "bentos" / "digits" / "3" / "src"

    assert {source} == {Path(worker.cwd()) for worker in find_workers(server)}
    assert Path.cwd() != source


@pytest.fixture(scope="module")
def second_server(server: Server, bento: str, home: Home) -> Iterator[Server]:
    """Another server of the same Bento in the same home, with a request timeout of 2 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        started = start_server(
            bento, ServeConfig(port=0, graceful_timeout_seconds=8, timeout_seconds=2), home
        )
    try:
        started.wait_until_ok("/readyz")
        yield started
    finally:
        started.stop()


def test_servers_in_one_home_have_separate_metrics(client: httpx.Client, second_server: Server):
    """The second server neither resets the counters of the first nor adds to them."""
    client.get("/openapi.json")

    metrics = httpx.get(f"{second_server.url}/metrics", trust_env=False).text

    assert 'route="/openapi.json"' not in metrics
    assert 'route="/openapi.json"' in client.get("/metrics").text


def send_half_a_request(address: tuple[str, int]) -> tuple[socket.socket, bytes]:
    """Send half of a valid request; return the connection and the other half."""
    body = json.dumps({"images": [0] * 784}).encode()
    head = (
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}"
    )
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(head.encode() + b"\r\n\r\n" + body[:100])
    return connection, body[100:]


def read_response(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def test_incomplete_request_times_out(second_server: Server):
    """The response comes after the configured time, in our error format."""
    connection, _ = send_half_a_request(second_server.address)
    with connection:
        status, content = read_response(connection)

    assert 504 == status
    assert b'"code":"timeout","message":"request: not finished within 2 seconds"' in content


def test_stopping_server_completes_accepted_requests(second_server: Server):
    """A half-received request still gets its response, then the server exits."""
    connection, rest = send_half_a_request(second_server.address)
    stopping = Thread(target=second_server.stop)
    with connection:
        time.sleep(0.2)
        stopping.start()
        time.sleep(0.5)
        connection.sendall(rest)
        status, _ = read_response(connection)
    stopping.join()

    assert 200 == status
    assert 0 == second_server.process.returncode


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGHUP])
def test_every_stop_signal_completes_accepted_requests(tmp_path: Path, stop_signal: signal.Signals):
    """Ctrl-C and a closed terminal stop BentoML's server as SIGTERM does."""
    server = start_server(None, ServeConfig(port=0, graceful_timeout_seconds=5), Home(tmp_path, tmp_path))
    try:
        server.wait_until_ok("/livez")
        connection, rest = send_half_a_request(server.address)
        with connection:
            time.sleep(0.2)
            server.process.send_signal(stop_signal)
            time.sleep(0.5)
            connection.sendall(rest)
            assert b'"code":"no_release"' in read_response(connection)[1]
        assert 0 == server.process.wait(10)
    finally:
        server.stop()


def is_closed(connection: http.client.HTTPConnection) -> bool:
    """Return True if a request fails because the connection is closed."""
    try:
        connection.request("GET", "/livez")
        connection.getresponse()
    except (http.client.HTTPException, ConnectionError):
        return True
    finally:
        connection.close()
    return False


def test_stopping_server_rejects_other_requests(bento: str, home: Home):
    """Within the graceful timeout, old and new connections close; unfinished requests get 503 stopping."""
    server = start_server(bento, ServeConfig(port=0, graceful_timeout_seconds=2), home)
    server.wait_until_ok("/readyz")
    idle_connection, new_connection = (
        http.client.HTTPConnection(*server.address, timeout=10) for _ in range(2)
    )
    idle_connection.request("GET", "/livez")
    idle_connection.getresponse().read()
    connection, _ = send_half_a_request(server.address)
    stopping = Thread(target=server.stop)
    with connection:
        stopping.start()
        time.sleep(1)
        assert is_closed(idle_connection)
        assert is_closed(new_connection)
        status, content = read_response(connection)
    stopping.join()

    assert 503 == status
    assert b'"code":"stopping","message":"server: it is stopping"' in content
    assert 0 == server.process.returncode


def test_run_server_cleans_up_after_the_block(tmp_path: Path):
    """No process, open port or file remains."""
    before = set(psutil.Process().children(recursive=True))

    with run_server(None, ServeConfig(port=0, graceful_timeout_seconds=1), Home(tmp_path, tmp_path)) as url:
        processes = set(psutil.Process().children(recursive=True)) - before
        assert 200 == httpx.get(f"{url}/livez", trust_env=False).status_code

    assert len(processes) >= 2
    assert not any(process.is_running() for process in processes)
    assert is_free(("127.0.0.1", int(url.rpartition(":")[2])))
    assert [] == list((tmp_path / "servers").iterdir())


def test_server_exits_with_its_killed_parent(tmp_path: Path):
    """The parent process has no chance to clean up."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from relearn.model.home import Home\n"
        "from relearn.serving.deployment.server import start_server\n"
        "from relearn.serving.config import ServeConfig\n"
        "root = Path(sys.argv[1])\n"
        "server = start_server(None, ServeConfig(port=0, graceful_timeout_seconds=1), Home(root, root))\n"
        "server.wait_until_ok('/livez')\n"
        "pids = [server.process.pid, *[worker.pid for worker in server.worker_processes]]\n"
        "print(server.address[1], *pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        port, *pids = map(int, parent.stdout.readline().split())
        processes = [psutil.Process(pid) for pid in pids]
        parent.kill()

    assert len(processes) >= 2
    assert have_exited(processes)
    assert is_free(("127.0.0.1", port))


def test_used_port_is_reported_before_the_start(tmp_path: Path):
    """One line says what to do, and no folder is created."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(
            InfrastructureError, match=f"port {port}: the port is in use, choose another one with --port"
        ):
            start_server(None, ServeConfig(port=port), Home(tmp_path / "home", tmp_path))

    assert not (tmp_path / "home").exists()


def test_address_of_another_machine_is_rejected(tmp_path: Path):
    """192.0.2.1 is reserved for documentation."""
    with pytest.raises(InfrastructureError, match="this machine has no such address"):
        start_server(
            None, ServeConfig(host="192.0.2.1", port=0), Home(tmp_path / "home", tmp_path), api_keys="k" * 16
        )


def test_missing_bento_is_reported_before_the_start(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no Bento digits:9"):
        start_server("digits:9", ServeConfig(port=0), Home(tmp_path / "home", tmp_path))

    assert not (tmp_path / "home").exists()


def test_failed_start_reports_the_end_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The log file is kept."""
    monkeypatch.setenv("BENTOML_CONFIG", str(tmp_path / "nothing.yaml"))

    with (
        pytest.raises(InfrastructureError, match=r"the server ended with code 1; the end of .*nothing\.yaml"),
        run_server(None, ServeConfig(port=0), Home(tmp_path / "home", tmp_path)),
    ):
        pass

    assert 1 == len(list((tmp_path / "home" / "servers").glob("*/server.log")))


def test_telemetry_is_off_unless_the_user_enables_it(server: Server, monkeypatch: pytest.MonkeyPatch):
    """All server processes have both switches set; a value set by the user stays."""
    for process in (psutil.Process(server.process.pid), *find_workers(server)):
        assert ("True", "1") == (process.environ()["BENTOML_DO_NOT_TRACK"], process.environ()["DO_NOT_TRACK"])

    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "False")
    assert "False" == build_bentoml_environment()["BENTOML_DO_NOT_TRACK"]
