"""The box of commands at the end of `relearn run`: each is run as it was printed, on a free port."""

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


def in_a_shell(command: str, ran, clean: dict[str, str]) -> str:
    """What a command prints when it is pasted into a new shell, where `relearn run` was typed."""
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ran.folder, env=clean, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def runs_page(said: dict[str, str]) -> str:
    (command,) = (command for purpose, command in said.items() if purpose.startswith("runs in a browser"))
    return command


def test_the_box_has_every_command(ran) -> None:
    """Serve, ask, look back, compare, and two pages; a command is one line, however long."""
    assert [
        "serve it",
        "ask it",
        "what was decided",
        "compare runs",
        "runs in a browser",
        "flows in a browser",
    ] == list(ran.box)


def test_history_tells_of_the_release(ran, clean: dict[str, str]) -> None:
    """One decision so far, its reason and what is live."""
    printed = in_a_shell(ran.box["what was decided"], ran, clean)
    assert "promote 1 " in printed
    assert "version 1 is live" in printed
    assert "the first release under this name" in printed


def test_the_box_says_where_the_runs_are_shown(ran) -> None:
    """The page of the retraining, in the view that is for trainings."""
    assert re.search(
        r"# runs in a browser, at http://127.0.0.1:5000/#/experiments/1/runs/[0-9a-f]{32}"
        r"\?workflowType=machine_learning\n",
        ran.output,
    )


@pytest.mark.needs("curl")
def test_serve_and_curl_give_the_label(ran, served: str, clean: dict[str, str]) -> None:
    """The picture of the box is the first test image; the answer is the one that the run has shown."""
    printed = ran.box["ask it"]
    assert " http://127.0.0.1:3000/predict" in printed
    answer = json.loads(in_a_shell(printed.replace("http://127.0.0.1:3000", served), ran, clean))

    (prediction,) = answer["predictions"]
    assert "1" == answer["version"]
    assert f"said {prediction['label']!r} with" in " ".join(ran.output.split())


def test_compare_prints_both_networks(ran, clean: dict[str, str]) -> None:
    """A column for each run, with what differs."""
    printed = in_a_shell(ran.box["compare runs"], ran, clean)
    rows = {cells[1].strip(): cells[2:] for line in printed.splitlines() if len(cells := line.split("│")) > 3}

    assert "best first, by test_accuracy" in printed
    parameters = dict(zip(map(str.strip, rows["network"]), map(str.strip, rows["parameters"]), strict=True))
    assert ("407050", "542230") == (parameters["mlp"], parameters["cnn"])


def test_mlflow_shows_the_runs_and_hands_out_their_files(ran, mlflow_page: str) -> None:
    """The page, the runs of the experiment, a figure of a run and the card of its classifier."""
    with httpx.Client(base_url=mlflow_page, timeout=30) as client:
        assert "<html" in client.get("/").text
        api = "/api/2.0/mlflow"
        experiment = client.get(f"{api}/experiments/get-by-name", params={"experiment_name": "digits"}).json()
        asked = {
            "experiment_ids": [experiment["experiment"]["experiment_id"]],
            "filter": "tags.`relearn.job_type` = 'train'",
        }
        runs = client.post(f"{api}/runs/search", json=asked).json()["runs"]
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


def test_prefect_shows_the_flow(prefect_page: str) -> None:
    """The page, and the run of the flow as completed."""
    assert "<html" in httpx.get(prefect_page).text.lower()
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    asked = {"flows": {"name": {"any_": ["retrain"]}}, "flow_runs": completed}
    (run,) = httpx.post(f"{prefect_page}/api/flow_runs/filter", json=asked).json()

    assert ("retrain on digits", "COMPLETED") == (run["name"], run["state"]["type"])


def test_the_pages_leave_nothing_beside_the_home(ran, mlflow_page: str, prefect_page: str) -> None:
    """Where the commands are pasted, no folder appears."""
    assert {"home"} == {path.name for path in ran.folder.iterdir() if path.suffix != ".log"}


@pytest.fixture
def done() -> RetrainResult:
    trained = TrainResult(
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
        train_results=(trained,),
        best=trained,
        release_result=ReleaseResult(
            name="digits",
            run_id="a" * 32,
            gate_decision=GateDecision(action="promote", reasons=("better",), checks=()),
            live_version="1",
        ),
        stage_seconds={},
    )


def test_servers_that_are_there_are_opened_and_not_started(
    done: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs on a tracking server and flows on a Prefect server have their pages already."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@runs.example")
    said = build_commands(done, Home(tmp_path, tmp_path), "http://flows.example")

    assert runs_page(said).endswith("/python -m webbrowser 'http://runs.example/#/experiments/1/runs/bb'")
    assert said["flows in a browser"].endswith("/python -m webbrowser http://flows.example")


def test_the_password_of_a_database_is_not_printed(
    done: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command names the variable that holds it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:s3cret@db/runs")
    said = build_commands(done, Home(tmp_path, tmp_path), None)

    assert runs_page(said).endswith('--backend-store-uri "$MLFLOW_TRACKING_URI"')
    assert "s3cret" not in " ".join(said.values())


def test_the_home_is_named_where_it_is_not_the_usual_one(
    done: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new shell does not know what stood before `relearn run`; what a shell would split is quoted."""
    home = tmp_path / "a home"
    monkeypatch.setenv("RELEARN_HOME", str(home))
    named = build_commands(done, Home(home, home), None)
    monkeypatch.delenv("RELEARN_HOME")
    usual = build_commands(done, Home(home, home), None)

    assert named["serve it"].startswith(f"RELEARN_HOME='{home}' ")
    assert usual["serve it"].endswith("/relearn serve --model-name digits")
    assert "RELEARN_HOME" not in usual["compare runs"]
    assert f"@'{home}/releases/digits/example.png' " in usual["ask it"]
    assert f"PREFECT_HOME='{home}/prefect' " in usual["flows in a browser"]
    assert f"'sqlite:///{home}/mlflow.db'" in runs_page(usual)


def test_the_picture_of_the_box_is_one_of_the_dataset(ran) -> None:
    """28 × 28 grey pixels, as the test image that it is."""
    with Image.open(ran.home.root / "releases" / "digits" / "example.png") as picture:
        assert ((28, 28), "L") == (picture.size, picture.mode)
