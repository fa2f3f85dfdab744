"""Promise of class and file names: they are data in every output, and nothing interprets them."""

import asyncio
import csv
import html
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from relearn.flows.cli.app import run_command_line
from relearn.flows.terminal.rendering import Table, bullets
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.model.config import TrainConfig
from relearn.model.errors import DataError
from relearn.model.evaluation.metrics import Evaluation, evaluate
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.plots import contact_sheet, eda, evaluation
from relearn.model.preparation.eda import label_counts
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset
from relearn.model.text import escape_controls
from relearn.serving.api.app import PredictionApp
from relearn.serving.api.guard import RequestGuard
from relearn.serving.config import ServeConfig
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir
from tests.flows.zoo import Zoo

NAMES = tuple(
    sorted(
        [
            *("<img src=x onerror=alert(1)>", "&amp;", "[red]x[/red]", ":smile:", "| a | b", "`x`", "=1+1"),
            *("-h", "$(id)", "${HOME}", "$x^2$", "%s", "{0}", "../x", "two\nlines", "a\tb", "\x1b[31mred"),
            *("\u202eright\u200fleft", "'; DROP TABLE runs; --", "C:\\x"),
        ]
    )
)
ELEMENTS = {"h2", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "p"}  # of the reports
FORMULA = re.compile(r"[=+\-@\t\r](?!\d+(\.\d+)?$)")


@dataclass(frozen=True)
class Outputs:
    """A data set of hostile names, what the commands printed about it, and a network for it."""

    source: Path
    printed: dict[str, str]
    prepared: PreparedDataset
    classifier: Classifier
    evaluation: Evaluation
    artifacts: Path


@pytest.fixture
def outputs(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Outputs:
    """Inspect, explore and evaluate images whose classes and files have these names."""
    monkeypatch.setenv("COLUMNS", "400")
    source = tmp_path / "[b]$(id) <i>"
    write_images(source)
    toml = tmp_path / "dataset.toml"
    printed = {}

    def run_command(name: str, *arguments: str) -> None:
        assert 0 == run_command_line([*name.split(), *arguments]), capsys.readouterr().err
        printed[name] = capsys.readouterr().out

    run_command("data inspect", str(source), "--save", str(toml))
    run_command("data eda", "--dataset", str(toml), "--images", "4")
    config = TrainConfig(dataset=str(toml), hidden_sizes=(8,))
    prepared = prepare_dataset(config, zoo.home)
    network = build_network(config, prepared.shape, len(NAMES))
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))
    experiment = Experiment.open_or_create(zoo.home, prepared.name)
    with experiment.start_run("names", {"relearn.job_type": "train"}) as run:
        run.log_dataset(prepared)
        run.log_data_files(prepared)
        registry.log_classifier(run, classifier, prepared.splits.train_val_hashes)
    run_command("evaluate", run.id)
    scored = evaluate(classifier, prepared.splits.test)
    return Outputs(source, printed, prepared, classifier, scored, zoo.home.artifacts)


def write_images(folder: Path) -> None:
    """Write eight images of each class, a file of two classes, and their list."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for label, name in enumerate(NAMES):
        for index in range(8):
            file = f"x{name}{index}.png".replace("/", "_").replace("\\", "_")
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            pixels[label % 8] = 255
            Image.fromarray(pixels).save(folder / file)
            rows.append({"file_name": file, "label": name})
    for row in rows[:24:8]:  # findings name the files and the classes
        copy = f"copy {row['file_name']}"
        (folder / copy).write_bytes((folder / row["file_name"]).read_bytes())
        rows.append({"file_name": copy, "label": NAMES[-1]})
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_names_are_data_in_every_output(outputs: Outputs) -> None:
    """Terminal, files, figures, Markdown and HTTP have each name as it is, or as they escape it."""
    check_terminal(outputs)
    check_files(outputs)
    check_figures(outputs)
    check_markdown(outputs)
    check_http(outputs)


def check_terminal(outputs: Outputs) -> None:
    """No printed character is a command to the terminal, and no name is missing or interpreted."""
    for command, text in outputs.printed.items():
        unprintable = {character for character in text if not (character.isprintable() or character == "\n")}
        assert not unprintable, command
    for name in NAMES:
        assert f" {escape_controls(name)} " in outputs.printed["data eda"]
    hardest = outputs.evaluation.class_report["class"].iloc[0]
    assert escape_controls(hardest) in outputs.printed["evaluate"]
    assert len(outputs.printed["data inspect"].splitlines()) < 12


def check_files(outputs: Outputs) -> None:
    """The description, the card and all CSV files have each name; in a CSV none is a formula."""
    (toml,) = outputs.artifacts.rglob("dataset.toml")
    assert sorted(NAMES) == sorted(tomllib.loads(toml.read_text())["classes"])
    (card,) = (file for file in outputs.artifacts.rglob("card.json") if "img src" in file.read_text())
    assert sorted(NAMES) == sorted(json.loads(card.read_text())["classes"])
    home = outputs.artifacts.parent
    tables = [*home.rglob("images.csv"), *home.rglob("labels.csv")]
    assert len(tables) >= 3
    for file in home.rglob("*.csv"):
        with file.open(newline="", encoding="utf-8") as lines:
            cells = [cell for row in csv.reader(lines) for cell in row]
        assert not [cell for cell in cells if FORMULA.match(cell)], file
        if file in tables:
            assert set(NAMES) <= {re.sub(r"^'(?=[=@-])", "", cell) for cell in cells}, file


def check_figures(outputs: Outputs) -> None:
    """No text of a figure is a formula or has a control character, and the names are drawn."""
    splits, scored = outputs.prepared.splits, outputs.evaluation
    counts = label_counts(splits, outputs.prepared.classes)
    entries = [(np.zeros((1, 8, 8), np.uint8), [name, name], False) for name in NAMES]
    figures = [
        evaluation.plot_confusion_matrix(scored.confusion_matrix, outputs.prepared.classes),
        evaluation.plot_class_report(scored.class_report),
        evaluation.plot_worst_errors(splits.test.images, scored.misclassified),
        eda.plot_label_distribution(counts),
        eda.plot_image_grid(splits.train, outputs.prepared.classes, 25, 0),
        contact_sheet.plot_contact_sheet("names", entries),
    ]
    for figure in figures:
        texts = list_texts(figure)
        assert any("red" in text for text in texts)
        assert not [text for text in texts if is_math_text(text) or not text.replace("\n", "").isprintable()]


def list_texts(figure: Figure) -> list[str]:
    """Lay out a figure and list its texts."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text)]  # type: ignore[attr-defined]


def check_markdown(outputs: Outputs) -> None:
    """Reports, which MLflow and Prefect render with their HTML, have each name as text."""
    table = Table(("class", "n"), [(name, "1") for name in NAMES]).to_markdown()
    findings = bullets([str(finding) for finding in outputs.prepared.findings])
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(f"{table}\n\n{findings}")
    cells = [html.unescape(cell) for cell in re.findall(r'<td style="text-align:left">(.*?)</td>', rendered)]
    assert [escape_controls(" ".join(name.split())) for name in NAMES] == cells
    assert set(re.findall(r"<(\w+)", rendered)) <= ELEMENTS


def check_http(outputs: Outputs) -> None:
    """Answers are JSON with the names in it; no page has one."""
    app = PredictionApp(ServeConfig(), WorkerStatusDir(outputs.source.parent), ApiKeys([]))
    app.set_model(ServedModel.from_classifier("1", outputs.classifier))

    async def send() -> dict[str, httpx.Response]:
        transport = httpx.ASGITransport(RequestGuard(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            responses = {
                path: await client.get(path) for path in ("/draw", "/docs", "/info", "/openapi.json")
            }
            body = {"images": [list(range(0, 128, 2))]}
            return responses | {"/predict": await client.post("/predict", json=body)}

    responses = asyncio.run(send())
    for path, response in responses.items():
        assert response.is_success, response.text
        is_json = response.headers["content-type"] == "application/json"
        assert is_json or "img src=x" not in response.text, path
        assert "nosniff" == response.headers["x-content-type-options"]
    assert list(outputs.prepared.classes) == responses["/info"].json()["classifier"]["classes"]
    assert set(NAMES) == set(responses["/predict"].json()["predictions"][0]["probabilities"])
    schema = responses["/openapi.json"].json()["components"]["schemas"]["FeedbackRequest"]
    assert list(outputs.prepared.classes) == schema["properties"]["label"]["enum"]


def test_errors_are_one_line_of_text() -> None:
    """A name in a message adds no line, and no command to the terminal."""
    assert str(DataError(f"got {NAMES}\x1b[2J\u202e\nnext")).isprintable()
