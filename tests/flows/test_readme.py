"""What the README says to ask a server is answered."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[2] / "README.md"
ASKED = re.findall(r"^curl .*?(?=\s+#|$)", README.read_text(), re.M)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("command", ASKED)
def test_what_the_readme_asks_is_answered(command: str, served: str, tmp_path: Path) -> None:
    """As printed, but for the port, and with a request id where it leaves one out."""
    Image.new("L", (60, 80), 200).save(tmp_path / "photo.jpg")
    words = shlex.split(command.replace("http://127.0.0.1:3000", served).replace("…", "a-request"))
    done = subprocess.run(
        [*words, "--silent", "--write-out", "\n%{http_code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "200" == done.stdout.splitlines()[-1], done.stdout
    assert '"worker":1' in done.stdout
