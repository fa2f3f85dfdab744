"""The documents do not lie: what they tell to type works, and what they point at is there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from infra.reference import build_pages

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]
RELEARN = str(Path(sys.executable).parent / "relearn")

DEEP = """
import torch
from torch import nn


class Deep(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        inputs = shape[0] * shape[1] * shape[2]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, classes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)
"""


def typed(document: Path) -> Iterator[str]:
    """The commands in the blocks of a document, without what stands beside them."""
    for block in re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.M | re.S):
        yield from (line.split("#")[0].strip() for line in block.splitlines())


RUNS = [line for line in typed(ROOT / "README.md") if line.startswith("relearn run")]
TARGETS = sorted({line for path in DOCUMENTS for line in typed(path) if line.startswith("make ")})


@pytest.mark.parametrize("command", TARGETS)
def test_every_make_command_has_a_target(command: str) -> None:
    """`make` knows what it would do, for each of them."""
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert ".venv/bin/" in done.stdout


def test_reference_pages_are_current() -> None:
    """`make docs` would change nothing."""
    for path, text in build_pages().items():
        assert text == (ROOT / path).read_text(), f"{path} is out of date: run make docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every file that is linked or shown is there."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of several sizes, a table of pixels, and a network of one's own."""
    folder = tmp_path_factory.mktemp("workplace")
    digits, labels = load_digits(return_X_y=True)
    pixels = (digits * 15).astype(np.uint8)
    for number in range(400):
        label, eight = labels[number], pixels[number].reshape(8, 8)
        size = 40 + number % 5 * 12
        photo = Image.fromarray(np.stack([eight, 255 - eight, eight // 2], axis=-1)).resize((size, size + 8))
        path = folder / "photos" / f"digit {label}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    large = [np.asarray(Image.fromarray(eight.reshape(8, 8)).resize((28, 28))).ravel() for eight in pixels]
    table = pd.DataFrame(np.stack(large), columns=[f"pixel{column}" for column in range(784)])
    table.insert(0, "label", labels)
    table.to_csv(folder / "train.csv", index=False)
    (folder / "my_networks.py").write_text(DEEP)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_a_run_of_the_readme_ends_with_an_answer(
    command: str, workplace: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As printed, with few epochs where it does not say how many: the real server answers at the end."""
    environment = {**os.environ, "RELEARN_HOME": str(tmp_path / "home"), "RELEARN_EPOCHS": "2"}
    environment["PREFECT_SERVER_API_PORT"] = "9"  # not a server that runs here by chance
    if "mnist" in command:
        environment["RELEARN_DATA"] = str(request.getfixturevalue("real_data"))
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [RELEARN, *arguments],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert re.search(r"predicted '.+' with", " ".join(done.stdout.split()))
