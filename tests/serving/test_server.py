"""The server as a process: it comes up, says why when it does not, and leaves nothing behind."""

import http.client
import json
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
from relearn.serving.deployment.packaging import build_bento, build_bentoml_environment
from relearn.serving.deployment.server import Server, run_server, start_server


@pytest.fixture(scope="module")
def sourced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers from source, before any release."""
    root = tmp_path_factory.mktemp("sourced")
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


def workers(server: Server) -> list[psutil.Process]:
    """The processes that answer."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "_bentoml_impl.worker.service" in child.cmdline()]


def gone(processes: list[psutil.Process], seconds: float = 15) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def free(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


def wait_until(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_before_a_release_the_server_is_alive_and_not_ready(sourced: Server):
    """/livez 200, /readyz and /predict 503 no_release, and the document is there."""
    with httpx.Client(base_url=sourced.url, trust_env=False) as client:
        assert 200 == client.get("/livez").status_code
        for answer in (client.get("/readyz"), client.post("/predict", json={"images": [0]})):
            assert (503, "no_release") == (answer.status_code, answer.json()["error"]["code"])
        assert 200 == client.get("/openapi.json").status_code


def test_a_classifier_that_is_not_what_was_saved_is_not_waited_for(saved: Path, tmp_path: Path) -> None:
    """One line that names the file, as soon as the server has looked at it; nothing stays running."""
    home = Home(tmp_path, tmp_path)
    bento = build_bento(saved, "digits", "9", home)
    (weights,) = home.bentoml.rglob("models/**/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)

    begin = time.monotonic()
    with (
        pytest.raises(
            CorruptDataError, match=r"cannot be served: .*weights.safetensors is not what was saved"
        ),
        run_server(bento, ServeConfig(port=0), home),
    ):
        pass
    assert time.monotonic() - begin < 45


def test_the_workers_of_a_killed_server_leave(sourced: Server):
    """As many workers as asked for; none outlives its server to keep the port."""
    assert wait_until(lambda: len(workers(sourced)) == 2)
    left = workers(sourced)
    sourced.process.kill()

    assert gone(left)
    assert free(sourced.address)


def test_the_workers_run_the_source_of_their_bento(server: Server, bento: str, home: Home):
    """Nothing is served from the folder in which the server happens to be started."""
    source = home.bentoml / "bentos" / "digits" / "3" / "src"

    assert {source} == {Path(worker.cwd()) for worker in workers(server)}
    assert Path.cwd() != source


@pytest.fixture(scope="module")
def second(server: Server, bento: str, home: Home) -> Iterator[Server]:
    """Another server of the same Bento in the same home, quick to give a request up."""
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


def test_two_servers_count_for_themselves(client: httpx.Client, second: Server):
    """In one home, the second neither wipes nor adds to the counters of the first."""
    client.get("/openapi.json")

    own = httpx.get(f"{second.url}/metrics", trust_env=False).text

    assert 'route="/openapi.json"' not in own
    assert 'route="/openapi.json"' in client.get("/metrics").text


def half_a_request(address: tuple[str, int]) -> tuple[socket.socket, bytes]:
    """A connection on which half of a good request was sent, and the other half."""
    body = json.dumps({"images": [0] * 784}).encode()
    head = (
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}"
    )
    wire = socket.create_connection(address, timeout=10)
    wire.sendall(head.encode() + b"\r\n\r\n" + body[:100])
    return wire, body[100:]


def read(wire: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(wire)
    answer.begin()
    return answer.status, answer.read()


def test_a_request_that_does_not_come_to_its_end_is_given_up(second: Server):
    """After the time that is set, in our form."""
    wire, _ = half_a_request(second.address)
    with wire:
        status, answer = read(wire)

    assert 504 == status
    assert b'"code":"timeout","message":"request: not finished within 2 seconds"' in answer


def test_a_stopping_server_finishes_what_it_accepted(second: Server):
    """A request that is half here when the server is told to stop gets its answer, then the server ends."""
    wire, rest = half_a_request(second.address)
    stopping = Thread(target=second.stop)
    with wire:
        time.sleep(0.2)
        stopping.start()
        time.sleep(0.5)
        wire.sendall(rest)
        status, _ = read(wire)
    stopping.join()

    assert 200 == status
    assert 0 == second.process.returncode


def refused(connection: http.client.HTTPConnection) -> bool:
    """Whether a request over it gets no answer, because the connection is ended."""
    try:
        connection.request("GET", "/livez")
        connection.getresponse()
    except (http.client.HTTPException, ConnectionError):
        return True
    finally:
        connection.close()
    return False


def test_a_stopping_server_refuses_the_rest(bento: str, home: Home):
    """Within the grace: old and new connections are ended, what was accepted and is not done is told so."""
    stopping = start_server(bento, ServeConfig(port=0, graceful_timeout_seconds=2), home)
    stopping.wait_until_ok("/readyz")
    idle, fresh = (http.client.HTTPConnection(*stopping.address, timeout=10) for _ in range(2))
    idle.request("GET", "/livez")
    idle.getresponse().read()
    wire, _ = half_a_request(stopping.address)
    end = Thread(target=stopping.stop)
    with wire:
        end.start()
        time.sleep(1)
        assert refused(idle)
        assert refused(fresh)
        status, answer = read(wire)
    end.join()

    assert 503 == status
    assert b'"code":"stopping","message":"server: it is stopping"' in answer
    assert 0 == stopping.process.returncode


def test_a_server_runs_for_a_block_and_leaves_no_trace(tmp_path: Path):
    """No process, no open port, no file."""
    before = set(psutil.Process().children(recursive=True))

    with run_server(None, ServeConfig(port=0, graceful_timeout_seconds=1), Home(tmp_path, tmp_path)) as url:
        processes = set(psutil.Process().children(recursive=True)) - before
        assert 200 == httpx.get(f"{url}/livez", trust_env=False).status_code

    assert len(processes) >= 2
    assert not any(process.is_running() for process in processes)
    assert free(("127.0.0.1", int(url.rpartition(":")[2])))
    assert [] == list((tmp_path / "servers").iterdir())


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path):
    """Who started it is killed without a chance to clean up: the server goes too."""
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
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        port, *pids = map(int, owner.stdout.readline().split())
        processes = [psutil.Process(pid) for pid in pids]
        owner.kill()

    assert len(processes) >= 2
    assert gone(processes)
    assert free(("127.0.0.1", port))


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path):
    """One line that says what to do, and no folder is made."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            InfrastructureError, match=f"port {port}: the port is in use, choose another one with --port"
        ):
            start_server(None, ServeConfig(port=port), Home(tmp_path / "home", tmp_path))

    assert not (tmp_path / "home").exists()


def test_an_address_of_another_machine_is_refused(tmp_path: Path):
    """192.0.2.1 is nobody's."""
    with pytest.raises(InfrastructureError, match="this machine has no such address"):
        start_server(
            None, ServeConfig(host="192.0.2.1", port=0), Home(tmp_path / "home", tmp_path), api_keys="k" * 16
        )


def test_a_bento_that_is_not_there_is_told(tmp_path: Path):
    """Before a process is started."""
    with pytest.raises(NotFoundError, match="no Bento digits:9"):
        start_server("digits:9", ServeConfig(port=0), Home(tmp_path / "home", tmp_path))

    assert not (tmp_path / "home").exists()


def test_a_server_that_does_not_come_up_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The end of its log stands in the message, and the log is kept."""
    monkeypatch.setenv("BENTOML_CONFIG", str(tmp_path / "nothing.yaml"))

    with (
        pytest.raises(InfrastructureError, match=r"the server ended with code 1; the end of .*nothing\.yaml"),
        run_server(None, ServeConfig(port=0), Home(tmp_path / "home", tmp_path)),
    ):
        pass

    assert 1 == len(list((tmp_path / "home" / "servers").glob("*/server.log")))


def test_telemetry_is_off_unless_it_was_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch):
    """Our server's processes have both switches set, and what the user set stays."""
    for process in (psutil.Process(server.process.pid), *workers(server)):
        assert ("True", "1") == (process.environ()["BENTOML_DO_NOT_TRACK"], process.environ()["DO_NOT_TRACK"])

    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "False")
    assert "False" == build_bentoml_environment()["BENTOML_DO_NOT_TRACK"]
