"""The next command at the end of a command: as it can be pasted in a new shell."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from relearn.flows.terminal.next_step import format_command


def test_run_ends_with_one_command(ran) -> None:
    """It is the last line, and the only one of its kind."""
    (line,) = (line for line in ran.output.splitlines() if line.startswith("Next: "))
    assert line == ran.output.splitlines()[-1]
    assert line.endswith("/relearn up --model-name digits")


def test_command_can_be_pasted(ran, clean: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a new shell, which has neither the variable nor the program on its path."""
    monkeypatch.chdir(ran.folder)
    monkeypatch.setenv("RELEARN_HOME", str(ran.home.root))
    command = format_command("history", "--model-name", "digits")
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ran.folder, env=clean, capture_output=True, text=True, check=True
    )
    assert "version 1 is live" in done.stdout
    assert "the first release of this model" in done.stdout


@pytest.mark.parametrize("name", ["plain", "a home", "it's"])
def test_home_and_program_are_those_in_use(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home as set, quoted; the program by its name if a shell finds this one, else by its path.

    The path is relative to the current folder where the program lies in there.
    """
    program = Path(sys.executable).parent / "relearn"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / name))
    monkeypatch.setenv("PATH", os.defpath)
    assert [f"RELEARN_HOME={tmp_path / name}", str(program), "up"] == shlex.split(format_command("up"))
    monkeypatch.chdir(program.parent)
    assert [f"RELEARN_HOME={tmp_path / name}", "./relearn", "up"] == shlex.split(format_command("up"))
    monkeypatch.chdir(program.parents[1])
    assert "bin/relearn" == shlex.split(format_command("up"))[1]
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.delenv("RELEARN_HOME")
    assert "relearn evaluate 'a run'" == format_command("evaluate", "a run")


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

    assert ("retrain on digits", "COMPLETED") == (run["name"].split(" · ")[0], run["state"]["type"])


def test_example_image_has_size_of_dataset(ran) -> None:
    """28 × 28 gray pixels, like the test images."""
    with Image.open(ran.home.root / "releases" / "digits" / "example.png") as image:
        assert ((28, 28), "L") == (image.size, image.mode)
