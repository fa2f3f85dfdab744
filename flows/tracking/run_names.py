"""Names of MLflow runs, by job type, and of Prefect's flow runs."""

from contextlib import suppress

from relearn.model.config import TrainConfig
from relearn.model.data.load import resolve_source
from relearn.model.home import Home
from relearn.model.networks.pretrained import SCALES


def build_train_run_name(config: TrainConfig) -> str:
    """Return the name of a training in MLflow: "mlp 512 · sgd 0.1 · seed 0", "pretrained · seed 0"."""
    if config.network in SCALES:
        return f"{config.network} · seed {config.seed}"
    widths = {"mlp": config.hidden_sizes, "cnn": config.conv_channels or ()}.get(config.network, ())
    network = " ".join(map(str, (config.network, *widths)))
    return f"{network} · {config.optimizer} {config.learning_rate:g} · seed {config.seed}"


def build_retrain_run_name(model_name: str, number: int, *outcome: str) -> str:
    """Return the name of a retraining in MLflow: "digits #3", at its end "digits #3 · cnn · 97.3 % · held".

    Its trainings are child runs.
    """
    return " · ".join((f"{model_name} #{number}", *outcome))


def build_evaluate_run_name(train_run_name: str, dataset: str) -> str:
    """Return the name of an evaluation of a finished training in MLflow."""
    return f"{train_run_name} on {dataset}"


def add_to_flow_run_name(*outcome: str) -> None:
    """Add what came of the current flow run to its name in Prefect, such as "… · cnn · 97.3 % · held"."""
    import httpx
    from prefect import get_client
    from prefect.runtime import flow_run

    # A server that fails now does not change what was released.
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=" · ".join((flow_run.name, *outcome)))


def build_release_flow_run_name() -> str:
    """Return the name of the current release in Prefect: "release 5b117b61"."""
    from prefect.runtime import flow_run

    return f"release {flow_run.parameters['run_id'][:8]}"


def build_flow_run_name() -> str:
    """Return the name of the current train or retrain flow run in Prefect, such as "train mlp on mnist".

    Prefect calls it before the flow starts. A retry is the same flow run, and resumes the same MLflow run.
    """
    from prefect.runtime import flow_run

    config = TrainConfig.model_validate(flow_run.parameters["config"])
    network = f" {config.network}" if flow_run.flow_name == "train" else ""
    return f"{flow_run.flow_name}{network} on {resolve_source(config, Home.from_environment())}"
