"""Building of a Bento: a classifier folder as a BentoML model, with the service that serves it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import relearn
from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.serving.deployment.bento_store import bento_store_paths, find_bento_folder, move_to_store

_TAG = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")


def build_bento(classifier_folder: Path, name: str, version: str, home: Home) -> str:
    """Build the Bento `name:version` of a saved classifier in `home.bentoml`; return its tag.

    The Bento contains the classifier, the source of `model` and `serving`, and pinned requirements. The
    build is atomic and idempotent. Raises `UserInputError` for a name or version that BentoML cannot use,
    `CorruptDataError` if another classifier has this tag, `InfrastructureError` if the build fails, and
    the errors of `Classifier.load`.
    """
    for identifier in (name, version):
        if not _TAG.fullmatch(identifier):
            raise UserInputError(
                f"release: got {identifier!r}, accepted: lower-case letters, digits, '-', '_' and '.', 63 at"
                " most, a letter or digit at both ends"
            )
    from relearn.model.inference.classifier import Classifier  # imports torch, which a start does not need

    card = Classifier.load(classifier_folder).card
    if not _is_packaged(classifier_folder, name, version, home):
        labels = {"dataset": card.dataset, "network": card.config.network, "classes": str(len(card.classes))}
        (home.bentoml / "tmp").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="relearn-", dir=home.bentoml / "tmp") as staging:
            _build_in_subprocess(classifier_folder, name, version, labels, Path(staging))
            for store in reversed(bento_store_paths(name, home)):
                move_to_store(Path(staging) / store.relative_to(home.bentoml), version, store)
    return f"{name}:{version}"


def _is_packaged(classifier_folder: Path, name: str, version: str, home: Home) -> bool:
    """Check whether the Bento is undamaged; raise `CorruptDataError` if it holds another classifier."""
    from relearn.model.inference.classifier import Classifier
    from relearn.model.inference.model_card import CARD_FILE

    folder = home.bentoml / "models" / name / version
    try:
        packaged_card = (folder / CARD_FILE).read_bytes()
        Classifier.load(folder)
    except (FileNotFoundError, CorruptDataError):
        return False
    if packaged_card != (classifier_folder / CARD_FILE).read_bytes():
        raise CorruptDataError(f"another classifier is packaged as {name}:{version} in {home.bentoml}")
    try:
        find_bento_folder(f"{name}:{version}", home)
    except (NotFoundError, CorruptDataError):
        return False
    return True


def _build_in_subprocess(
    classifier_folder: Path, name: str, version: str, labels: dict[str, str], staging: Path
) -> None:
    """Run BentoML's build in a subprocess, from a copy of the source, with `staging` as BentoML's home.

    A subprocess, since the build changes working directory, `sys.path` and logging. It imports the service
    from the copy, which fails if the copy is incomplete.
    """
    context = staging / "context"
    source = Path(str(relearn.__file__)).parent
    ignore_patterns = shutil.ignore_patterns("__pycache__", "__main__.py", "flows")
    shutil.copytree(source, context / source.name, ignore=ignore_patterns)
    environment = build_bentoml_environment() | {"BENTOML_HOME": str(staging), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONSAFEPATH", None)  # the build imports the copy from its working directory
    command = [
        sys.executable,
        "-m",
        "relearn.serving.deployment.build_bento_process",
        str(classifier_folder.absolute()),
        name,
        version,
    ]
    result = subprocess.run(  # noqa: S603
        [*command, json.dumps(labels)],
        cwd=context,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        error_lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise InfrastructureError(f"the build of the Bento {name}:{version} failed: {error_lines[-1]}")


def build_bentoml_environment() -> dict[str, str]:
    """Return the environment for BentoML's processes: telemetry is off unless the user enabled it."""
    environment = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", **os.environ}
    environment.pop("BENTOML_CONTAINERIZED", None)  # if set, dead workers are not replaced
    if not environment.get("BENTOML_CONFIG"):
        environment.pop("BENTOML_CONFIG", None)  # if empty, BentoML opens a file without a name
    return environment
