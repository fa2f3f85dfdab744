"""Train every network asked for, and release the best of them where it is better: the main job."""

from collections.abc import Sequence
from pathlib import Path

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Completed

from relearn.flows.check import check
from relearn.flows.due import inputs, overtaken, unchanged
from relearn.flows.orchestration import reported
from relearn.flows.progress import Stopwatch
from relearn.flows.release import release
from relearn.flows.report import report
from relearn.flows.results import Retrained, Trained
from relearn.flows.settings import ReleaseConfig
from relearn.flows.stopping import advised
from relearn.flows.tracking import FLOW_RUN, Experiment, Run, joined_until, reopen
from relearn.flows.train import DEFAULT, learn, load, named
from relearn.model.config import TrainConfig
from relearn.model.datasets import name_of
from relearn.model.home import Home
from relearn.model.look import tables
from relearn.model.look_plots import figures
from relearn.model.prepared import Prepared, open_prepared

NETWORKS = ("mlp", "cnn")


@flow(name="retrain", flow_run_name=named)
@reported()
def retrain(
    config: TrainConfig = DEFAULT,
    networks: tuple[str, ...] = NETWORKS,
    gate: ReleaseConfig = ReleaseConfig(),
    insist: bool = False,
) -> Retrained | State[None]:
    """Load, train and evaluate each network; the best on validation is the candidate for the release.

    What was trained on before, with the same settings, is trained on again only where `insist` says so.
    """
    watch, home = Stopwatch(), Home.from_environment()
    if late := overtaken():
        return skipped(late)
    check(config, networks, home)
    name = name_of(config, home)
    experiment = Experiment.open(home, name)
    begun = experiment.of_flow(str(flow_run.id), "train")
    with watch.stage("data"):
        # What was accepted since a run was cut off is for the next one.
        folder = load(config, joined_until(home, begun.info.run_id) if begun else None)
    prepared = open_prepared(folder)
    given = inputs(config, networks, gate, prepared.fingerprint)
    if not insist and (same := unchanged(experiment, given)):
        return skipped(same)
    tags = {"relearn.kind": "retrain", FLOW_RUN: str(flow_run.id)} | given
    before = experiment.of_flow(str(flow_run.id), "retrain")
    with experiment.run(f"retrain on {name}", tags, resume=before.info.run_id if before else None) as parent:
        with watch.stage("looking"):
            look(folder, parent.id)
        trained = []
        for network in networks:
            with watch.stage(f"training {network}"):
                trained.append(learn(config.model_copy(update={"network": network}), folder, parent.id))
        best = choose(trained, config.monitor)
        with advised(f"relearn release {best.run_id[:8]} judges and serves what was trained"):
            released = release(best.run_id, gate)
        seconds = watch.seconds | released.seconds
        parent.metrics({f"time/{stage} seconds": spent for stage, spent in seconds.items()})
        done = Retrained(
            name=name,
            url=parent.url,
            trained=tuple(trained),
            best=best,
            released=released,
            seconds=seconds,
        )
        tell(parent, done, prepared)
    return done


def skipped(why: str) -> State[None]:
    """How a run ends that had nothing to do."""
    get_run_logger().info(f"Skipped: {why}.")
    return Completed(name="Skipped", message=why)


@task(task_run_name="look at the data")
def look(folder: Path, run_id: str) -> None:
    """Log what a first look at the data shows, figures and tables."""
    prepared, run = open_prepared(folder), reopen(Home.from_environment(), run_id)
    for name, figure in figures(prepared).items():
        run.figure(figure, f"data/{name}.png")
    for name, table in tables(prepared).items():
        run.table(table, f"data/{name}.csv")


def choose(trained: Sequence[Trained], monitor: str) -> Trained:
    """The best on validation, by the value that the config monitors."""
    if monitor == "val_accuracy":
        return max(trained, key=lambda one: one.val_accuracy)
    return min(trained, key=lambda one: one.val_loss)


def tell(run: Run, done: Retrained, prepared: Prepared) -> None:
    """Keep the report of the retraining with its run in MLflow and in Prefect."""
    markdown = report(done, prepared)
    run.describe(markdown)
    create_markdown_artifact(markdown, key="retraining", description=f"What came of retraining {done.name}")
