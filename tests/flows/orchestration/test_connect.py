"""Which Prefect server flows report to, beside servers of other programs on its port."""

import http.server
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from relearn.flows.ops.doctor import run_check
from relearn.flows.ops.services import services
from relearn.flows.ops.status import status
from relearn.flows.ops.supervisor import run_services
from relearn.flows.orchestration import connect
from relearn.flows.orchestration.connect import _start_temporary_server, connect_prefect, wait_for_server
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.model import file_lock
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home
from relearn.model.ports import find_free_port
from relearn.serving.config import ServeConfig

Handler = http.server.BaseHTTPRequestHandler
stopped = threading.Event()


class ConstantServer(http.server.BaseHTTPRequestHandler):
    """A server that answers `true` to every request."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        pass


class DribblingServer(http.server.BaseHTTPRequestHandler):
    """A server that sends headers, and then a byte every half second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not stopped.wait(0.5):
            self.wfile.write(b" ")
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def run_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Handler]], int]]:
    """Start a server of this kind on Prefect's port of this test; returns the port."""
    servers: list[http.server.ThreadingHTTPServer] = []
    stopped.clear()

    def start(handler: type[Handler]) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(server.server_port))
        servers.append(server)
        return server.server_port

    yield start
    stopped.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@contextmanager
def connect_at(port: int, home: Home) -> Iterator[str | None]:
    from prefect.settings import PREFECT_SERVER_API_PORT, temporary_settings

    with temporary_settings({PREFECT_SERVER_API_PORT: port}), connect_prefect(home) as ui_url:
        yield ui_url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = Home(tmp_path / "home", tmp_path / "data")
    home.prefect.mkdir(parents=True)
    return home


@pytest.mark.parametrize("handler", [ConstantServer, pytest.param(DribblingServer, marks=pytest.mark.slow)])
def test_server_of_another_program_is_passed_over(
    handler: type[Handler], home: Home, run_server: Callable[[type[Handler]], int]
) -> None:
    """Flows report to a temporary server then, also if the other server never finishes a response."""
    port = run_server(handler)
    with connect_at(port, home) as ui_url:
        assert ui_url is None


def test_configured_server_has_to_be_prefect(home: Home, run_server: Callable[[type[Handler]], int]) -> None:
    """One line says that `PREFECT_API_URL` names another program."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = f"http://127.0.0.1:{run_server(ConstantServer)}"
    with (
        temporary_settings({PREFECT_API_URL: f"{url}/api"}),
        pytest.raises(InfrastructureError, match=f"{url} is no Prefect server"),
        connect_prefect(home),
    ):
        pass


def test_probe_takes_two_timeouts_at_most(run_server: Callable[[type[Handler]], int]) -> None:
    """A byte every half second does not extend the probe."""
    port, start = run_server(DribblingServer), time.monotonic()
    assert "silent" == PrefectApi(f"http://127.0.0.1:{port}/api", timeout_seconds=1.0).get_state()
    assert time.monotonic() - start < 10


def test_status_and_up_recognize_another_program(
    home: Home, run_server: Callable[[type[Handler]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` claims no UI of ours there, and `up` does not take it for Prefect's server."""
    port = run_server(ConstantServer)
    monkeypatch.setattr("relearn.flows.ops.status.DEFAULT_MLFLOW_URL", f"http://127.0.0.1:{port}")
    lines = {line.label: line.text for line in status(home)}
    assert "neither Prefect nor MLflow runs" == lines["UIs"]
    names = [service.name for service in services(home, "digits", ServeConfig(), port, 1, 2)]
    assert "prefect" in names


class PasswordServer(http.server.BaseHTTPRequestHandler):
    """Prefect's server with `PREFECT_SERVER_API_AUTH_STRING=admin:pass`: only its health is public."""

    def do_GET(self) -> None:
        is_allowed = self.path == "/api/health" or self.headers["authorization"] == "Basic YWRtaW46cGFzcw=="
        self.send_response(200 if is_allowed else 401)
        self.end_headers()
        bodies = {"/api/health": b"true", "/api/admin/settings": b'{"home": "/another/prefect"}'}
        body = bodies.get(self.path, b'"3.9.1"')
        self.wfile.write(body if is_allowed else b'{"exception_message": "Unauthorized"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("auth", [None, "admin:wrong"])
def test_server_with_a_password_is_one_line(
    auth: str | None,
    home: Home,
    run_server: Callable[[type[Handler]], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flows, `up` and `doctor` name the variable that holds the password, without it or with a wrong one."""
    port = run_server(PasswordServer)
    if auth:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", auth)
    message = f"http://127.0.0.1:{port} asks for a password: set PREFECT_API_AUTH_STRING to its user:password"
    with pytest.raises(InfrastructureError, match=message), connect_at(port, home):
        pass
    with pytest.raises(InfrastructureError, match=message):
        list(services(home, "digits", ServeConfig(), port, 1, 2))
    with pytest.raises(InfrastructureError, match=message):
        wait_for_server(f"http://127.0.0.1:{port}/api")
    (result,) = run_check(home, "prefect", "server")
    assert ("failed", message) == (result.state, f"{result.message}: {result.fix}")


def test_server_with_the_right_password_is_used(
    home: Home, run_server: Callable[[type[Handler]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is sent, and never shown."""
    port = run_server(PasswordServer)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    with connect_at(port, home) as ui_url:
        assert f"http://127.0.0.1:{port}" == ui_url
    assert "pass" not in repr(PrefectApi(f"http://127.0.0.1:{port}/api"))


def test_doctor_suggests_another_port_beside_another_program(
    home: Home, run_server: Callable[[type[Handler]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`PREFECT_API_URL` is mentioned only if it is set."""
    url = f"http://127.0.0.1:{run_server(ConstantServer)}"
    (result,) = run_check(home, "prefect", "server")
    assert ("warning", f"{url} is no Prefect server") == (result.state, result.message)
    assert "flows report to a temporary server" in result.fix
    assert "relearn up --prefect-port " in result.fix
    assert "PREFECT_API_URL" not in result.fix

    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    (result,) = run_check(home, "prefect", "server")
    assert ("failed", f"{url} is no Prefect server") == (result.state, result.message)
    assert "unset PREFECT_API_URL" in result.fix


def test_temporary_server_that_does_not_start_names_the_reason(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the database is in the line, although the log has more lines after it."""
    monkeypatch.setenv("PREFECT_HOME", str(home.prefect))
    (home.prefect / "prefect.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(InfrastructureError) as raised:
        _start_temporary_server(home)
    assert "Prefect's server did not start: " in str(raised.value)
    assert "file is not a database" in str(raised.value)
    assert "Fatal Python error" not in (home.prefect / "temporary_server.log").read_text()


def test_locked_database_is_reported_before_a_server_starts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By flows and by doctor; Prefect's server would wait a minute for it without a word."""
    monkeypatch.setattr(file_lock, "DATABASE_TIMEOUT_SECONDS", 0.01)
    with closing(sqlite3.connect(home.prefect / "prefect.db", isolation_level=None)) as database:
        database.execute("create table t (x)")
        database.execute("begin exclusive")
        with pytest.raises(InfrastructureError, match=r"prefect\.db is locked by .*; wait until"):
            _start_temporary_server(home)
        (result,) = run_check(home, "prefect", "database")
    assert "failed" == result.state
    assert "prefect.db is locked by " in result.message


SLOW_ANSWERS = """
import http.server, sys, time
if "relearn.flows.orchestration.temporary_server" in sys.orig_argv:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(3)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true" if self.path == "/api/health" else b'"3.9"')
    import uvicorn
    run = lambda app, host, port, log_level: http.server.HTTPServer((host, port), Handler).serve_forever()
    uvicorn.run = run
"""


@pytest.mark.slow
def test_temporary_server_may_be_slow(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine its first responses take some seconds."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_ANSWERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(connect, "STARTUP_TIMEOUT_SECONDS", 60.0)
    assert _start_temporary_server(home).startswith("http://127.0.0.1:")


def test_server_of_another_home_is_not_used(
    run_server: Callable[[type[Handler]], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor names it, flows do without, `relearn up` asks for another port; a named server is used."""

    class PrefectServer(ConstantServer):
        bodies: ClassVar = {
            "/api/admin/version": '"3"',
            "/api/admin/settings": json.dumps({"home": str(tmp_path / "other" / "prefect")}),
        }

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.bodies.get(self.path, "true").encode())

    port = run_server(PrefectServer)
    home, other = Home(tmp_path / "home", tmp_path), Home(tmp_path / "other", tmp_path)
    api_url = f"http://127.0.0.1:{port}/api"
    assert "up" == PrefectApi.from_environment(home).get_state()
    LocalStack.write(other, {"prefect": f"http://127.0.0.1:{port}"})
    assert "other_home" == PrefectApi.from_environment(home).get_state()
    assert "up" == PrefectApi.from_environment(other).get_state()
    assert not connect._is_up(api_url, home=home)
    (result,) = run_check(home, "prefect", "server")
    assert "belongs to the relearn up of another home" in result.message
    assert "--prefect-port" in result.fix
    with (
        pytest.raises(InfrastructureError, match=f"port {port}: .*--prefect-port"),
        run_services(home, services(home, "digits", ServeConfig(), port, find_free_port(), find_free_port())),
    ):
        pass
    monkeypatch.setenv("PREFECT_API_URL", api_url)
    assert "up" == PrefectApi.from_environment(home).get_state()
