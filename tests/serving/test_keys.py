"""Keys: who may ask, and that no key is told anywhere."""

from pathlib import Path

import httpx
import psutil
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.model.errors import ConfigError, UserInputError
from relearn.model.home import Home
from relearn.serving.config import API_KEYS, ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.http import hosts
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.requests import HTTPError

OPEN = ("/livez", "/readyz", "/healthz")
CLOSED = ("/info", "/metrics", "/openapi.json", "/nothing", "/livez/", "/x/livez", "/livez%2f..%2finfo")


def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path):
    """Parted by commas there, one a line here; both hold at the same time."""
    file = tmp_path / "keys"
    file.write_text(f"# old\n{'c' * 16}\n\n{'d' * 40}\n")
    environment = {API_KEYS: f"{'a' * 16}, {'b' * 16},"}

    keys = ApiKeys.from_config(ServeConfig(api_keys_file=file), environment)

    for letter, count in {"a": 16, "b": 16, "c": 16, "d": 40}.items():
        keys.authenticate(request(**{"x-api-key": letter * count}))
    assert not ApiKeys.from_config(ServeConfig(), {})


def request(**headers: str):
    from starlette.requests import Request

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


@pytest.mark.parametrize(
    "key", ["changeme", "x" * 15, "with a space in it", "ümlaute-sind-keine", "tab\tin-a-long-key"]
)
def test_a_weak_key_is_refused_and_not_told(key: str):
    """At least 16 characters that a header can hold; the message does not show the key."""
    with pytest.raises(ConfigError, match=r"API keys: number 2 has \d+ characters, accepted: 16 ") as refused:
        ApiKeys.from_config(ServeConfig(), {API_KEYS: f"{'a' * 16},{key}"})

    assert key not in str(refused.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path):
    """A server does not start without the keys it was to have."""
    with pytest.raises(UserInputError, match=r"api_keys_file: .*nowhere cannot be read: No such file"):
        start_server(
            None, ServeConfig(port=0, api_keys_file=tmp_path / "nowhere"), Home(tmp_path / "home", tmp_path)
        )

    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", ["", "\n", "# all withdrawn\n"])
def test_a_file_without_a_key_is_no_open_door(tmp_path: Path, content: str):
    """A server, or a worker that starts again, does without a file, but not with one that holds nothing."""
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError, match="keys holds no key, accepted: one a line"):
        ApiKeys.from_config(ServeConfig(api_keys_file=file), {API_KEYS: "a" * 16})


@pytest.mark.parametrize(
    ("client", "served"),
    [
        *((client, True) for client in ("127.0.0.1", "::1", "::ffff:127.0.0.1")),
        *((client, False) for client in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7")),
    ],
)
def test_without_keys_only_this_machine_is_answered(client: str, served: bool):
    """Wherever it listens, and whatever Host it is told: a Bento may be started by other programs."""
    from starlette.requests import Request

    asked = Request({"type": "http", "headers": [(b"host", b"localhost")], "client": (client, 50_000)})
    if served:
        hosts.check_trusted_host(asked)
    else:
        with pytest.raises(HTTPError, match="client: got another machine"):
            hosts.check_trusted_host(asked)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_server_for_others_needs_keys(tmp_path: Path, host: str):
    """Without, nothing is started, and the message says where keys go."""
    with pytest.raises(ConfigError, match=f"got {host} without API keys, accepted: .*{API_KEYS}") as refused:
        start_server(None, ServeConfig(host=host, port=0), Home(tmp_path / "home", tmp_path))

    assert 2 == refused.value.exit_code
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("path", OPEN)
def test_health_needs_no_key(guarded: Server, path: str):
    """Whoever watches a server needs no secret."""
    assert 200 == httpx.get(guarded.url + path, trust_env=False).status_code


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_needs_one(guarded: Server, insider: httpx.Client, path: str):
    """By the exact path: what looks like a health check is none. What is there is not told either."""
    answer = httpx.get(guarded.url + path, trust_env=False)

    assert (401, "missing_key") == (answer.status_code, answer.json()["error"]["code"])
    assert "Bearer" == answer.headers["www-authenticate"]
    assert 401 != insider.get(path).status_code


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("header", ["Authorization: Bearer", "authorization: bearer", "X-API-Key:"])
def test_each_key_is_good_in_either_header(guarded: Server, keys: tuple[str, str], which: int, header: str):
    """So that one can be replaced while the other is in use."""
    name, _, scheme = header.partition(":")
    headers = {name: f"{scheme.strip()} {keys[which]}".strip()}

    assert 200 == httpx.get(f"{guarded.url}/info", headers=headers, trust_env=False).status_code


def test_with_a_key_any_host_may_be_named(insider: httpx.Client):
    """A name that leads here from elsewhere is no attack where a page of that name knows no key."""
    assert 200 == insider.get("/info", headers={"host": "digits.example.org"}).status_code


def test_no_key_is_told(guarded: Server, insider: httpx.Client, keys: tuple[str, str]):
    """Not in a log, an answer, a file of the server, or the command line of a process."""
    told = [
        *(insider.get(path).text for path in ("/info", "/metrics", "/openapi.json")),
        *(file.read_bytes().decode("latin-1") for file in guarded.folder.rglob("*") if file.is_file()),
        *(
            " ".join(one.cmdline())
            for one in [psutil.Process(guarded.process.pid), *guarded.worker_processes]
        ),
    ]

    assert guarded.log_file.stat().st_size
    for key in keys:
        assert not any(key in text for text in told)


def test_relearn_config_does_not_tell_keys(
    keys: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """And no warning says that the variable is unknown."""
    monkeypatch.setenv(API_KEYS, ",".join(keys))

    assert 0 == run_command_line(["config"])
    said = capsys.readouterr()
    assert "" == said.err
    assert "epochs" in said.out
    assert not any(key in said.out for key in keys)
