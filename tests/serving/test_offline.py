"""The server on a machine without network access."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relearn.model.home import Home

ROOT = Path(__file__).parents[2]

# Runs in a separate network namespace, where only the loopback interface can be reached.
PROGRAM = """
import fcntl, socket, struct, sys
from pathlib import Path

import httpx

from relearn.model.home import Home
from relearn.serving.deployment.server import run_server
from relearn.serving.config import ServeConfig

with socket.socket() as connection:  # SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(connection, 0x8914, struct.pack("16sH22x", b"lo", 1))
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
except OSError as error:
    print("outside:", error.strerror)
root = Path(sys.argv[1])
with run_server(sys.argv[2], ServeConfig(port=0), Home(root, root)) as url:
    with httpx.Client(base_url=url, trust_env=False) as client:
        print(*[client.get(path).status_code for path in ("/livez", "/readyz", "/info", "/metrics")])
        print(client.post("/predict", json={"images": [0] * 784}).status_code)
        print(client.post("/predict", files={"file": b"http://192.0.2.1/x.png"}).status_code)
"""


@pytest.mark.slow
@pytest.mark.needs("unshare")
def test_server_needs_no_network(bento: str, home: Home, tmp_path: Path):
    """The server starts, is ready and predicts without any reachable machine."""
    result = subprocess.run(
        ["unshare", "--net", "--map-root-user", sys.executable, "-c", PROGRAM, str(home.root), bento],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = ["outside: Network is unreachable", "200 200 200 200", "200", "415"]
    assert expected == result.stdout.splitlines(), result.stderr
