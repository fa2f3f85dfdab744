"""Messages to people, sent by a real Prefect server to a real webhook."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect import flow

from relearn.flows.cli.app import run_command_line
from relearn.flows.cli.sources import NOTIFY_URL
from relearn.flows.orchestration.events import DRIFT_EVENT, RELEASE_EVENT, emit
from relearn.flows.scheduling import notifications

Capture = pytest.CaptureFixture[str]


class Webhook(ThreadingHTTPServer):
    """A server that keeps the messages posted to it; apprise sends to `address`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.messages: list[str] = []
        self.address = f"json://user:secret-word@127.0.0.1:{self.server_address[1]}/hook"

    def wait_for(self, count: int, seconds: float = 40) -> list[str]:
        """Return the messages as soon as there are `count`, and half a second of silence."""
        deadline = time.monotonic() + seconds
        while len(self.messages) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        return sorted(self.messages)


class Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.messages.append(body["message"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def on_server(on_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("PREFECT_API_URL", f"{on_server}/api")
    yield on_server
    notifications.turn_off()


def run_flow(name: str, event: str = "", reason: str = "") -> None:
    """Run a flow that emits an event, or fails without one."""

    @flow(name=name, flow_run_name=f"{name} digits")
    def work() -> None:
        if not event:
            raise ValueError("the disk is full")
        emit(event, "digits", reason)

    if event:
        work()
    else:
        with pytest.raises(ValueError, match="the disk is full"):
            work()


def test_each_event_is_sent_once(webhook: Webhook, on_server: str) -> None:
    """Also if notifications were turned on twice; not those of other programs' flows.

    A release that fails is not reported beside its retraining.
    """
    for _ in range(2):
        notifications.turn_on(webhook.address, 7)
    run_flow("retrain", RELEASE_EVENT, "version 2 is live: +1.5 points")
    run_flow("monitor", DRIFT_EVENT, "3 of 5 tests found drift")
    run_flow("somebody else's", RELEASE_EVENT, "a release of another program")
    for name in ("somebody else's", "release", "retrain"):
        run_flow(name)
    messages = webhook.wait_for(3)
    assert ["digits: 3 of 5 tests found drift", "digits: version 2 is live: +1.5 points"] == messages[:2]
    (failure,) = messages[2:]
    assert failure.startswith("retrain digits failed: ")
    assert "the disk is full" in failure


@pytest.mark.slow
def test_silence_is_sent_once(webhook: Webhook, on_server: str) -> None:
    """Some time after the last candidate of a model was judged."""
    notifications.turn_on(webhook.address, 10 / 86_400)  # Prefect's shortest period
    run_flow("retrain", RELEASE_EVENT, "version 2 is live")
    messages = webhook.wait_for(2)
    assert "digits: version 2 is live" == messages[1]
    assert messages[0].startswith("digits: nothing new was trained for ")


def test_command_turns_messages_on_and_off(
    webhook: Webhook, on_server: str, tmp_path: Path, capsys: Capture
) -> None:
    """The test message arrives; the address is printed nowhere."""
    (tmp_path / "address.txt").write_text(f"{webhook.address}\n")
    assert 0 == run_command_line(["notify", "--url-file", str(tmp_path / "address.txt"), "--test"])
    assert ["This is a test: messages of Relearn arrive here."] == webhook.wait_for(1)
    assert 0 == run_command_line(["notify"])
    assert 2 == capsys.readouterr().out.count("messages are on")
    webhook.shutdown()
    webhook.server_close()
    assert 3 == run_command_line(["notify", "--test"])
    assert 0 == run_command_line(["notify", "--off"])
    assert 2 == run_command_line(["notify", "--test"])
    printed = capsys.readouterr()
    assert "no messages are sent" in printed.out
    assert "error[infrastructure]: the address did not take the test message" in printed.err
    assert "error[user_input]: --test: got no address" in printed.err
    assert "secret-word" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("https//x:secret-word", "one without a scheme"),
        ("nothing://secret-word", "one of the form nothing://…"),
    ],
)
def test_unusable_address_is_refused(
    address: str, got: str, on_server: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The message says which are accepted, and does not contain the address."""
    monkeypatch.setenv(NOTIFY_URL, address)
    assert 2 == run_command_line(["notify"])
    error = capsys.readouterr().err
    assert f"address of notifications: got {got}, accepted: an address of apprise" in error
    assert "secret-word" not in error
    assert not notifications.is_on()
