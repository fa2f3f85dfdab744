"""Retrain flow: train several networks on the same data and release the best one."""

from collections.abc import Sequence
from pathlib import Path

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Completed

from relearn.flows.config import PromotionConfig
from relearn.flows.console import Stopwatch
from relearn.flows.orchestration.connect import prefect_errors
from relearn.flows.release import release
from relearn.flows.results import RetrainResult, TrainResult
from relearn.flows.shutdown import add_resume_hint
from relearn.flows.tracking.run_names import build_flow_run_name, build_retrain_run_name
from relearn.flows.tracking.runs import FLOW_RUN_TAG, Experiment, Run, attach_run, get_last_feedback_decision
from relearn.flows.train import DEFAULT_CONFIG, load_data, train_and_evaluate
from relearn.flows.training.preconditions import check_inputs
from relearn.flows.training.report import to_markdown
from relearn.flows.training.skip_conditions import (
    build_input_tag,
    describe_identical_retraining,
    describe_superseding_run,
)
from relearn.model.config import TrainConfig
from relearn.model.data.eda import eda_tables
from relearn.model.data.load import default_model_name
from relearn.model.data.prepared import PreparedDataset, load_prepared
from relearn.model.home import Home
from relearn.model.plots.eda import plot_eda

DEFAULT_NETWORKS = ("mlp", "cnn")


@flow(name="retrain", flow_run_name=build_flow_run_name)
@prefect_errors()
def retrain(
    config: TrainConfig = DEFAULT_CONFIG,
    networks: tuple[str, ...] = DEFAULT_NETWORKS,
    promotion: PromotionConfig = PromotionConfig(),
    force: bool = False,
) -> RetrainResult | State[None]:
    """Train and evaluate each network; release the best on validation if the gate promotes it.

    Without `force` the run is skipped if data and settings are those of the last retraining.
    """
    stopwatch, home = Stopwatch(), Home.from_environment()
    if superseded_reason := describe_superseding_run():
        return skip(superseded_reason)
    check_inputs(config, networks, home)
    name = default_model_name(config, home)
    experiment = Experiment.open_or_create(home, name)
    earlier_train_run = experiment.find_by_flow_run(str(flow_run.id), "train")
    with stopwatch.stage("data"):
        # A retry uses the feedback of its first attempt; later decisions are for the next retraining.
        last_decision = (
            get_last_feedback_decision(home, earlier_train_run.info.run_id) if earlier_train_run else None
        )
        folder = load_data(config, last_decision, for_release=True)
    prepared = load_prepared(folder)
    input_tags = build_input_tag(config, networks, promotion, prepared.fingerprint)
    if not force and (unchanged_reason := describe_identical_retraining(experiment, input_tags)):
        return skip(unchanged_reason)
    tags = {"relearn.job_type": "retrain", FLOW_RUN_TAG: str(flow_run.id)} | input_tags
    earlier_run = experiment.find_by_flow_run(str(flow_run.id), "retrain")
    with experiment.start_run(
        build_retrain_run_name(name),
        tags,
        resume_run_id=earlier_run.info.run_id if earlier_run else None,
    ) as parent_run:
        with stopwatch.stage("eda"):
            log_eda(folder, parent_run.id)
        train_results = []
        for network in networks:
            with stopwatch.stage(f"training {network}"):
                train_results.append(
                    train_and_evaluate(config.model_copy(update={"network": network}), folder, parent_run.id)
                )
        best = select_best(train_results, config.monitor)
        with add_resume_hint(f"relearn release {best.run_id[:8]} evaluates and serves what was trained"):
            release_result = release(best.run_id, promotion)
        stage_seconds = stopwatch.seconds | release_result.stage_seconds
        parent_run.log_metrics(
            {f"time/{stage} seconds": duration_seconds for stage, duration_seconds in stage_seconds.items()}
        )
        result = RetrainResult(
            name=name,
            url=parent_run.url,
            train_results=tuple(train_results),
            best=best,
            release_result=release_result,
            stage_seconds=stage_seconds,
        )
        publish_retraining_report(parent_run, result, prepared)
    return result


def skip(reason: str) -> State[None]:
    """Return the final state Completed "Skipped" for a run with nothing to do; log `reason`."""
    get_run_logger().info(f"Skipped: {reason}.")
    return Completed(name="Skipped", message=reason)


@task(task_run_name="log-eda")
def log_eda(folder: Path, run_id: str) -> None:
    """Log figures and tables of the data prepared in `folder` to the run `run_id`."""
    prepared, run = load_prepared(folder), attach_run(Home.from_environment(), run_id)
    for name, figure in plot_eda(prepared).items():
        run.log_figure(figure, f"data/{name}.png")
    for name, table in eda_tables(prepared).items():
        run.log_table(table, f"data/{name}.csv")


def select_best(train_results: Sequence[TrainResult], monitor: str) -> TrainResult:
    """Return the result with the best `monitor` value on the validation images."""
    if monitor == "val_accuracy":
        return max(train_results, key=lambda result: result.val_accuracy)
    return min(train_results, key=lambda result: result.val_loss)


def publish_retraining_report(run: Run, result: RetrainResult, prepared: PreparedDataset) -> None:
    """Write the report of the retraining to its MLflow run and to Prefect."""
    markdown = to_markdown(result, prepared)
    run.set_description(markdown)
    create_markdown_artifact(markdown, key="retraining", description=f"Result of retraining {result.name}")
