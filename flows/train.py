"""Train flow: load → preprocess → train → evaluate one network, as one tracked run."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from prefect import flow, get_run_logger, task
from prefect.runtime import flow_run

from relearn.flows.config import PromotionConfig
from relearn.flows.feedback.decisions import collect_feedback_images
from relearn.flows.orchestration.flow_process import record_process
from relearn.flows.process.shutdown import catch_stop_signals
from relearn.flows.promotion.class_change import ClassChange
from relearn.flows.results import TrainResult
from relearn.flows.terminal.console import EpochBar, image_bar, print_note, print_warning, spinner
from relearn.flows.tracking import registry
from relearn.flows.tracking.run_names import build_flow_run_name, build_train_run_name
from relearn.flows.tracking.runs import (
    FINGERPRINT_TAG,
    FLOW_RUN_TAG,
    RESULT_TAG,
    Experiment,
    Run,
    get_fingerprint,
    get_last_feedback_decision,
)
from relearn.flows.training.fit_to_data import fit_to_data
from relearn.flows.training.head import fit_head_and_log
from relearn.flows.training.metric_queue import AsyncMetricLogger
from relearn.flows.training.preconditions import check_inputs, describe_class_change
from relearn.flows.training.report import describe_images
from relearn.flows.training.resume import EpochLog, ResumableRun, delete_checkpoints, open_resumable
from relearn.model.config import TrainConfig
from relearn.model.data.load import default_model_name
from relearn.model.data.transforms import expects_flat_input, preprocess
from relearn.model.errors import DataError, NotFoundError
from relearn.model.evaluation.metrics import Evaluation, compute_generalization_gap, evaluate
from relearn.model.home import Home
from relearn.model.images.decode_many import OnProgress
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.custom import errors_in_call
from relearn.model.networks.pretrained import Pretrained
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters, summarize_layers
from relearn.model.plots import evaluation as plots
from relearn.model.plots.architecture import plot_architecture
from relearn.model.plots.gradients import plot_gradient_flow
from relearn.model.plots.learning_curves import plot_learning_curves
from relearn.model.preparation.prepared import (
    PreparedDataset,
    find_prepared,
    load_prepared,
    prepare_dataset,
)
from relearn.model.text import escape_controls
from relearn.model.training import gradient_health
from relearn.model.training.fit import FitResult, fit
from relearn.model.training.head import HeadResult
from relearn.model.training.state import EpochRecord, TrainingSnapshot
from relearn.serving.releases.store import ReleaseStore

# Images of the fixed batch on which the gradients of a run are measured: one pass an epoch costs less than
# 1 % of the epoch on MNIST, and 256 images of ten classes include every class.
GRADIENT_BATCH_SIZE = 256

DEFAULT_CONFIG = TrainConfig()


@flow(name="train", flow_run_name=build_flow_run_name, on_running=[record_process])
def train(config: TrainConfig = DEFAULT_CONFIG, resume: str | None = None) -> TrainResult:
    """Train and evaluate one network on one dataset, without a release.

    With `resume`, the id of an unfinished run, that run is continued from its last checkpoint.
    """
    home = Home.from_environment()
    check_inputs(config, [config.network], home)
    config, _ = fit_to_data(config, (config.network,), home)
    return train_and_evaluate(config, load_data(config, resume), resume_run_id=resume)


@task(task_run_name="load-data")
def load_data(
    config: TrainConfig, resumed_run_id: str | None = None, promotion: PromotionConfig | None = None
) -> Path:
    """Load, check and split the data, with accepted feedback merged; return the folder of the result.

    A resumed run continues with the data that it began with, also if the source has changed since. Other
    classes than those of the live version are a warning. They are a `DataError` if `promotion`, the settings
    of the release, would have the gate reject every candidate for them.
    """
    home = Home.from_environment()
    with image_bar() as show_progress:
        prepared = prepare_data(config, home, resumed_run_id, show_progress)
    releases = ReleaseStore(home.releases_dir(config.model_name or prepared.name))
    class_change, is_rejected = compare_with_live(prepared, releases, promotion or PromotionConfig())
    if is_rejected and promotion is not None:
        raise DataError(class_change)
    rebuild_message = f"prepared again: {prepared.rebuild_reason}" if prepared.rebuild_reason else ""
    findings = (f"{prepared.uri}: {finding}" for finding in prepared.findings)
    for message in filter(None, [rebuild_message, class_change, *findings]):
        get_run_logger().warning(escape_controls(message))
        print_warning(message)
    lines = [f"{prepared.name}: {describe_images(prepared)}"]
    if prepared.description:
        lines += prepared.description.summarize(config.image_size)
    for line in lines:
        get_run_logger().info(line)
        print_note(line, soft_wrap="/" in line)  # paths can be copied
    return prepared.folder


def prepare_data(
    config: TrainConfig, home: Home, resumed_run_id: str | None, on_progress: OnProgress
) -> PreparedDataset:
    """Prepare the data with accepted feedback; return that of a resumed run as it was, if it is kept."""
    last_decision = None  # all count
    if resumed_run_id:
        if kept := find_prepared(config, home, get_fingerprint(home, resumed_run_id)):
            return kept
        last_decision = get_last_feedback_decision(home, resumed_run_id)
    feedback = collect_feedback_images(home, default_model_name(config, home), last_decision)
    return prepare_dataset(config, home, feedback, on_progress)


def compare_with_live(
    prepared: PreparedDataset, releases: ReleaseStore, promotion: PromotionConfig
) -> tuple[str, bool]:
    """Return how the classes differ from those of the live version, "" if not, and if the gate rejects that.

    Raises `DataError` if another value is white in the data of the live version.
    """
    live = releases.read_live()
    if live is None:
        return "", False
    card = releases.read_card(live.version)
    card.check_scale(prepared.uri, prepared.scale)
    change = ClassChange.between(prepared.classes, card.classes, promotion)
    difference = describe_class_change(prepared.classes, change.champion)
    if not difference:
        return "", False
    subject = f"the classes are not those of {card.name} {live.version}, which is live ({difference})"
    if change.is_rejected(promotion):
        advice = (
            "No classifier of other classes is released in its place: correct the labels, or pass "
            "--renamed-classes OLD=NEW or --allow-removed-classes, or train under another --model-name"
        )
        return f"{prepared.uri}: {subject}. {advice}", True
    advice = "A candidate has to be as good on the classes that both know, and to recognize each new one"
    return f"{prepared.uri}: {subject}. {advice}", False


@task(task_run_name="train-{config.network}")
def train_and_evaluate(
    config: TrainConfig, folder: Path, parent_run_id: str | None = None, resume_run_id: str | None = None
) -> TrainResult:
    """Train `config.network` on the data prepared in `folder`, as a child run of `parent_run_id`.

    An interrupted run is continued from its last checkpoint: the run `resume_run_id`, or, in a retry of
    the flow run, the run that its earlier attempt has created.
    """
    prepared, home = load_prepared(folder), Home.from_environment()
    experiment = Experiment.open_or_create(home, config.model_name or prepared.name)
    flow_run_id = str(flow_run.id)
    earlier_run = (
        experiment.get_run(resume_run_id)
        if resume_run_id
        else experiment.find_by_flow_run(flow_run_id, "train", config.network)
    )
    if earlier_run and RESULT_TAG in earlier_run.data.tags:  # interrupted after the last step
        experiment.mark_finished(earlier_run)
        delete_checkpoints(home.checkpoints / earlier_run.info.run_id)
        return TrainResult.model_validate_json(earlier_run.data.tags[RESULT_TAG])
    network = build_network(config, prepared.shape, len(prepared.classes))
    tags = {"relearn.job_type": "train", "dataset": prepared.name, FINGERPRINT_TAG: prepared.fingerprint}
    earlier_run_id: str | None = earlier_run.info.run_id if earlier_run else None
    with ExitStack() as stack:
        if earlier_run_id:  # lock before changing the run: another process may train it
            resumable = stack.enter_context(
                open_resumable(home.checkpoints / earlier_run_id, config, prepared.fingerprint)
            )
            if resume_run_id and not resumable.state:
                raise NotFoundError(
                    f"run {resume_run_id[:8]} has no unfinished training in {home.checkpoints}"
                )
        run = stack.enter_context(
            experiment.start_run(
                build_train_run_name(config),
                tags | {FLOW_RUN_TAG: flow_run_id},
                parent_run_id,
                earlier_run_id,
            )
        )
        if not earlier_run_id:
            resumable = stack.enter_context(
                open_resumable(home.checkpoints / run.id, config, prepared.fingerprint)
            )
        log_inputs(run, config, prepared, network)
        fit_result: FitResult | HeadResult
        warnings: tuple[str, ...] = ()
        if isinstance(network, Pretrained):
            fit_result = fit_head_and_log(run, config, network, prepared, resumable, home)
        else:
            fit_result, warnings = fit_and_log(run, config, network, prepared, resumable)
        report_fit(config.network, fit_result)
        card = ModelCard.from_network(config, prepared, network, fit_result.temperature)
        with spinner(f"Evaluating {config.network}"):
            evaluation = evaluate(Classifier(network, card), prepared.splits.test)
            warnings += log_results(run, fit_result, evaluation, prepared, resumable.last_epoch_end_ms)
            hardware = {"device": fit_result.device, "threads": fit_result.threads}
            card = card.model_copy(update={"metrics": evaluation.metrics} | hardware)
            registry.log_classifier(
                run, Classifier(network, card), prepared.splits.train_val_hashes, resumable.last_epoch_end_ms
            )
        result = build_result(
            run, config, fit_result, evaluation, card.parameters, resumable.skipped_checkpoints + warnings
        )
        run.set_tags({RESULT_TAG: result.model_dump_json()})
    delete_checkpoints(resumable.folder)
    return result


def build_result(
    run: Run,
    config: TrainConfig,
    fit_result: FitResult | HeadResult,
    evaluation: Evaluation,
    parameters: int,
    warnings: tuple[str, ...],
) -> TrainResult:
    """Build the result of a training."""
    return TrainResult(
        run_id=run.id,
        url=run.url,
        network=config.network,
        parameter_count=parameters,
        summary=fit_result.summary,
        val_loss=fit_result.val_loss,
        val_accuracy=fit_result.val_accuracy,
        val_balanced_accuracy=fit_result.val_balanced_accuracy,
        metrics=evaluation.metrics,
        warnings=warnings,
        training_seconds=fit_result.seconds,
        images_per_second=fit_result.images_per_second,
    )


def log_inputs(run: Run, config: TrainConfig, prepared: PreparedDataset, network: torch.nn.Module) -> None:
    """Log the inputs of a training: settings, data, and the layers of the network."""
    run.log_params(config.model_dump() | {"parameters": count_parameters(network)})
    run.log_dataset(prepared)
    run.log_data_files(prepared)
    with errors_in_call(config.network, "the prediction of one image"):
        layer_table = summarize_layers(network, prepared.shape)
    input_shape = (math.prod(prepared.shape),) if expects_flat_input(network) else prepared.shape
    run.log_table(layer_table, "network/layers.csv")
    run.log_figure(
        plot_architecture(layer_table, input_shape, build_train_run_name(config)), "network/architecture.png"
    )


def fit_and_log(
    run: Run,
    config: TrainConfig,
    network: torch.nn.Module,
    prepared: PreparedDataset,
    resumable: ResumableRun,
) -> tuple[FitResult, tuple[str, ...]]:
    """Train, and log each epoch with its gradient health; return the result and the gradient warnings.

    SIGINT or SIGTERM stops the training after a checkpoint, with `SystemExit`.
    """
    train_split = prepared.splits.train
    # Evenly spaced: images of a folder are sorted by class.
    sample_indices = np.linspace(0, len(train_split) - 1, GRADIENT_BATCH_SIZE, dtype=int)
    inputs, targets = preprocess(
        torch.from_numpy(train_split.images[sample_indices]),
        torch.from_numpy(train_split.labels[sample_indices]),
        len(prepared.classes),
        expects_flat_input(network),
    )
    with (
        EpochBar(build_train_run_name(config), config.epochs, len(train_split)) as bar,
        AsyncMetricLogger(run) as metric_logger,
        catch_stop_signals() as stop_request,
    ):
        logged_steps = run.get_logged_steps("epoch/val_loss") if resumable.state else set()

        def log_epochs(epoch_logs: Iterable[EpochLog]) -> None:
            for epoch_log in epoch_logs:
                # An epoch whose checkpoint was damaged is trained twice and logged once.
                if epoch_log["step"] not in logged_steps:
                    metric_logger.enqueue(epoch_log)

        log_epochs(resumable.epoch_logs)

        def on_epoch(record: EpochRecord) -> None:
            with errors_in_call(config.network, f"the measurement of gradients, epoch {record.epoch}"):
                health = gradient_health.measure_gradients(network, inputs, targets, record.epoch)
            resumable.add_epoch(epoch_metrics(record) | flatten_gradient_health(health), health)
            bar.advance(record)
            get_run_logger().info(
                f"epoch {record.epoch}: loss {record.train_loss:.4f} in training, {record.val_loss:.4f} on "
                f"validation, accuracy {record.val_accuracy:.2%} on validation"
            )

        def on_checkpoint(snapshot: TrainingSnapshot) -> None:
            # First on disk, then in MLflow: an epoch in MLflow is then never trained a second time.
            log_epochs(resumable.save(snapshot))

        fit_result = fit(
            config,
            network,
            prepared.splits,
            len(prepared.classes),
            initial_snapshot=resumable.state,
            on_epoch=on_epoch,
            on_checkpoint=on_checkpoint,
            should_stop=lambda: bool(stop_request),
        )
        if stop_request:
            raise SystemExit(stop_request.exit_code)
    history, health_table = fit_result.to_frame(), resumable.gradient_health
    run.log_table(history, "history.csv")
    run.log_figure(plot_learning_curves(history, fit_result.best_epoch, fit_result.stop_reason), "curves.png")
    run.log_table(health_table, "gradients/health.csv")
    run.log_figure(plot_gradient_flow(health_table), "gradients/flow.png")
    run.log_metrics({"best/epoch": fit_result.best_epoch}, timestamp_ms=resumable.last_epoch_end_ms)
    run.set_tags({"stop_reason": fit_result.stop_reason})
    return fit_result, gradient_health.diagnose_gradients(health_table).warnings


def report_fit(network: str, result: FitResult | HeadResult) -> None:
    """Log and print how a training ended: validation accuracy, best epoch or penalty, time."""
    message = f"{network}: {result.val_accuracy:.2%} on validation, {result.summary}, {result.seconds:.1f} s"
    get_run_logger().info(message)
    print_note(message, soft_wrap=False)


def epoch_metrics(record: EpochRecord) -> dict[str, float]:
    """Return the metrics of one epoch by their keys in MLflow: `epoch/…` and `time/epoch_seconds`."""
    values = asdict(record)
    return {"time/epoch_seconds": values.pop("seconds")} | {
        f"epoch/{name}": value for name, value in values.items() if name != "epoch"
    }


def flatten_gradient_health(health: pd.DataFrame) -> dict[str, float]:
    """Return the finite gradient health values of one epoch as metrics `training/gradients/LAYER/…`."""
    return {
        f"training/gradients/{row['layer']}/{column}": row[column]
        for row in health.to_dict("records")
        for column in ("delta", "weight_gradient", "dead_fraction")
        if math.isfinite(row[column])
    }


def log_results(
    run: Run,
    fit_result: FitResult | HeadResult,
    evaluation: Evaluation,
    prepared: PreparedDataset,
    timestamp_ms: int,
) -> tuple[str, ...]:
    """Log metrics, figures and tables of a finished training; return its warnings.

    The metrics get the time `timestamp_ms` (Unix, ms): logged twice, MLflow stores them once.
    """
    gap = compute_generalization_gap(fit_result.train_accuracy, fit_result.val_accuracy, evaluation.accuracy)
    run.log_metrics(
        {f"test/{name}": value for name, value in evaluation.metrics.items()}
        | {
            "best/val_accuracy": fit_result.val_accuracy,
            "best/val_balanced_accuracy": fit_result.val_balanced_accuracy,
            "best/val_loss": fit_result.val_loss,
            "best/generalization_gap": gap.validation,
            "test/generalization_gap": gap.test,
            "time/training_seconds": fit_result.seconds,
            "time/images_per_second": fit_result.images_per_second,
        },
        timestamp_ms=timestamp_ms,
    )
    run.set_tags({"device": fit_result.device, "threads": str(fit_result.threads)})
    classes, images = prepared.classes, prepared.splits.test.images
    run.log_figure(plots.plot_confusion_matrix(evaluation.confusion_matrix, classes), "test/confusion.png")
    run.log_figure(plots.plot_class_report(evaluation.class_report), "test/per_class.png")
    run.log_figure(plots.plot_calibration(evaluation), "test/calibration.png")
    run.log_figure(plots.plot_worst_errors(images, evaluation.misclassified), "test/worst_mistakes.png")
    run.log_table(evaluation.class_report, "test/per_class.csv")
    run.log_table(evaluation.misclassified, "test/mistakes.csv")
    run.set_description(format_summary(fit_result, evaluation, prepared))
    # The penalty of a head has been chosen already: there is nothing to advise.
    return (gap.warning,) if gap.warning and isinstance(fit_result, FitResult) else ()


def format_summary(
    fit_result: FitResult | HeadResult, evaluation: Evaluation, prepared: PreparedDataset
) -> str:
    """Return the Markdown description of a run: accuracy, end of the training, speed."""
    return (
        f"Test accuracy on {prepared.name} **{evaluation.accuracy_with_interval}**, "
        f"macro F1 {evaluation.metrics['f1_macro']:.4f}, loss {evaluation.loss:.4f}.\n\n"
        f"{fit_result.summary[0].upper()}{fit_result.summary[1:]}. "
        f"{fit_result.seconds:.1f} s on {fit_result.device}, {fit_result.images_per_second:,.0f} images/s."
    )
