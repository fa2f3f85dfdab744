"""`relearn run`, `train` and `evaluate`: training and evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from relearn.flows.cli import releases
from relearn.flows.cli.parameters import (
    Config,
    Gate,
    Json,
    Networks,
    Preset,
    SettingsFile,
    build_train_config,
)
from relearn.flows.cli.sources import given_values
from relearn.flows.config import PromotionConfig
from relearn.flows.process import system_limits
from relearn.flows.process.home_probe import check_home
from relearn.flows.scheduling.prefect_context import prefect_context
from relearn.flows.terminal.console import make_console, print_json, print_note, print_warning, spinner
from relearn.flows.terminal.next_step import print_next
from relearn.flows.terminal.rendering import Table, build_comparison_table, check_output
from relearn.model.config import RetrainConfig, TrainConfig
from relearn.model.errors import CorruptDataError, UserInputError
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.evaluation.run_resolver import RunRef
    from relearn.flows.results import RetrainResult, TrainResult


def run(
    *,
    networks: Networks = (),
    config: Annotated[RetrainConfig, Parameter(name="*")] = RetrainConfig(),
    gate: Gate = PromotionConfig(),
    preset: Preset = None,
    file: SettingsFile = None,
) -> None:
    """Train networks, and release the best one if the gate promotes it.

    Example: `relearn run --dataset photos`
    """
    start, console, home = perf_counter(), make_console(), Home.from_environment()
    system_limits.check_limits()
    check_home(home)
    train_config = build_train_config(config, networks)
    with _connected(train_config, networks, home, gate):
        from relearn.flows.retrain import retrain

        # A person typed it: train even if data and settings are unchanged.
        result = cast("RetrainResult", retrain(train_config, networks, gate, force=True))
    _print_train_results(console, result.train_results, result.best)
    print_note(_format_durations(result.stage_seconds, perf_counter() - start))
    if first := result.release_result.first_prediction_text:
        print_note(first)
    releases.print_result(console, result.release_result, home)


@contextmanager
def _connected(
    config: TrainConfig, networks: Sequence[str], home: Home, gate: PromotionConfig | None = None
) -> Iterator[None]:
    """Check settings and data, and connect the flows in the block to Prefect.

    What takes some seconds, the MLflow store and the import of the flows, is done while Prefect starts.
    """

    def prepare() -> None:
        from relearn.flows import retrain  # noqa: F401
        from relearn.flows.tracking.runs import check_store
        from relearn.model.data.load import default_model_name

        check_store(home, default_model_name(config, home))

    with ExitStack() as stack:
        with spinner("Starting"):
            from relearn.flows.training.preconditions import check_inputs, list_ignored_settings

            check_inputs(config, networks, home)
            for network in networks:
                if ignored := list_ignored_settings(network, given_values):
                    names = ", ".join(ignored)
                    print_warning(f"no effect on {network}, of which only a head is trained: {names}")
            dataset = "MNIST, or digits if it is not on disk" if config.dataset == "auto" else config.dataset
            print_note(f"Training {' and '.join(networks) or 'networks'} on {dataset}")
            stack.enter_context(prefect_context(home, gate, prepare))
        yield


def train(
    *,
    resume: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=(0, 1), metavar="[RUN]")] = None,
    config: Config = TrainConfig(),
    preset: Preset = None,
    file: SettingsFile = None,
) -> None:
    """Train one network and evaluate it; nothing is released.

    Example: `relearn train --network cnn --epochs 5`

    Parameters
    ----------
    resume
        Continue an interrupted training from its last checkpoint: the run id, by default the latest.
    """
    home = Home.from_environment()
    system_limits.check_limits()
    check_home(home)
    run_id = None
    if resume is not None:
        run_id, config = _resolve_resume(home, resume, config)
    with _connected(config, [config.network], home):
        from relearn.flows.train import train as train_flow

        result = train_flow(config, run_id)
    console = make_console()
    _print_train_results(console, [result], result)
    console.print(f"Run {result.run_id[:8]}, {result.summary}.")
    print_next("release", result.run_id[:8])


def _resolve_resume(home: Home, run_refs: Sequence[str], config: TrainConfig) -> tuple[str, TrainConfig]:
    """Return the id of the run to resume, and the config of that run."""
    from relearn.flows.tracking.runs import resolve_run_id
    from relearn.flows.training import resume

    run_id = (
        (resume.find_unfinished(home, run_refs[0]) or resolve_run_id(home, run_refs[0]))
        if run_refs
        else resume.find_latest_unfinished(home)
    )
    # Only settings that the user gave override those of the run.
    explicit_settings = {
        name: getattr(config, name) for name in given_values if name in TrainConfig.model_fields
    }
    return run_id, resume.load_resume_config(home, run_id, explicit_settings)


@spinner("Evaluating")
def evaluate(
    run: str,
    /,
    *,
    dataset: str | None = None,
    report: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    reproduce: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Evaluate the classifier of a run on images that it has not learned from, or train it again.

    Example: `relearn evaluate digits@1 --dataset csv:more.csv`

    Parameters
    ----------
    run
        Run id, the beginning of one, a run name, or a version such as mnist@3, mnist@champion, or just 3.
        Of a retraining, the training that it chose.
    dataset
        Dataset whose images are all evaluated, as for `relearn train`, except those that the run learned
        from; the run's own test images by default.
    report
        Also write a report to this file: one HTML page with data, curves, errors, calibration, robustness,
        gate decision and settings. MLflow keeps it, too, as a file of the run.
    force
        Replace this file if it exists.
    reproduce
        Train it again from its model card alone, and compare the weights: identical, equivalent (no
        significant difference on the test images), or different, with exit code 4.
    """
    home = Home.from_environment()
    if reproduce:
        if dataset is not None or report is not None:
            other = "--dataset" if dataset is not None else "--report"
            raise UserInputError(f"--reproduce: got {other} as well, accepted: one of the two")
        from relearn.flows.evaluation.run_resolver import resolve_run

        _reproduce(home, resolve_run(home, run), json)
        return
    check_output("--report", report, force, (".html",))
    from relearn.flows.evaluation.evaluate import evaluate_run

    result = evaluate_run(home, run, dataset)
    if report is not None:
        from relearn.flows.evaluation.report import publish_report

        write_bytes_atomically(report, publish_report(home, result).encode())
    evaluation, console = result.evaluation, make_console()
    if json:
        print_json(
            {
                "run": result.run_name,
                "dataset": result.prepared.name,
                "images": result.images,
                "metrics": evaluation.metrics,
                "classes": evaluation.class_report,
            }
        )
        return
    rows = [
        (row["class"], *(f"{row[key]:.2%}" for key in ("precision", "recall", "f1")), f"{row['support']}")
        for row in evaluation.class_report.to_dict("records")
    ]
    columns = ("class", "precision", "recall", "F1", "images")
    console.print(Table(columns, rows, f"{result.run_name} on {result.prepared.name}"))
    print_note(result.images)
    console.print(
        Text.assemble(
            (f"Accuracy {evaluation.accuracy_with_interval}", "bold"),
            f", loss {evaluation.loss:.4f}, macro F1 {evaluation.metrics['f1_macro']:.4f}.",
        )
    )
    if report is not None:
        console.print(str(report), style="dim", soft_wrap=True)


def _reproduce(home: Home, run: "RunRef", json: bool) -> None:
    """Print both evaluations and the conclusion; raise `CorruptDataError` if the weights differ."""
    from relearn.flows.evaluation.reproduce import reproduce_run, reproduce_version

    if run.model_name and run.version:
        result = reproduce_version(home, run.model_name, run.version)
    else:
        result = reproduce_run(home, run)
    circumstances = "".join(f"; {difference}" for difference in result.environment_differences)
    if json:
        print_json(result)
    else:
        table = build_comparison_table(
            ("original", "reproduced"), result.original_metrics, result.retrained_metrics
        )
        make_console().print(table)
    if result.conclusion == "different":
        message = f"not reproduced: {result.comparison}, a significant difference{circumstances}"
        raise CorruptDataError(message, "not_reproduced")
    if json:
        return
    if result.conclusion == "identical":
        status, message = ("SAME", "green"), f" {result.label} was reproduced bit for bit"
    else:
        status = ("CLOSE", "yellow")
        message = (
            f" weights of {result.label} differ by up to {result.max_difference:.2g},"
            f" {result.agreement:.2%} of the labels agree: {result.comparison}"
        )
    make_console().print(Text.assemble(status, message + circumstances))


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
