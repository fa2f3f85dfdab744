"""`relearn serve` and `relearn predict`: answers of the released classifier, over HTTP and without."""

import io
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from relearn.flows.rendering import Table, check_output
from relearn.model import atomic
from relearn.model.errors import InputError, NotFoundError
from relearn.model.home import Home
from relearn.serving.ledger import Release
from relearn.serving.releases import Releases, released
from relearn.serving.server import Server, start
from relearn.serving.settings import API_KEYS, ServeConfig

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from relearn.model.classifier import Classifier
    from relearn.serving.accepted import Accepted


def serve(
    *,
    name: str | None = None,
    wait: Annotated[bool, Parameter(negative=())] = False,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
) -> None:
    """Start the prediction API of the released classifier, until Ctrl-C.

    Parameters
    ----------
    name
        Which name's release to serve; not needed while only one is released.
    wait
        Start also where nothing is released under the name yet; the first release is then served at once.
    """
    home = Home.from_environment()
    try:
        name, release = released(home, name)
    except NotFoundError:
        if not (wait and name):
            raise
        release = None
    bento = release.bento if release else None
    server = start(bento, config, home, follow=name, keys=os.environ.get(API_KEYS, ""))
    try:
        server.wait_for("/readyz" if release else "/livez")
        if release:
            _tell(server, name, release, home)
        else:
            Console(highlight=False).print(f"nothing is live as {name} yet; {server.url} waits for it")
        raise server.gone()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        server.stop()


def _tell(server: Server, name: str, release: Release, home: Home) -> None:
    example = server.folder / "example.png"
    card = json.loads((Releases(home.releases(name)).folder(release.version) / "card.json").read_bytes())
    _draw_bar(card["shape"], example)
    request = f"-H 'Content-Type: image/png' --data-binary @{shlex.quote(str(example))}"
    console = Console(highlight=False)
    console.print(f"{name} {release.version} answers at [bold]{server.url}[/], Ctrl-C stops it. Try:")
    console.print(f"curl {request} {server.url}/predict", soft_wrap=True)
    console.print(f"Its log: {server.log}", style="dim", soft_wrap=True)


def _draw_bar(shape: tuple[int, int, int], path: Path) -> None:
    """A picture in the classifier's own size to try it with: a bright vertical bar."""
    from PIL import Image, ImageDraw

    channels, height, width = shape
    picture = Image.new("L" if channels == 1 else "RGB", (width, height))
    bar = (width // 2 - 1, height // 7, width // 2, height - 1 - height // 7)
    ImageDraw.Draw(picture).rectangle(bar, "white")
    picture.save(path)


def predict(
    *files: Path,
    name: str | None = None,
    classifier: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Read image files with the released classifier, without a server.

    Parameters
    ----------
    files
        PNG or JPEG files.
    name
        Which name's release to use; not needed while only one is released.
    classifier
        Folder of a saved classifier, instead of a release.
    output
        File for all probabilities, .parquet or .csv; the terminal shows the labels without.
    force
        Replace the output file where it exists.
    """
    if not files:
        raise InputError("files: got none, accepted: PNG or JPEG files")
    check_output("--output", output, force, (".parquet", ".csv"))
    from relearn.model.classifier import Classifier

    if classifier is None:
        home = Home.from_environment()
        name, release = released(home, name)
        classifier = Releases(home.releases(name)).folder(release.version)
    answers = _answers(Classifier.load(classifier), files)
    if output is None:
        rows = [(str(one.file), str(one.label), f"{one.probability:.1%}") for one in answers.itertuples()]
        Console().print(Table(("file", "label", "probability"), rows))
        return
    atomic.write_bytes(output, _encoded(answers, output.suffix))
    Console(highlight=False).print(f"{len(answers)} predictions in {output}", soft_wrap=True)


def _answers(classifier: "Classifier", files: tuple[Path, ...]) -> "pd.DataFrame":
    """One row a file: its label, the label's probability, and `p_CLASS` for every class."""
    import numpy as np
    import pandas as pd

    from relearn.serving.accepted import Accepted

    card = classifier.card
    accepted = Accepted(card.shape, card.style, max_images=1)
    probabilities = classifier.predict(np.concatenate([_image(file, accepted) for file in files]))
    answers = pd.DataFrame(
        {
            "file": [str(file) for file in files],
            "label": classifier.labels(probabilities),
            "probability": probabilities.max(axis=1),
        }
    )
    columns = [f"p_{name}" for name in card.classes]
    return answers.join(pd.DataFrame(probabilities, columns=columns))


def _image(file: Path, accepted: "Accepted") -> "np.ndarray":
    from relearn.serving.pictures import from_picture

    try:
        return from_picture(file.read_bytes(), accepted)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{file}{str(error).removeprefix('body')}", error.code) from None


def _encoded(answers: "pd.DataFrame", suffix: str) -> bytes:
    if suffix == ".csv":
        return answers.to_csv(index=False).encode()
    content = io.BytesIO()
    answers.to_parquet(content, index=False)
    return content.getvalue()
