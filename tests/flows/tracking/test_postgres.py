"""A training with its runs in PostgreSQL survives failures of the database."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from relearn.model.home import Home
from tests.flows.conftest import wait_for_epochs
from tests.flows.postgres import Postgres

RELEARN = str(Path(sys.executable).with_name("relearn"))
EPOCHS = 100


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("failure", ["stopped", "hanging", "disconnected"])
def test_every_epoch_is_logged_once(
    copied: Home, clean: dict[str, str], prefect_server: str, postgres: Postgres, failure: str
) -> None:
    """The training continues meanwhile, and finishes."""
    words = ["train", "--dataset", "digits", "--threads", "1", "--epochs", str(EPOCHS), "--no-early-stopping"]
    variables = {
        "RELEARN_HOME": str(copied.root),
        "PREFECT_API_URL": f"{prefect_server}/api",
        "MLFLOW_TRACKING_URI": postgres.uri,
    }
    with subprocess.Popen(
        [RELEARN, *words], env=clean | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as training:
        wait_for_epochs(copied, 3, training)
        if failure == "stopped":
            postgres.stop("immediate")
        elif failure == "hanging":
            postgres.signal(signal.SIGSTOP)
        else:
            postgres.drop_connections()
        wait_for_epochs(copied, 5, training)
        if failure == "stopped":
            postgres.start()
        elif failure == "hanging":
            postgres.signal(signal.SIGCONT)
        output, errors = training.communicate(timeout=600)
    assert (0, "") == (training.returncode, errors), output

    client = MlflowClient(postgres.uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    history = client.get_metric_history(run.info.run_id, "epoch/val_loss")
    assert list(range(1, EPOCHS + 1)) == [metric.step for metric in history]
    assert "FINISHED" == run.info.status
    assert [] == list(copied.checkpoints.iterdir())
