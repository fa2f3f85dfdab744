"""`relearn serve`, `up` and `predict`: predictions of the released classifier, over HTTP or from files."""

import io
import os
import shlex
import time
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.live import Live
from rich.text import Text

from relearn.flows.cli.parameters import Json, SettingsFile
from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import ServiceState, Supervisor, run_services
from relearn.flows.process import system_limits
from relearn.flows.process.home_probe import check_home
from relearn.flows.process.shutdown import print_error, stop_on_ctrl_c
from relearn.flows.terminal.console import make_console, print_json, print_note, spinner
from relearn.flows.terminal.rendering import Table, check_output
from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.model.files import to_csv, write_bytes_atomically
from relearn.model.home import Home
from relearn.model.images.formats import FORMAT_NAMES
from relearn.serving.config import API_KEYS, ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.hosts import describe_clients
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore, get_current_release, list_released_names

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from relearn.model.inference.classifier import Classifier
    from relearn.serving.inputs.input_spec import InputSpec

Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
REFRESH_INTERVAL_SECONDS = 1.0  # of the table of `relearn up`


def serve(
    *,
    model_name: str | None = None,
    allow_empty: Annotated[bool, Parameter(negative=())] = False,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
    file: SettingsFile = None,
) -> None:
    """Start the prediction API of the released classifier, until Ctrl-C.

    Example: `relearn serve --workers 2`

    Parameters
    ----------
    model_name
        Model name to serve; optional while only one is released.
    allow_empty
        Start even if the model name has no release yet; the first release is then served at once.
    """
    stop_on_ctrl_c()
    system_limits.check_loopback()
    home = Home.from_environment()
    try:
        model_name, release = get_current_release(home, model_name)
    except NotFoundError:
        if not (allow_empty and model_name):
            raise
        release = None
    bento = release.bento if release else None
    keys = os.environ.get(API_KEYS, "")
    try:
        server = start_server(bento, config, home, model_name=model_name, api_keys=keys)
    except (NotFoundError, CorruptDataError) as error:
        if release is None:
            raise
        raise type(error)(f"{error}; relearn release {release.run_id[:8]} builds it again") from None
    has_keys = bool(ApiKeys.from_config(config, os.environ))
    try:
        with spinner("Starting the server"):
            server.wait_until_ok("/readyz" if release else "/livez")
        if release:
            _print_usage(server, model_name, release, home)
        else:
            make_console().print(f"{model_name} has no release yet; {server.url} serves the first one")
        print_note(describe_clients(config, has_keys))
        raise server.exit_error()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        server.stop()


def _print_usage(server: Server, name: str, release: Release, home: Home) -> None:
    from relearn.serving.releases.golden import Golden

    example = server.folder / "example.png"
    version_folder = ReleaseStore(home.releases_dir(name)).version_folder(release.version)
    card_file = version_folder / "card.json"
    try:
        card = loads(card_file.read_bytes())  # `read_card` would import torch
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"{card_file} cannot be read: {error}") from None
    example.write_bytes(Golden.load(version_folder).encode_example(card.get("file_scale")))
    request = f"-H 'Content-Type: image/png' --data-binary @{shlex.quote(str(example))}"
    heading = f"{name} {release.version} answers at "
    make_console().print(Text.assemble(heading, (server.url, "bold"), ", Ctrl-C stops it."))
    print_note(f"Draw: {server.url}/draw, try the API: {server.url}/docs")
    print_note(f"Its log: {server.log_file}", style="dim")
    print_note(f"curl {request} {server.url}/predict")


def up(
    *,
    model_name: str | None = None,
    prefect_port: Port = 4200,
    mlflow_port: Port = 5000,
    worker_port: Port = 4201,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
    file: SettingsFile = None,
) -> None:
    """Start the Prefect and MLflow servers, the worker and the prediction API; keep them alive until Ctrl-C.

    Example: `relearn up --model-name digits`

    Parameters
    ----------
    model_name
        Model name to train and serve; by default the only released one, else the one `relearn run` would use.
    prefect_port
        Port of the Prefect server.
    mlflow_port
        Port of the MLflow server.
    worker_port
        Port of the worker's health endpoint.
    """
    stop_on_ctrl_c()
    home, console = Home.from_environment(), make_console()
    system_limits.check_limits()
    check_home(home)
    model_name = model_name or _pick_model_name(home)
    with run_services(
        home, services(home, model_name, config, prefect_port, mlflow_port, worker_port)
    ) as supervisor:
        _print_states(supervisor, console)


def _pick_model_name(home: Home) -> str:
    """Return the only released model name, else the one `relearn run` would use."""
    model_names = list_released_names(home)
    if len(model_names) == 1:
        return model_names[0]
    from relearn.model.config import TrainConfig
    from relearn.model.data.load import default_model_name

    return default_model_name(TrainConfig(), home)


def _print_states(supervisor: Supervisor, console: Console) -> None:
    """Print the states forever: a live table on a terminal, elsewhere a line per change."""
    if console.is_terminal:
        with Live(
            _build_table(supervisor.poll_states()), console=console, auto_refresh=False
        ) as live_display:
            while True:
                live_display.update(_build_table(supervisor.poll_states()), refresh=True)
                time.sleep(REFRESH_INTERVAL_SECONDS)
    previous_states: list[ServiceState] = []
    while True:
        states = supervisor.poll_states()
        for state in states:
            if state not in previous_states:
                console.print(f"{time.strftime('%H:%M:%S')} {_format_line(state)}", soft_wrap=True)
        previous_states = states
        time.sleep(REFRESH_INTERVAL_SECONDS)


def _format_line(state: ServiceState) -> str:
    restart_note = f", {state.restarts} restarts, last exit: {state.last_exit}" if state.restarts else ""
    return f"{state.service.name} {state.status} {state.service.url}{state.service.ui_path}{restart_note}"


def _build_table(states: list[ServiceState]) -> Table:
    rows = [
        (
            state.service.name,
            state.status,
            f"{state.service.url}{state.service.ui_path}",
            str(state.restarts or ""),
            state.last_exit,
        )
        for state in states
    ]
    return Table(("service", "state", "URL", "restarts", "last exit"), rows)


@spinner("Classifying")
def predict(
    *files: Annotated[Path, Parameter(help=f"{FORMAT_NAMES} files.")],
    model_name: str | None = None,
    classifier: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Classify image files with the released classifier, without a server.

    Example: `relearn predict cat.jpg dog.jpg`

    Parameters
    ----------
    model_name
        Model name of the release to use; optional while only one is released.
    classifier
        Folder of a saved classifier to use instead of a release.
    output
        File for all probabilities, .parquet or .csv; by default the labels are printed.
    force
        Replace the output file if it exists.
    """
    if not files:
        raise UserInputError(f"files: got none, accepted: {FORMAT_NAMES} files")
    check_output("--output", output, force, (".parquet", ".csv"))
    from relearn.model.inference.classifier import Classifier
    from relearn.serving.runtime.hot_reload import load_release

    if classifier is None:
        home = Home.from_environment()
        model_name, release = get_current_release(home, model_name)
        loaded = load_release(ReleaseStore(home.releases_dir(model_name)), release).classifier
    else:
        loaded = Classifier.load(classifier)
    predictions, errors = _predict_files(loaded, files)
    if output is not None and len(predictions):
        write_bytes_atomically(output, _encode_predictions(predictions, output.suffix))
    if json:
        print_json(predictions)
    elif len(predictions):
        _print_predictions(predictions, output)
    for error in errors[:-1]:
        print_error(2, error.code, str(error))
    if errors:
        raise errors[-1]


def _print_predictions(predictions: "pd.DataFrame", output: Path | None) -> None:
    """Print the labels, or how many predictions are in `output`."""
    if output is not None:
        make_console().print(f"{len(predictions)} predictions in {output}", soft_wrap=True)
        return
    # Not as named tuples: class names are no Python names.
    shown = predictions[["file", "label", "probability", "reason"]].itertuples(index=False, name=None)
    rows = [
        (str(file), label or "–", reason or f"{probability:.1%}")
        for file, label, probability, reason in shown
    ]
    make_console().print(Table(("file", "label", "probability"), rows))


def _predict_files(
    classifier: "Classifier", files: tuple[Path, ...]
) -> "tuple[pd.DataFrame, list[UserInputError]]":
    """Return one row per file, and an error for each file that cannot be read.

    A row has the label, its probability, and `p_CLASS` for every class. A drawing without ink has no label,
    no probabilities, but the `reason`.
    """
    import numpy as np
    import pandas as pd

    from relearn.serving.inputs.input_spec import NO_CONTENT, InputSpec

    card = classifier.card
    input_spec = InputSpec.from_card(card, max_images=1)
    read_files, arrays, errors = list[str](), list[np.ndarray](), list[UserInputError]()
    for file in files:
        try:
            arrays.append(_read_image(file, input_spec))
            read_files.append(str(file))
        except UserInputError as error:
            errors.append(error)
    if not read_files:
        return pd.DataFrame(), errors
    images = np.concatenate(arrays)
    is_blank, probabilities = classifier.find_blank(images), classifier.predict(images)
    labels = classifier.to_labels(probabilities)
    probabilities[is_blank] = np.nan
    predictions = pd.DataFrame(
        {
            "file": read_files,
            "label": [None if blank else label for label, blank in zip(labels, is_blank, strict=True)],
            "probability": probabilities.max(axis=1),
            "reason": [NO_CONTENT if blank else None for blank in is_blank],
        }
    )
    columns = [f"p_{name}" for name in card.classes]
    return predictions.join(pd.DataFrame(probabilities, columns=columns)), errors


def _read_image(file: Path, input_spec: "InputSpec") -> "np.ndarray":
    from relearn.serving.inputs.image_files import parse_image

    try:
        return parse_image(file.read_bytes(), input_spec)
    except OSError as error:
        raise UserInputError(f"{file} cannot be read: {error.strerror}") from None
    except UserInputError as error:
        raise UserInputError(f"{file}{str(error).removeprefix('body')}", error.code) from None


def _encode_predictions(predictions: "pd.DataFrame", suffix: str) -> bytes:
    if suffix == ".csv":
        return to_csv(predictions).encode()
    content = io.BytesIO()
    predictions.to_parquet(content, index=False)
    return content.getvalue()
