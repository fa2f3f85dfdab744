"""API keys: which requests they allow, and that no key is ever shown."""

from pathlib import Path

import httpx
import psutil
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.model.errors import ConfigError, UserInputError
from relearn.model.home import Home
from relearn.serving.config import API_KEYS, ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.http.api_keys import ApiKeys

PUBLIC_PATHS = ("/livez", "/readyz", "/healthz")
PROTECTED_PATHS = (
    "/info",
    "/metrics",
    "/openapi.json",
    "/nothing",
    "/livez/",
    "/x/livez",
    "/livez%2f..%2finfo",
)


def test_keys_come_from_environment_and_file(tmp_path: Path):
    """Keys from the variable, separated by commas, and from the file, one per line, are valid together."""
    file = tmp_path / "keys"
    file.write_text(f"# old\n{'c' * 16}\n\n{'d' * 40}\n")
    environment = {API_KEYS: f"{'a' * 16}, {'b' * 16},"}

    api_keys = ApiKeys.from_config(ServeConfig(api_keys_file=file), environment)

    for letter, count in {"a": 16, "b": 16, "c": 16, "d": 40}.items():
        api_keys.authenticate(build_request(**{"x-api-key": letter * count}))
    assert not ApiKeys.from_config(ServeConfig(), {})


def build_request(**headers: str):
    from starlette.requests import Request

    raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw_headers})


@pytest.mark.parametrize(
    "key", ["changeme", "x" * 15, "with a space in it", "ümlaute-sind-keine", "tab\tin-a-long-key"]
)
def test_weak_key_is_rejected_and_not_shown(key: str):
    """A key needs at least 16 characters of a header; the message does not show the key."""
    with pytest.raises(
        ConfigError, match=r"API keys: number 2 has \d+ characters, accepted: at least 16 "
    ) as error_info:
        ApiKeys.from_config(ServeConfig(), {API_KEYS: f"{'a' * 16},{key}"})

    assert key not in str(error_info.value)


def test_unreadable_key_file_prevents_the_start(tmp_path: Path):
    """A server does not start without its key file."""
    with pytest.raises(UserInputError, match=r"api_keys_file: .*nowhere cannot be read: No such file"):
        start_server(
            None, ServeConfig(port=0, api_keys_file=tmp_path / "nowhere"), Home(tmp_path / "home", tmp_path)
        )

    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", ["", "\n", "# all withdrawn\n"])
def test_key_file_without_keys_is_rejected(tmp_path: Path, content: str):
    """A server or a restarted worker may have no key file, but not an empty one."""
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError, match="keys has no key, accepted: one per line"):
        ApiKeys.from_config(ServeConfig(api_keys_file=file), {API_KEYS: "a" * 16})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_public_server_needs_keys(tmp_path: Path, host: str):
    """Without keys nothing is started, and the message says where to set them."""
    with pytest.raises(
        ConfigError, match=f"got {host} without API keys, accepted: .*{API_KEYS}"
    ) as error_info:
        start_server(None, ServeConfig(host=host, port=0), Home(tmp_path / "home", tmp_path))

    assert 2 == error_info.value.exit_code
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("path", PUBLIC_PATHS)
def test_health_needs_no_key(server_with_keys: Server, path: str):
    """Health checks work without a key."""
    assert 200 == httpx.get(server_with_keys.url + path, trust_env=False).status_code


@pytest.mark.parametrize("path", PROTECTED_PATHS)
def test_every_other_path_needs_a_key(server_with_keys: Server, client_with_key: httpx.Client, path: str):
    """Paths are compared exactly; unknown paths get 401 too, so that nobody learns which exist."""
    response = httpx.get(server_with_keys.url + path, trust_env=False)

    assert (401, "missing_key") == (response.status_code, response.json()["error"]["code"])
    assert "Bearer" == response.headers["www-authenticate"]
    assert 401 != client_with_key.get(path).status_code


@pytest.mark.parametrize("key_index", [0, 1])
@pytest.mark.parametrize("header", ["Authorization: Bearer", "authorization: bearer", "X-API-Key:"])
def test_each_key_is_valid_in_either_header(
    server_with_keys: Server, api_keys: tuple[str, str], key_index: int, header: str
):
    """Both keys are valid at once, so that one can be replaced while the other is in use."""
    name, _, scheme = header.partition(":")
    headers = {name: f"{scheme.strip()} {api_keys[key_index]}".strip()}

    assert 200 == httpx.get(f"{server_with_keys.url}/info", headers=headers, trust_env=False).status_code


def test_request_with_key_may_name_any_host(client_with_key: httpx.Client):
    """The Host header is not checked on a server with keys: a rebound page knows no key."""
    assert 200 == client_with_key.get("/info", headers={"host": "digits.example.org"}).status_code


def test_no_key_is_shown(server_with_keys: Server, client_with_key: httpx.Client, api_keys: tuple[str, str]):
    """No key appears in logs, responses, files of the server or command lines of processes."""
    texts = [
        *(client_with_key.get(path).text for path in ("/info", "/metrics", "/openapi.json")),
        *(
            file.read_bytes().decode("latin-1")
            for file in server_with_keys.folder.rglob("*")
            if file.is_file()
        ),
        *(
            " ".join(process.cmdline())
            for process in [psutil.Process(server_with_keys.process.pid), *server_with_keys.worker_processes]
        ),
    ]

    assert server_with_keys.log_file.stat().st_size
    for key in api_keys:
        assert not any(key in text for text in texts)


def test_relearn_config_does_not_show_keys(
    api_keys: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """`relearn doctor --settings` shows no key, and no warning calls the variable unknown."""
    monkeypatch.setenv(API_KEYS, ",".join(api_keys))

    assert 0 == run_command_line(["doctor", "--settings"])
    output = capsys.readouterr()
    assert "" == output.err
    assert "epochs" in output.out
    assert not any(key in output.out for key in api_keys)
