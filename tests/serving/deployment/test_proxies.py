"""The proxies of docs/guides/serve.md in front of real servers."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from relearn.serving.deployment.server import Server

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "serve.md"
PIXELS = {"images": [0] * 784}


def find_free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def run_proxy(program: str, server: Server, folder: Path) -> Iterator[str]:
    """Start `program` with its configuration in the guide; yield its URL as soon as it answers."""
    port = find_free_port()
    config = re.search(rf"```{program}\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    config = config.replace("8080", f"127.0.0.1:{port}" if program == "nginx" else str(port))
    config = config.replace("127.0.0.1:3000", f"127.0.0.1:{server.address[1]}")
    paths = "".join(
        f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    if program == "nginx":
        config = f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {paths} {config} }}"
    file = folder / "proxy.conf"
    file.write_text(config)
    command = {
        "nginx": ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)],
        "haproxy": ["haproxy", "-db", "-f", str(file)],
    }[program]
    with subprocess.Popen(command) as process:
        try:
            transport = httpx.HTTPTransport(retries=5)
            with httpx.Client(transport=transport, trust_env=False) as client:
                client.get(f"http://127.0.0.1:{port}/livez")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.mark.parametrize(
    "program", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("nginx", "haproxy")]
)
def test_proxy_needs_keys(
    program: str, server: Server, server_with_keys: Server, api_keys: tuple[str, str], tmp_path: Path
):
    """A server without keys refuses every client of the proxy; one with keys answers those with a key."""
    with run_proxy(program, server, tmp_path) as url:
        refused = httpx.post(f"{url}/predict", json=PIXELS, trust_env=False)
    with run_proxy(program, server_with_keys, tmp_path) as url:
        key = {"x-api-key": api_keys[0]}
        answered = httpx.post(f"{url}/predict", json=PIXELS, headers=key, trust_env=False)
        without_key = httpx.post(f"{url}/predict", json=PIXELS, trust_env=False)

    assert [403, 200, 401] == [refused.status_code, answered.status_code, without_key.status_code]
    assert "set RELEARN_API_KEYS" in refused.json()["error"]["message"]
