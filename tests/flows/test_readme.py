"""Commands of the README that send requests to a server."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[2] / "README.md"
CURL_COMMANDS = re.findall(r"^curl .*?(?=\s+#|$)", README.read_text(), re.M)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("command", CURL_COMMANDS)
def test_curl_command_of_readme_succeeds(command: str, served: str, tmp_path: Path) -> None:
    """As printed, except for the port and a request id in place of `…`."""
    for name in re.findall(r"@(\S+)", command):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (60, 80), 200).save(tmp_path / name)
    words = shlex.split(command.replace("http://127.0.0.1:3000", served).replace("…", "a-request"))
    completed = subprocess.run(
        [*words, "--silent", "--write-out", "\n%{http_code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "200" == completed.stdout.splitlines()[-1], completed.stdout
    assert '"worker":1' in completed.stdout
