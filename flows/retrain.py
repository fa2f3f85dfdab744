"""Retrain flow: train several networks on the same data and release the best one."""

from collections.abc import Sequence
from pathlib import Path

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Completed

from relearn.flows.config import PromotionConfig
from relearn.flows.orchestration.connect import prefect_errors
from relearn.flows.orchestration.flow_process import record_process
from relearn.flows.process.shutdown import add_resume_hint
from relearn.flows.release import release
from relearn.flows.results import GATE_DECISION_TAG, RetrainResult, TrainResult
from relearn.flows.terminal.console import Stopwatch, print_note, spinner
from relearn.flows.tracking.run_names import (
    add_to_flow_run_name,
    build_flow_run_name,
    build_retrain_run_name,
)
from relearn.flows.tracking.runs import (
    CANDIDATE_TAG,
    FINGERPRINT_TAG,
    FLOW_RUN_TAG,
    NUMBER_TAG,
    Experiment,
    Run,
    attach_run,
    extra_images_tag,
)
from relearn.flows.train import DEFAULT_CONFIG, load_data, train_and_evaluate
from relearn.flows.training.fit_to_data import fit_to_data
from relearn.flows.training.preconditions import check_inputs
from relearn.flows.training.report import to_markdown
from relearn.flows.training.skip_conditions import (
    SKIPPED,
    build_input_tag,
    describe_identical_retraining,
    describe_superseding_run,
    is_requested_by_person,
)
from relearn.model.config import TrainConfig
from relearn.model.data.load import default_model_name
from relearn.model.home import Home
from relearn.model.plots.eda import plot_eda
from relearn.model.preparation.eda import eda_tables
from relearn.model.preparation.prepared import PreparedDataset, load_prepared


@flow(name="retrain", flow_run_name=build_flow_run_name, on_running=[record_process])
@prefect_errors()
def retrain(
    config: TrainConfig = DEFAULT_CONFIG,
    networks: tuple[str, ...] = (),
    promotion: PromotionConfig = PromotionConfig(),
    force: bool = False,
) -> RetrainResult | State[None]:
    """Train and evaluate each network; release the best on validation if the gate promotes it.

    Without `networks` the data decides: `pretrained` for photos, else mlp and cnn. A run that a schedule or
    the monitor requested is skipped if a later one has started, or, without `force`, if data and settings are
    those of the last retraining. A run that a person requested is never skipped.
    """
    stopwatch, home = Stopwatch(), Home.from_environment()
    may_skip = not is_requested_by_person()
    if may_skip and (superseded_reason := describe_superseding_run()):
        return skip(superseded_reason)
    check_inputs(config, networks, home)
    are_chosen_by_data = not networks
    config, networks = fit_to_data(config, networks, home)
    check_inputs(config, networks, home)
    if are_chosen_by_data:
        print_note(f"Networks: {', '.join(networks)} (--network NAME … trains others)")
    name = default_model_name(config, home)
    experiment = Experiment.open_or_create(home, name)
    earlier_run = experiment.find_by_flow_run(str(flow_run.id), "retrain")
    earlier_run_id = earlier_run.info.run_id if earlier_run else None
    with stopwatch.stage("data"):
        # A retry uses the data and the feedback of its first attempt; what came later is for the next one.
        folder = load_data(config, earlier_run_id, promotion)
    prepared = load_prepared(folder)
    input_tags = build_input_tag(config, networks, promotion, prepared.fingerprint)
    if may_skip and not force and (unchanged_reason := describe_identical_retraining(experiment, input_tags)):
        return skip(unchanged_reason)
    earlier_number = earlier_run and earlier_run.data.tags.get(NUMBER_TAG)
    number = int(earlier_number or experiment.next_number("retrain"))
    tags = {
        "relearn.job_type": "retrain",
        NUMBER_TAG: str(number),
        FINGERPRINT_TAG: prepared.fingerprint,
        FLOW_RUN_TAG: str(flow_run.id),
        **extra_images_tag(prepared),
    } | input_tags
    with experiment.start_run(
        build_retrain_run_name(name, number),
        tags,
        resume_run_id=earlier_run_id,
    ) as parent_run:
        parent_run.log_dataset(prepared)
        parent_run.log_params(
            config.model_dump(exclude={"network"})
            | {"networks": " ".join(networks)}
            | {f"promotion/{setting}": value for setting, value in promotion.model_dump().items()}
        )
        with stopwatch.stage("eda"), spinner("Plotting the data"):
            log_eda(folder, parent_run.id)
        train_results = []
        for network in networks:
            with stopwatch.stage(f"training {network}"):
                train_results.append(
                    train_and_evaluate(config.model_copy(update={"network": network}), folder, parent_run.id)
                )
        best = select_best(train_results, config.selection_metric)
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
        outcome = best.network, f"{best.metrics['accuracy']:.1%}", release_result.verdict
        parent_run.rename(build_retrain_run_name(name, number, *outcome))
        add_to_flow_run_name(*outcome)
        log_outcome(parent_run, result)
        publish_retraining_report(parent_run, result, prepared)
    return result


def skip(reason: str) -> State[None]:
    """Return the final state Completed "Skipped" for a run with nothing to do; log `reason`."""
    get_run_logger().info(f"Skipped: {reason}.")
    return Completed(name=SKIPPED, message=reason)


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
    if monitor == "val_loss":
        return min(train_results, key=lambda result: result.val_loss)
    return max(train_results, key=lambda result: float(getattr(result, monitor)))


def log_outcome(run: Run, result: RetrainResult) -> None:
    """Log the metrics of the training that was chosen, the decision of the gate, and the version."""
    best, release_result = result.best, result.release_result
    run.log_metrics(
        {f"test/{name}": value for name, value in best.metrics.items()}
        | {
            f"best/{name}": getattr(best, name)
            for name in ("val_loss", "val_accuracy", "val_balanced_accuracy")
        }
    )
    version = release_result.candidate_version
    run.set_tags(
        {CANDIDATE_TAG: best.run_id, GATE_DECISION_TAG: release_result.gate_decision.action}
        | ({"version": version} if version else {})
    )


def publish_retraining_report(run: Run, result: RetrainResult, prepared: PreparedDataset) -> None:
    """Write the report of the retraining to its MLflow run and to Prefect."""
    markdown = to_markdown(result, prepared)
    run.set_description(markdown)
    create_markdown_artifact(markdown, key="retraining", description=f"Result of retraining {result.name}")
