"""The clients of docs/guides/serve.md, sent to a real server."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relearn.model.inference.classifier import Classifier
from relearn.serving.deployment.server import Server

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text()
# The program that runs a block of this language from its standard input.
PROGRAMS = {
    "sh": ["sh", "-e"],
    "python": [sys.executable, "-"],
    "js": ["node", "--input-type=module", "-"],
}


def run_client(language: str, server: Server, folder: Path, pixels: list[int]) -> tuple[int, str, str]:
    """Run the guide's first block in this language; return exit code, output and errors."""
    block = re.search(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert block
    code = block[1].replace("http://127.0.0.1:3000", server.url)
    if language == "js":
        code = f"const pixels = {pixels};\n{code}"
    done = subprocess.run(
        PROGRAMS[language], cwd=folder, input=code, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "language",
    [
        pytest.param("sh", marks=pytest.mark.needs("curl")),
        "python",
        pytest.param("js", marks=pytest.mark.needs("node")),
    ],
)
def test_client_gets_the_label(
    language: str,
    server: Server,
    classifier: Classifier,
    images: np.ndarray,
    encoded: Callable[..., bytes],
    tmp_path: Path,
):
    """Each client runs as it stands in the guide and shows the label of the image that it sends."""
    (tmp_path / "digit.png").write_bytes(encoded(images[0]))
    (label,) = classifier.to_labels(classifier.predict(images[:1]))

    code, output, errors = run_client(language, server, tmp_path, images[0].ravel().tolist())

    assert 0 == code, errors
    assert (f'"label":"{label}"' in output) if language == "sh" else (label == output.strip())


@pytest.mark.needs("node")
def test_javascript_client_shows_the_error(server: Server, tmp_path: Path):
    """A refused request ends the client with the server's message."""
    code, _, errors = run_client("js", server, tmp_path, [0] * 783)

    assert code
    assert "Error: images: got 783, accepted: one image or several" in errors
