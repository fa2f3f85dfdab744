"""The documents are correct: every command, flag, variable, path and link in them exists."""

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

from infra.make_docs import build_pages
from relearn.flows.cli.sources import EXTRA_VARIABLES
from relearn.serving import config as serving_config

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


# Flags of the tools and scripts that a document names without their program.
FLAGS_OF_TOOLS = {"--no-services", "--artifacts-destination"}
# RELEARN_SECRETS is for docker-compose.yml.
VARIABLES = {*EXTRA_VARIABLES, "RELEARN_SECRETS"} | {
    value
    for value in vars(serving_config).values()
    if isinstance(value, str) and value.startswith("RELEARN_")
}


def commands_in(document: Path) -> Iterator[str]:
    """Yield the lines of all code blocks of a document, without comments."""
    for block in re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.M | re.S):
        yield from (line.split("#")[0].strip() for line in block.splitlines())


def code_in(document: Path) -> Iterator[str]:
    """Yield all code of a document: the lines of its blocks, and the spans in backticks, each in one line."""
    yield from commands_in(document)
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))


def flags_in(code: str) -> set[str]:
    """Return all `--flags` in a piece of code."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))


def read_flags_of_commands() -> dict[str, set[str]]:
    """Read the flags of every command, such as "feedback review", from the reference page."""
    page = (ROOT / "docs/reference/commands.md").read_text()
    sections = re.split(r"^##+ relearn (.+)$", page, flags=re.M)[1:]
    return {
        name: {"--help", "--version", *flags_in(" ".join(re.findall(r"^\* `(.*?)`:", text, re.M)))}
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }


COMMANDS = read_flags_of_commands()
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}
RUNS = [line for line in commands_in(ROOT / "README.md") if line.startswith("relearn run")]
TARGETS = sorted({line for path in DOCUMENTS for line in commands_in(path) if line.startswith("make ")})
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.mark.parametrize("command", TARGETS)
def test_every_make_command_has_a_target(command: str) -> None:
    """`make --dry-run` accepts each of them."""
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert ".venv/bin/" in done.stdout


def test_reference_pages_are_current() -> None:
    """`make docs` would change nothing."""
    for path, text in build_pages().items():
        assert text == (ROOT / path).read_text(), f"{path} is out of date: run make docs"


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    """Every linked file exists, and every linked heading."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)", document.read_text()):
        assert (document.parent / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (document.parent / target).read_text(), re.M)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"{target}#{anchor}"


@each_document
def test_relearn_commands_exist(document: Path) -> None:
    """Every `relearn …` command line names an existing command, and only flags of that command."""
    for code in code_in(document):
        for line in re.findall(r"(?:^|[ /])relearn((?: [\w…-]\S*| '[^']*'| \"[^\"]*\")+)", code):
            words = line.split()
            name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
            if name[0].islower() and name.isascii():
                assert name in COMMANDS, f"relearn {name}"
                assert flags_in(line) <= COMMANDS[name], line
            elif name.startswith("--"):
                assert name in {*COMMANDS, "--help", "--version"}, name


@each_document
def test_flags_exist(document: Path) -> None:
    """Every flag that stands alone is one of a `relearn` command, or of a listed tool."""
    known = set().union(*COMMANDS.values(), COMMANDS, FLAGS_OF_TOOLS)
    named = set().union(*(flags_in(code) for code in code_in(document) if code.startswith("--")))
    assert named <= known, named - known


@each_document
def test_variables_exist(document: Path) -> None:
    """Every `RELEARN_…` variable is a setting of the reference page or one of the other variables."""
    settings = re.findall(r"^\| `(\w+)`", (ROOT / "docs/reference/settings.md").read_text(), re.M)
    known = VARIABLES | {f"RELEARN_{name.upper()}" for name in settings}
    named = set(re.findall(r"RELEARN_[A-Z_]+\b", document.read_text()))
    assert named <= known, named - known


@each_document
def test_paths_exist(document: Path) -> None:
    """Every path below a folder of the project exists."""
    folders = "model|serving|flows|infra|tests|benchmarks|docs"
    for path in re.findall(rf"(?<![\w/.$-])((?:{folders})/[\w./-]*)", document.read_text()):
        assert (ROOT / path.rstrip(".")).exists(), path


@each_document
def test_modules_exist(document: Path) -> None:
    """Every `python -m MODULE` of the project exists and has the flags that follow it."""
    for module, rest in re.findall(
        r"python -m ((?:relearn|infra|benchmarks)[\w.]*)([^`\n]*)", document.read_text()
    ):
        source = ROOT / f"{module.replace('.', '/')}.py"
        assert source.exists(), module
        assert all(f'"{flag}"' in source.read_text() for flag in flags_in(rest)), rest


@each_document
def test_metrics_exist(document: Path) -> None:
    """Every metric in backticks is on the reference page; `…` stands for any part of a name."""
    metrics = re.findall(r"^\| `(\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.M)
    for code in code_in(document):
        if re.fullmatch(r"relearn_[a-z_…]+", code):
            pattern = re.compile(code.replace("…", r"\w+"))
            assert any(pattern.fullmatch(metric) for metric in metrics), code


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with photos of several sizes, a table of pixels and a custom network."""
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
    """As printed, with 2 epochs if it does not set them: the real server answers at the end."""
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
    assert re.search(r"classified an image of '.+' as '.+'", " ".join(done.stdout.split()))
