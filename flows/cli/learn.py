"""`relearn run`, `train` and `evaluate`: the verbs that learn, and score what was learned."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from relearn.flows import cli, environment
from relearn.flows.cli import releases
from relearn.flows.cli.next_steps import say_next
from relearn.flows.cli.orchestrated import orchestrated
from relearn.flows.rendering import Table
from relearn.flows.settings import ReleaseConfig
from relearn.model.config import TrainConfig
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.results import Retrained, Trained

Config = Annotated[TrainConfig, Parameter(name="*")]


def run(
    *,
    networks: Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))] = (),
    config: Config = TrainConfig(),
    gate: releases.Gate = ReleaseConfig(),
) -> None:
    """Train every network asked for, and release the best where it is better.

    Parameters
    ----------
    networks
        The networks to train, such as `--networks mlp cnn`; by default the one that `--network` names, else
        mlp and cnn.
    """
    start, console, home = perf_counter(), Console(), Home.from_environment()
    from relearn.model.networks import NETWORKS

    networks = networks or ((config.network,) if "network" in config.model_fields_set else tuple(NETWORKS))
    _check(config, networks, home)
    with orchestrated(home, gate) as flows_page:
        from relearn.flows.retrain import retrain

        done = cast("Retrained", retrain(config, networks, gate, insist=True))  # who asks means it
    _show(console, done.trained, done.best)
    console.print(_times(done.seconds, perf_counter() - start))
    if first := done.released.first_answer:
        console.print(Text(first))
    releases.show(console, done.released, home)
    say_next(console, done, home, flows_page)
    if config.dataset == "auto" and done.name == "digits":
        console.print("The real thing, with a download of 11 MB: relearn run --dataset mnist")


def _check(config: TrainConfig, networks: Sequence[str], home: Home) -> None:
    """Refuse before any server is started."""
    from relearn.flows.check import check
    from relearn.flows.tracking import check_store
    from relearn.model.datasets import name_of

    environment.check_limits()
    check(config, networks, home)
    check_store(home, name_of(config, home))


def train(
    *,
    resume: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=(0, 1))] = None,
    config: Config = TrainConfig(),
) -> None:
    """Train one network and evaluate it; nothing is released.

    Parameters
    ----------
    resume
        Go on with a training that was cut off: its run, by default the last one.
    """
    home = Home.from_environment()
    run_id = None
    if resume is not None:
        run_id, config = _unfinished(home, resume, config)
    _check(config, [config.network], home)
    with orchestrated(home):
        from relearn.flows.train import train as train_flow

        trained = train_flow(config, run_id)
    console = Console()
    _show(console, [trained], trained)
    console.print(f"Run {trained.run_id[:8]}, stopped in epoch {trained.epochs}: {trained.stop_reason}.")


def _unfinished(home: Home, asked: Sequence[str], config: TrainConfig) -> tuple[str, TrainConfig]:
    """The run to go on with, and the settings that it began with."""
    from relearn.flows import kept
    from relearn.flows.tracking import find

    run_id = (kept.unfinished(home, asked[0]) or find(home, asked[0])) if asked else kept.newest(home)
    # What nobody asked for, nobody means to change.
    meant = {name for name, where in cli.sources.items() if where != "preset default"}
    given = {name: getattr(config, name) for name in meant if name in TrainConfig.model_fields}
    return run_id, kept.settings(home, run_id, given)


def evaluate(run: str, *, dataset: str | None = None) -> None:
    """Score the classifier of a run on any dataset.

    Parameters
    ----------
    run
        The run: its id, the beginning of it, or its name.
    dataset
        What to score it on, as for `relearn train`; the run's own test images by default.
    """
    from relearn.flows.evaluate import evaluate as score

    scored = score(Home.from_environment(), run, dataset)
    evaluation, console = scored.evaluation, Console()
    rows = [
        (row["class"], *(f"{row[key]:.2%}" for key in ("precision", "recall", "f1")), f"{row['support']}")
        for row in evaluation.per_class.to_dict("records")
    ]
    columns = ("class", "precision", "recall", "F1", "images")
    console.print(Table(columns, rows, f"{scored.run_name} on {scored.dataset}"))
    console.print(
        f"[bold]{evaluation.accuracy:.2%}[/] of {len(evaluation):,} images right, "
        f"loss {evaluation.loss:.4f}, macro F1 {evaluation.metrics['f1_macro']:.4f}."
    )


def _show(console: Console, trained: "Sequence[Trained]", best: "Trained") -> None:
    from relearn.flows.report import networks

    console.print(networks(trained, best))
    for one in trained:
        for warning in one.warnings:
            console.print(f"[yellow]warning[/] {one.network}: {warning}")


def _times(seconds: Mapping[str, float], total: float) -> str:
    stages = ", ".join(f"{stage} {time:.1f}" for stage, time in seconds.items())
    return f"{total:.1f} s in all: {stages}, starting and orchestrating {total - sum(seconds.values()):.1f}"
