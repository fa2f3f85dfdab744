"""Commands that `relearn run` prints as next steps: each is run as printed, on a free port."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from relearn.flows.cli.next_steps import build_commands
from relearn.flows.results import GateDecision, ReleaseResult, RetrainResult, TrainResult
from relearn.model.home import Home


def run_in_shell(command: str, ran, clean: dict[str, str]) -> str:
    """Run a command in a new shell, in the folder where `relearn run` was typed; return its output."""
    completed = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ran.folder, env=clean, capture_output=True, text=True, check=False
    )
    assert 0 == completed.returncode, completed.stderr
    return completed.stdout


def mlflow_command(commands: dict[str, str]) -> str:
    """Return the command whose purpose is to show the runs."""
    (command,) = (command for purpose, command in commands.items() if purpose.startswith("runs in a browser"))
    return command


def test_every_command_is_printed(ran) -> None:
    """Serve, classify, history, compare, and two UIs; a command is one line of any length."""
    assert [
        "serve the classifier",
        "classify an image",
        "release history",
        "compare runs",
        "runs in a browser",
        "flows in a browser",
    ] == list(ran.box)


def test_history_shows_the_release(ran, clean: dict[str, str]) -> None:
    """One decision, its reason and the live version."""
    printed = run_in_shell(ran.box["release history"], ran, clean)
    assert "promote 1 " in printed
    assert "version 1 is live" in printed
    assert "the first release of this model" in printed


def test_url_of_the_runs_is_printed(ran) -> None:
    """The page of the retraining in MLflow, in the view for trainings."""
    assert re.search(
        r"# runs in a browser, at http://127.0.0.1:5000/#/experiments/1/runs/[0-9a-f]{32}"
        r"\?workflowType=machine_learning\n",
        ran.output,
    )


@pytest.mark.needs("curl")
def test_printed_curl_command_returns_label(ran, served: str, clean: dict[str, str]) -> None:
    """The example image is the first test image; the prediction is the one that the run has printed."""
    printed = ran.box["classify an image"]
    assert " http://127.0.0.1:3000/predict" in printed
    response = json.loads(run_in_shell(printed.replace("http://127.0.0.1:3000", served), ran, clean))

    (prediction,) = response["predictions"]
    assert "1" == response["version"]
    assert f" as {prediction['label']!r} (probability " in " ".join(ran.output.split())


def test_compare_prints_both_networks(ran, clean: dict[str, str]) -> None:
    """One column per run, with the settings that differ."""
    printed = run_in_shell(ran.box["compare runs"], ran, clean)
    rows = {cells[1].strip(): cells[2:] for line in printed.splitlines() if len(cells := line.split("│")) > 3}

    assert "best first, by test/accuracy" in printed
    parameters = dict(zip(map(str.strip, rows["network"]), map(str.strip, rows["parameters"]), strict=True))
    assert ("407050", "542230") == (parameters["mlp"], parameters["cnn"])


def test_mlflow_shows_runs_and_their_artifacts(ran, mlflow_page: str) -> None:
    """The UI, the runs of the experiment, a figure of a run and the model card of its classifier."""
    with httpx.Client(base_url=mlflow_page, timeout=30) as client:
        assert "<html" in client.get("/").text
        api = "/api/2.0/mlflow"
        experiment = client.get(f"{api}/experiments/get-by-name", params={"experiment_name": "digits"}).json()
        query = {
            "experiment_ids": [experiment["experiment"]["experiment_id"]],
            "filter": "tags.`relearn.job_type` = 'train'",
        }
        runs = client.post(f"{api}/runs/search", json=query).json()["runs"]
        run_id = runs[0]["info"]["run_id"]
        figure = client.get("/get-artifact", params={"run_uuid": run_id, "path": "curves.png"})
        model = runs[0]["outputs"]["model_outputs"][0]["model_id"]
        card = client.get(
            f"/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files",
            params={"artifact_file_path": "card.json"},
        )

    assert 2 == len(runs)
    assert figure.content.startswith(b"\x89PNG")
    assert "digits" == card.json()["dataset"]


def test_prefect_shows_flow_run(prefect_page: str) -> None:
    """The UI, and the flow run in the state completed."""
    assert "<html" in httpx.get(prefect_page).text.lower()
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    query = {"flows": {"name": {"any_": ["retrain"]}}, "flow_runs": completed}
    (run,) = httpx.post(f"{prefect_page}/api/flow_runs/filter", json=query).json()

    assert ("retrain on digits", "COMPLETED") == (run["name"], run["state"]["type"])


def test_servers_write_only_into_the_home(ran, mlflow_page: str, prefect_page: str) -> None:
    """No other file or folder appears where the commands are run."""
    assert {"home"} == {path.name for path in ran.folder.iterdir() if path.suffix != ".log"}


@pytest.fixture
def result() -> RetrainResult:
    """A retraining of one network whose release was promoted."""
    train_result = TrainResult(
        run_id="a" * 32,
        url="http://runs.example/#/experiments/1/runs/aa",
        network="mlp",
        parameter_count=1,
        epochs=1,
        best_epoch=1,
        stop_reason="all epochs done",
        val_loss=0.1,
        val_accuracy=0.9,
        metrics={},
        warnings=(),
        training_seconds=1.0,
        images_per_second=1.0,
    )
    return RetrainResult(
        name="digits",
        url="http://runs.example/#/experiments/1/runs/bb",
        train_results=(train_result,),
        best=train_result,
        release_result=ReleaseResult(
            name="digits",
            run_id="a" * 32,
            gate_decision=GateDecision(action="promote", reasons=("better",), checks=()),
            live_version="1",
        ),
        stage_seconds={},
    )


def test_running_servers_are_opened_not_started(
    result: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracking server and a persistent Prefect server have a UI already."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@runs.example")
    commands = build_commands(result, Home(tmp_path, tmp_path), "http://flows.example")

    assert mlflow_command(commands).endswith(
        "/python -m webbrowser 'http://runs.example/#/experiments/1/runs/bb'"
    )
    assert commands["flows in a browser"].endswith("/python -m webbrowser http://flows.example")


def test_database_password_is_not_printed(
    result: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command uses the variable instead of its value."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:s3cret@db/runs")
    commands = build_commands(result, Home(tmp_path, tmp_path), None)

    assert mlflow_command(commands).endswith('--backend-store-uri "$MLFLOW_TRACKING_URI"')
    assert "s3cret" not in " ".join(commands.values())


def test_home_is_part_of_commands_unless_default(
    result: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new shell lacks a variable set for `relearn run` alone; paths with spaces are quoted."""
    home = tmp_path / "a home"
    monkeypatch.setenv("RELEARN_HOME", str(home))
    custom = build_commands(result, Home(home, home), None)
    monkeypatch.delenv("RELEARN_HOME")
    default = build_commands(result, Home(home, home), None)

    assert custom["serve the classifier"].startswith(f"RELEARN_HOME='{home}' ")
    assert default["serve the classifier"].endswith("/relearn serve --model-name digits")
    assert "RELEARN_HOME" not in default["compare runs"]
    assert f"@'{home}/releases/digits/example.png' " in default["classify an image"]
    assert f"PREFECT_HOME='{home}/prefect' " in default["flows in a browser"]
    assert f"'sqlite:///{home}/mlflow.db'" in mlflow_command(default)


def test_example_image_has_size_of_dataset(ran) -> None:
    """28 × 28 gray pixels, like the test images."""
    with Image.open(ran.home.root / "releases" / "digits" / "example.png") as image:
        assert ((28, 28), "L") == (image.size, image.mode)
