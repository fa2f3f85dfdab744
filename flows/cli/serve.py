"""`relearn serve` and `relearn predict`: predictions of the released classifier, over HTTP or from files."""

import io
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from relearn.flows import system_limits
from relearn.flows.console import make_console
from relearn.flows.rendering import Table, check_output
from relearn.flows.shutdown import stop_on_ctrl_c
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.files import to_csv, write_bytes_atomically
from relearn.model.home import Home
from relearn.model.images.formats import FORMAT_NAMES
from relearn.serving.config import API_KEYS, ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.hosts import describe_clients
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore, get_current_release

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from relearn.model.inference.classifier import Classifier
    from relearn.serving.inputs.input_spec import InputSpec


def serve(
    *,
    model_name: str | None = None,
    allow_empty: Annotated[bool, Parameter(negative=())] = False,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
) -> None:
    """Start the prediction API of the released classifier, until Ctrl-C.

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
    server = start_server(bento, config, home, model_name=model_name, api_keys=os.environ.get(API_KEYS, ""))
    has_keys = bool(ApiKeys.from_config(config, os.environ))
    try:
        server.wait_until_ok("/readyz" if release else "/livez")
        if release:
            _print_usage(server, model_name, release, home)
        else:
            make_console().print(f"{model_name} has no release yet; {server.url} serves the first one")
        make_console().print(describe_clients(config, has_keys), soft_wrap=True)
        raise server.exit_error()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        server.stop()


def _print_usage(server: Server, name: str, release: Release, home: Home) -> None:
    from relearn.serving.releases.golden import Golden

    example = server.folder / "example.png"
    version_folder = ReleaseStore(home.releases_dir(name)).version_folder(release.version)
    card = json.loads((version_folder / "card.json").read_bytes())  # `read_card` would import torch
    example.write_bytes(Golden.load(version_folder).encode_example(card.get("file_scale")))
    request = f"-H 'Content-Type: image/png' --data-binary @{shlex.quote(str(example))}"
    console = make_console()
    heading = f"{name} {release.version} answers at "
    console.print(Text.assemble(heading, (server.url, "bold"), ", Ctrl-C stops it. Try:"))
    console.print(f"curl {request} {server.url}/predict", soft_wrap=True)
    console.print(f"Draw: {server.url}/draw, try the API: {server.url}/docs", soft_wrap=True)
    console.print(f"Its log: {server.log_file}", style="dim", soft_wrap=True)


def predict(
    *files: Annotated[Path, Parameter(help=f"{FORMAT_NAMES} files.")],
    model_name: str | None = None,
    classifier: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Classify image files with the released classifier, without a server.

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
    predictions = _predict_files(loaded, files)
    if output is None:
        # Not as named tuples: class names are no Python names.
        shown = predictions[["file", "label", "probability", "reason"]].itertuples(index=False, name=None)
        rows = [
            (str(file), label or "–", reason or f"{probability:.1%}")
            for file, label, probability, reason in shown
        ]
        make_console().print(Table(("file", "label", "probability"), rows))
        return
    write_bytes_atomically(output, _encode_predictions(predictions, output.suffix))
    make_console().print(f"{len(predictions)} predictions in {output}", soft_wrap=True)


def _predict_files(classifier: "Classifier", files: tuple[Path, ...]) -> "pd.DataFrame":
    """Return one row per file: label, its probability, and `p_CLASS` for every class.

    A drawing without ink has no label and no probabilities, but the `reason`.
    """
    import numpy as np
    import pandas as pd

    from relearn.serving.inputs.input_spec import NO_CONTENT, InputSpec

    card = classifier.card
    input_spec = InputSpec.from_card(card, max_images=1)
    images = np.concatenate([_read_image(file, input_spec) for file in files])
    is_blank, probabilities = classifier.find_blank(images), classifier.predict(images)
    labels = classifier.to_labels(probabilities)
    probabilities[is_blank] = np.nan
    predictions = pd.DataFrame(
        {
            "file": [str(file) for file in files],
            "label": [None if blank else label for label, blank in zip(labels, is_blank, strict=True)],
            "probability": probabilities.max(axis=1),
            "reason": [NO_CONTENT if blank else None for blank in is_blank],
        }
    )
    columns = [f"p_{name}" for name in card.classes]
    return predictions.join(pd.DataFrame(probabilities, columns=columns))


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
