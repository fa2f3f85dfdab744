"""Train one network: load → preprocess → train → evaluate, as one tracked run."""

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

from relearn.flows import registry
from relearn.flows.check import check
from relearn.flows.delivery import Delivery
from relearn.flows.feedback import additions
from relearn.flows.kept import Kept, Note, keeping, remove
from relearn.flows.progress import EpochBar, warn
from relearn.flows.results import Trained
from relearn.flows.stopping import signals
from relearn.flows.tracking import FLOW_RUN, OUTCOME, Experiment, Run, joined_until
from relearn.model import curve_plots, datasets, gradients, plots
from relearn.model.architecture import architecture
from relearn.model.classifier import Card, Classifier
from relearn.model.config import TrainConfig
from relearn.model.errors import NotFoundError
from relearn.model.gradient_plots import plot_gradient_flow
from relearn.model.home import Home
from relearn.model.learner import EpochRecord, State
from relearn.model.metrics import Evaluation, evaluate, generalisation_gap
from relearn.model.networks import build, count, layers
from relearn.model.prepared import Prepared, open_prepared, prepare
from relearn.model.preprocess import is_flat, preprocess
from relearn.model.training import Fit, fit

# Images of the fixed batch on which the gradients of a run are measured: one pass of it an epoch costs
# less than 1 % of the epoch on MNIST, and 256 images of ten classes show every class.
WATCHED = 256

DEFAULT = TrainConfig.preset("default")


def named() -> str:
    """The name of the flow run that starts: what it does, to what, "auto" resolved to what it stands for."""
    config = TrainConfig.model_validate(flow_run.parameters["config"])
    network = f" {config.network}" if flow_run.flow_name == "train" else ""
    return f"{flow_run.flow_name}{network} on {datasets.source(config, Home.from_environment())}"


@flow(name="train", flow_run_name=named)
def train(config: TrainConfig = DEFAULT, resume: str | None = None) -> Trained:
    """Train one network on one dataset and evaluate it; nothing is released.

    With the id of an unfinished run as `resume`, that run goes on from its checkpoint.
    """
    home = Home.from_environment()
    check(config, [config.network], home)
    until = joined_until(home, resume) if resume else None
    return learn(config, load(config, until), resume=resume)


@task(task_run_name="load and check the data")
def load(config: TrainConfig, until: int | None = None) -> Path:
    """Load, check and split the data once, joined by accepted feedback; returns where it is prepared.

    Accepted, that is, by the first `until` decisions, or by all of them.
    """
    home = Home.from_environment()
    prepared = prepare(config, home, additions(home, datasets.name_of(config, home), until))
    rebuilt = [f"prepared anew: {prepared.rebuilt}"] if prepared.rebuilt else []
    for line in [*rebuilt, *(f"{prepared.source}: {finding}" for finding in prepared.findings)]:
        get_run_logger().warning(line)
        warn(line)
    return prepared.folder


@task(task_run_name="train and evaluate {config.network}")
def learn(config: TrainConfig, folder: Path, parent: str | None = None, resume: str | None = None) -> Trained:
    """Train `config.network` on the data prepared in `folder`; `parent` is the run it belongs to.

    A run that was cut off goes on from its checkpoint: the one called `resume`, or, where the flow itself
    is tried again, the one it has made before.
    """
    prepared, home = open_prepared(folder), Home.from_environment()
    experiment = Experiment.open(home, config.name or prepared.name)
    flow_run_id = str(flow_run.id)
    before = experiment.run_of(resume) if resume else experiment.of_flow(flow_run_id, "train", config.network)
    if before and OUTCOME in before.data.tags:  # cut off when all was done
        experiment.finish(before)
        remove(home.checkpoints / before.info.run_id)
        return Trained.model_validate_json(before.data.tags[OUTCOME])
    network = build(config, prepared.shape, len(prepared.classes))
    tags = {"relearn.kind": "train", "dataset": prepared.name, "fingerprint": prepared.fingerprint}
    before_id: str | None = before.info.run_id if before else None
    with ExitStack() as stack:
        if before_id:  # before its run is touched: another process may be at it
            kept = stack.enter_context(keeping(home.checkpoints / before_id, config, prepared.fingerprint))
            if resume and not kept.state:
                raise NotFoundError(f"run {resume[:8]} has no unfinished training in {home.checkpoints}")
        run = stack.enter_context(
            experiment.run(title(config), tags | {FLOW_RUN: flow_run_id}, parent, before_id)
        )
        if not before_id:
            kept = stack.enter_context(keeping(home.checkpoints / run.id, config, prepared.fingerprint))
        describe_inputs(run, config, prepared, network)
        fitted, warnings = watched_fit(run, config, network, prepared, kept)
        card = Card.of(config, prepared, network)
        evaluation = evaluate(Classifier(network, card), prepared.splits.test)
        warnings += describe_outcome(run, fitted, evaluation, prepared, kept.ended)
        learned_on = {"device": fitted.device, "threads": fitted.threads}
        card = card.model_copy(update={"metrics": evaluation.metrics} | learned_on)
        registry.log(run, Classifier(network, card), prepared.splits.seen, kept.ended)
        trained = outcome(run, config, fitted, evaluation, card.parameters, kept.refused + warnings)
        run.tags({OUTCOME: trained.model_dump_json()})
    remove(kept.folder)
    return trained


def outcome(
    run: Run,
    config: TrainConfig,
    fitted: Fit,
    evaluation: Evaluation,
    parameters: int,
    warnings: tuple[str, ...],
) -> Trained:
    """What the next tasks, and the person who waits, are told of a training."""
    best = fitted.history[fitted.best_epoch - 1]
    return Trained(
        run_id=run.id,
        url=run.url,
        network=config.network,
        parameters=parameters,
        epochs=len(fitted.history),
        best_epoch=fitted.best_epoch,
        stop_reason=fitted.stop_reason,
        val_loss=best.val_loss,
        val_accuracy=best.val_accuracy,
        metrics=evaluation.metrics,
        warnings=warnings,
        seconds=fitted.seconds,
        images_per_second=fitted.images_per_second,
    )


def title(config: TrainConfig) -> str:
    """A run's name: what distinguishes it at a glance, such as "mlp 512 · sgd 0.1 · seed 0"."""
    widths = {"mlp": config.hidden, "cnn": config.filters}.get(config.network, ())
    network = " ".join(map(str, (config.network, *widths)))
    return f"{network} · {config.optimizer} {config.learning_rate:g} · seed {config.seed}"


def describe_inputs(run: Run, config: TrainConfig, prepared: Prepared, network: torch.nn.Module) -> None:
    """Log what the training is given: settings, data, network."""
    run.params(config.model_dump() | {"parameters": count(network)})
    run.data(prepared)
    summary = layers(network, prepared.shape)
    taken = (math.prod(prepared.shape),) if is_flat(network) else prepared.shape
    run.table(summary, "network/layers.csv")
    run.figure(architecture(summary, taken, title(config)), "network/architecture.png")


def watched_fit(
    run: Run, config: TrainConfig, network: torch.nn.Module, prepared: Prepared, kept: Kept
) -> tuple[Fit, tuple[str, ...]]:
    """Train, logging each epoch with the health of its gradients; returns what came of both.

    A signal ends it at a point that `kept` has, by `SystemExit`.
    """
    learning = prepared.splits.train
    evenly = np.linspace(0, len(learning) - 1, WATCHED, dtype=int)  # a folder's images come class by class
    inputs, targets = preprocess(
        torch.from_numpy(learning.images[evenly]),
        torch.from_numpy(learning.labels[evenly]),
        len(prepared.classes),
        is_flat(network),
    )
    with (
        EpochBar(title(config), config.epochs, len(learning)) as bar,
        Delivery(run) as delivery,
        signals() as stop,
    ):
        known = run.steps("val_loss") if kept.state else set()

        def deliver(notes: Iterable[Note]) -> None:
            for note in notes:
                if note["step"] not in known:  # an epoch is trained again where its checkpoint was damaged
                    delivery.add(note)

        deliver(kept.notes)

        def on_epoch(record: EpochRecord) -> None:
            measured = gradients.measure(network, inputs, targets, record.epoch)
            kept.note(epoch_metrics(record) | diagnostics(measured), measured)
            bar.show(record)

        def save(state: State) -> None:
            # First on disk, then in MLflow: what MLflow has is never trained, and told, a second time.
            deliver(kept.save(state))

        fitted = fit(
            config,
            network,
            prepared.splits,
            len(prepared.classes),
            start=kept.state,
            on_epoch=on_epoch,
            save=save,
            should_stop=lambda: bool(stop),
        )
        if stop:
            raise SystemExit(stop.code)
    table = kept.health
    run.table(table, "gradients/health.csv")
    run.figure(plot_gradient_flow(table), "gradients/flow.png")
    return fitted, gradients.verdict(table).warnings


def epoch_metrics(record: EpochRecord) -> dict[str, float]:
    """What is logged of each epoch."""
    values = asdict(record)
    return {"time/epoch_seconds": values.pop("seconds")} | {
        name: value for name, value in values.items() if name != "epoch"
    }


def diagnostics(health: pd.DataFrame) -> dict[str, float]:
    """Gradient health of one epoch as metrics, `gradients/LAYER/…`, without what could not be measured."""
    return {
        f"gradients/{row['layer']}/{column}": row[column]
        for row in health.to_dict("records")
        for column in ("delta", "weight_gradient", "dead")
        if math.isfinite(row[column])
    }


def describe_outcome(
    run: Run, fitted: Fit, evaluation: Evaluation, prepared: Prepared, ended: int
) -> tuple[str, ...]:
    """Log what came of the training; returns the lines that deserve a second look.

    The metrics are of the time `ended` (Unix, ms): logged again, they are the same and kept once.
    """
    history = fitted.table()
    gap = generalisation_gap(history, fitted.best_epoch, evaluation.accuracy)
    run.metrics(
        {f"test_{name}": value for name, value in evaluation.metrics.items()}
        | gap.metrics
        | {
            "best_epoch": fitted.best_epoch,
            "time/training_seconds": fitted.seconds,
            "time/images_per_second": fitted.images_per_second,
        },
        milliseconds=ended,
    )
    run.tags({"stop_reason": fitted.stop_reason, "device": fitted.device, "threads": str(fitted.threads)})
    classes, images = prepared.classes, prepared.splits.test.images
    run.figure(curve_plots.curves(history, fitted.best_epoch, fitted.stop_reason), "curves.png")
    run.figure(plots.confusion(evaluation.confusion, classes), "test/confusion.png")
    run.figure(plots.per_class(evaluation.per_class), "test/per_class.png")
    run.figure(plots.reliability(evaluation), "test/calibration.png")
    run.figure(plots.gallery(images, evaluation.mistakes), "test/worst_mistakes.png")
    run.table(history, "history.csv")
    run.table(evaluation.per_class, "test/per_class.csv")
    run.table(evaluation.mistakes, "test/mistakes.csv")
    run.describe(summary(fitted, evaluation, prepared))
    return (gap.warning,) if gap.warning else ()


def summary(fitted: Fit, evaluation: Evaluation, prepared: Prepared) -> str:
    """The few lines that stand first on the page of a run."""
    return (
        f"**{evaluation.accuracy:.2%}** of {len(evaluation):,} test images of {prepared.name} right "
        f"(macro F1 {evaluation.metrics['f1_macro']:.4f}, loss {evaluation.loss:.4f}).\n\n"
        f"Best epoch {fitted.best_epoch} of {len(fitted.history)}: {fitted.stop_reason}. "
        f"{fitted.seconds:.1f} s on {fitted.device}, {fitted.images_per_second:,.0f} images/s."
    )
