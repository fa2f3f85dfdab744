"""`relearn run`, `train` and `evaluate`: training and evaluation."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from relearn.flows import system_limits
from relearn.flows.cli import releases
from relearn.flows.cli.config_sources import config_sources
from relearn.flows.cli.next_steps import print_next_steps, relearn_command
from relearn.flows.cli.prefect_context import prefect_context
from relearn.flows.config import PromotionConfig
from relearn.flows.console import make_console, print_warning
from relearn.flows.rendering import Table
from relearn.model.config import TrainConfig
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.results import RetrainResult, TrainResult

Config = Annotated[TrainConfig, Parameter(name="*")]


def run(
    *,
    networks: Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))] = (),
    config: Config = TrainConfig(),
    gate: releases.Gate = PromotionConfig(),
) -> None:
    """Train networks, and release the best one if the gate promotes it.

    Parameters
    ----------
    networks
        Networks to train, e.g. `--networks mlp cnn`; by default the one of `--network`, else mlp and cnn.
    """
    start, console, home = perf_counter(), make_console(), Home.from_environment()
    system_limits.check_limits()
    from relearn.model.networks.registry import NETWORKS

    networks = networks or ((config.network,) if "network" in config.model_fields_set else tuple(NETWORKS))
    _check(config, networks, home)
    with prefect_context(home, gate) as prefect_ui_url:
        from relearn.flows.retrain import retrain

        # A person typed it: train even if data and settings are unchanged.
        result = cast("RetrainResult", retrain(config, networks, gate, force=True))
    _print_train_results(console, result.train_results, result.best)
    console.print(_format_durations(result.stage_seconds, perf_counter() - start), soft_wrap=True)
    if first := result.release_result.first_prediction_text:
        console.print(first, soft_wrap=True)
    releases.print_result(console, result.release_result, home)
    print_next_steps(console, result, home, prefect_ui_url)
    if config.dataset == "auto" and result.name == "digits":
        console.print(f"MNIST, a download of 11 MB: {relearn_command()} run --dataset mnist", soft_wrap=True)


def _check(config: TrainConfig, networks: Sequence[str], home: Home) -> None:
    """Raise the errors of limits, settings, data and MLflow store before Prefect is started."""
    from relearn.flows.tracking.runs import check_store
    from relearn.flows.training.preconditions import check_inputs
    from relearn.model.data.load import default_model_name

    check_inputs(config, networks, home)
    check_store(home, default_model_name(config, home))


def train(
    *,
    resume: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=(0, 1))] = None,
    config: Config = TrainConfig(),
) -> None:
    """Train one network and evaluate it; nothing is released.

    Parameters
    ----------
    resume
        Continue an interrupted training from its last checkpoint: the run id, by default the latest.
    """
    home = Home.from_environment()
    system_limits.check_limits()
    run_id = None
    if resume is not None:
        run_id, config = _resolve_resume(home, resume, config)
    _check(config, [config.network], home)
    with prefect_context(home):
        from relearn.flows.train import train as train_flow

        result = train_flow(config, run_id)
    console = make_console()
    _print_train_results(console, [result], result)
    console.print(f"Run {result.run_id[:8]}, stopped in epoch {result.epochs}: {result.stop_reason}.")


def _resolve_resume(home: Home, run_refs: Sequence[str], config: TrainConfig) -> tuple[str, TrainConfig]:
    """Return the id of the run to resume, and the config of that run."""
    from relearn.flows.tracking.runs import resolve_run_id
    from relearn.flows.training import resume

    run_id = (
        (resume.find_unfinished(home, run_refs[0]) or resolve_run_id(home, run_refs[0]))
        if run_refs
        else resume.find_latest_unfinished(home)
    )
    # Only settings that the user gave override those of the run; the default preset is not one of them.
    explicit_names = {name for name, source in config_sources.items() if source != "preset default"}
    explicit_settings = {
        name: getattr(config, name) for name in explicit_names if name in TrainConfig.model_fields
    }
    return run_id, resume.load_resume_config(home, run_id, explicit_settings)


def evaluate(run: str, *, dataset: str | None = None) -> None:
    """Evaluate the classifier of a run on images that it has not learned from.

    Parameters
    ----------
    run
        Run id, the beginning of one, or run name.
    dataset
        Dataset whose images are all evaluated, as for `relearn train`, except those that the run learned
        from; the run's own test images by default.
    """
    from relearn.flows.evaluation.evaluate import evaluate_run

    result = evaluate_run(Home.from_environment(), run, dataset)
    evaluation, console = result.evaluation, make_console()
    rows = [
        (row["class"], *(f"{row[key]:.2%}" for key in ("precision", "recall", "f1")), f"{row['support']}")
        for row in evaluation.class_report.to_dict("records")
    ]
    columns = ("class", "precision", "recall", "F1", "images")
    console.print(Table(columns, rows, f"{result.run_name} on {result.dataset}"))
    console.print(result.images, soft_wrap=True)
    console.print(
        Text.assemble(
            (f"Accuracy {evaluation.accuracy_with_interval}", "bold"),
            f", loss {evaluation.loss:.4f}, macro F1 {evaluation.metrics['f1_macro']:.4f}.",
        )
    )


def _print_train_results(
    console: Console, train_results: "Sequence[TrainResult]", best_result: "TrainResult"
) -> None:
    from relearn.flows.training.report import build_networks_table

    console.print(build_networks_table(train_results, best_result))
    for result in train_results:
        for warning in result.warnings:
            print_warning(f"{result.network}: {warning}")


def _format_durations(stage_seconds: Mapping[str, float], total_seconds: float) -> str:
    stages = ", ".join(f"{stage} {duration:.1f}" for stage, duration in stage_seconds.items())
    return (
        f"{total_seconds:.1f} s in all: {stages}, starting and orchestrating"
        f" {total_seconds - sum(stage_seconds.values()):.1f}"
    )
