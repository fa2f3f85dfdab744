"""Train every network asked for, release the best, and see it answer: the main job."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np
from PIL import Image
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from flows import registry
from flows.check import check
from flows.progress import Stopwatch
from flows.report import report
from flows.results import Answer, Retrained, Trained
from flows.store import connect
from flows.tracking import Experiment, Run, reopen
from flows.train import DEFAULT, learn, load, named
from model import atomic
from model.config import TrainConfig
from model.errors import MachineError
from model.home import Home
from model.look import tables
from model.look_plots import figures
from model.prepared import Prepared, open_prepared
from serving.packaging import package
from serving.releases import Releases
from serving.server import running
from serving.settings import ServeConfig

NETWORKS = ("mlp", "cnn")


@flow(name="retrain", flow_run_name=named)
def retrain(config: TrainConfig = DEFAULT, networks: tuple[str, ...] = NETWORKS) -> Retrained:
    """Load, train and evaluate each network, release the best on validation, and ask the real server."""
    watch, home = Stopwatch(), Home.from_environment()
    check(config, networks, home)
    with watch.stage("data"):
        folder = load(config)
    name = config.name or open_prepared(folder).name
    experiment = Experiment.open(home, name)
    with experiment.run(f"retrain on {name}", {"relearn.kind": "retrain"}) as parent:
        with watch.stage("looking"):
            look(folder, parent.id)
        trained = []
        for network in networks:
            with watch.stage(f"training {network}"):
                trained.append(learn(config.model_copy(update={"network": network}), folder, parent.id))
        best = choose(trained, config.monitor)
        with watch.stage("registering"):
            version = register(best.run_id, name)
        with watch.stage("packaging"):
            bento = pack(best.run_id, name, version)
        with watch.stage("first answer"):
            answer = ask(bento, folder)
        with watch.stage("releasing"):
            example = release(best.run_id, name, version, bento, folder)
        parent.metrics({f"time/{stage} seconds": seconds for stage, seconds in watch.seconds.items()})
        done = Retrained(
            name=name,
            url=parent.url,
            trained=tuple(trained),
            best=best,
            version=version,
            answer=answer,
            example=example,
            seconds=watch.seconds,
        )
        tell(parent, done, open_prepared(folder))
    return done


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


@task(task_run_name="register {name}")
def register(run_id: str, name: str) -> str:
    """Register the classifier of a run; returns its version."""
    return registry.register(connect(Home.from_environment()), run_id, name)


@task(task_run_name="package {name}:{version}")
def pack(run_id: str, name: str, version: str) -> str:
    """Put the classifier of a run into a Bento; returns its tag."""
    home = Home.from_environment()
    with tempfile.TemporaryDirectory() as temporary:
        return package(registry.fetch(connect(home), run_id, Path(temporary)), name, version, home)


@task(task_run_name="release {name}:{version}")
def release(run_id: str, name: str, version: str, bento: str, folder: Path) -> Path:
    """Let `version` be the champion and the live release; returns the path of an example to send it."""
    home = Home.from_environment()
    client, releases = connect(home), Releases(home.releases(name))
    with tempfile.TemporaryDirectory() as temporary:
        releases.publish(version, registry.fetch(client, run_id, Path(temporary)), bento, run_id)
    registry.crown(client, name, version)
    example = releases.root / "example.png"
    atomic.write_bytes(example, png(open_prepared(folder).splits.test.images[0]))
    return example


def tell(run: Run, done: Retrained, prepared: Prepared) -> None:
    """Keep the report of the retraining with its run in MLflow and in Prefect."""
    markdown = report(done, prepared.card)
    run.describe(markdown)
    create_markdown_artifact(markdown, key="retraining", description=f"What came of retraining {done.name}")


@task(task_run_name="ask {bento}")
def ask(bento: str, folder: Path) -> Answer:
    """Start the real server on a free port, and send it the first test image as a PNG over HTTP."""
    prepared = open_prepared(folder)
    test = prepared.splits.test
    with running(bento, ServeConfig(port=0), Home.from_environment()) as url:
        picture = png(test.images[0])
        start = perf_counter()
        answered = httpx.post(f"{url}/predict", content=picture, headers={"Content-Type": "image/png"})
        milliseconds = 1000 * (perf_counter() - start)
    if answered.status_code != httpx.codes.OK:
        raise MachineError(f"the server refused a test image: {answered.status_code} {answered.text[:300]}")
    said = answered.json()
    first = said["predictions"][0]
    return Answer(
        truth=prepared.classes[test.labels[0]],
        label=first["label"],
        probability=first["probabilities"][first["label"]],
        version=said["version"],
        milliseconds=milliseconds,
    )


def png(image: np.ndarray) -> bytes:
    """uint8 (channels, height, width) with one or three channels → the bytes of a PNG."""
    content = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, "PNG")
    return content.getvalue()
