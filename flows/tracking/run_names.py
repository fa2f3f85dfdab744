"""Names of MLflow runs, by job type, and of Prefect's flow runs."""

from relearn.model.config import TrainConfig
from relearn.model.data.load import resolve_source
from relearn.model.home import Home


def build_train_run_name(config: TrainConfig) -> str:
    """Return the name of a training in MLflow, such as "mlp 512 · sgd 0.1 · seed 0"."""
    widths = {"mlp": config.hidden_sizes, "cnn": config.conv_channels}.get(config.network, ())
    network = " ".join(map(str, (config.network, *widths)))
    return f"{network} · {config.optimizer} {config.learning_rate:g} · seed {config.seed}"


def build_retrain_run_name(model_name: str) -> str:
    """Return the name of a retraining in MLflow; its trainings are child runs."""
    return f"retrain on {model_name}"


def build_evaluate_run_name(train_run_name: str, dataset: str) -> str:
    """Return the name of an evaluation of a finished training in MLflow."""
    return f"{train_run_name} on {dataset}"


def build_flow_run_name() -> str:
    """Return the name of the current train or retrain flow run in Prefect, such as "train mlp on mnist".

    Prefect calls it before the flow starts. A retry is the same flow run, and resumes the same MLflow run.
    """
    from prefect.runtime import flow_run

    config = TrainConfig.model_validate(flow_run.parameters["config"])
    network = f" {config.network}" if flow_run.flow_name == "train" else ""
    return f"{flow_run.flow_name}{network} on {resolve_source(config, Home.from_environment())}"
