"""Classifier folder → BentoML model → Bento: all that answers requests, in one folder of its own."""

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
from relearn.model.files import remove_atomically, write_bytes_atomically
from relearn.model.home import Home

_TAG = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")


def build_bento(classifier_folder: Path, name: str, version: str, home: Home) -> str:
    """Make the Bento `name:version` of a saved classifier in `home.bentoml`; returns its tag.

    The Bento carries the classifier, the source of `model` and `serving`, and pinned requirements.
    Made beside the stores and moved in whole: it is there or not. Doing it again changes nothing.
    Raises `InputError` for a name or version BentoML cannot use, what `Classifier.load` raises for an
    unsound folder, `IntegrityError` when another classifier stands under this tag, `MachineError`.
    """
    for identifier in (name, version):
        if not _TAG.fullmatch(identifier):
            raise UserInputError(
                f"release: got {identifier!r}, accepted: lower-case letters, digits, '-', '_' and '.', 63 at"
                " most, a letter or digit at both ends"
            )
    from relearn.model.inference.classifier import Classifier  # torch, which starting a server does without

    card = Classifier.load(classifier_folder).card
    if not _is_packaged(classifier_folder, name, version, home):
        labels = {"dataset": card.dataset, "network": card.config.network, "classes": str(len(card.classes))}
        (home.bentoml / "tmp").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="relearn-", dir=home.bentoml / "tmp") as staging:
            _build_in_subprocess(classifier_folder, name, version, labels, Path(staging))
            for store in reversed(bento_store_paths(name, home)):
                _move_to_store(Path(staging) / store.relative_to(home.bentoml), version, store)
    return f"{name}:{version}"


def find_bento_folder(tag: str, home: Home) -> Path:
    """Where the Bento `name:version` lies; exact, unlike BentoML's own look-up by the start of a version."""
    name, _, version = tag.partition(":")
    folder = home.bentoml / "bentos" / name / version
    if not version or not (folder / "bento.yaml").is_file():
        raise NotFoundError(f"no Bento {tag} in {home.bentoml}")
    return folder


def bento_store_paths(name: str, home: Home) -> tuple[Path, Path]:
    """Where BentoML keeps the versions of `name`: its Bentos, and the models that these name."""
    return home.bentoml / "bentos" / name, home.bentoml / "models" / name


def delete_bento(name: str, version: str, home: Home) -> None:
    """Take a Bento and then its model away, where they are; `name:latest` means the newest that is left."""
    for store in bento_store_paths(name, home):
        if (store / version).is_dir():
            remove_atomically(store / version)
        remaining_versions = [folder.name for folder in store.glob("[0-9]*") if folder.name.isdecimal()]
        if remaining_versions:
            _set_latest(store, max(remaining_versions, key=int))
        else:
            (store / "latest").unlink(missing_ok=True)


def _is_packaged(classifier_folder: Path, name: str, version: str, home: Home) -> bool:
    """Whether this very classifier is packaged under this tag already."""
    from relearn.model.inference.model_card import CARD_FILE

    try:
        packaged_card = (home.bentoml / "models" / name / version / CARD_FILE).read_bytes()
    except FileNotFoundError:
        return False
    if packaged_card != (classifier_folder / CARD_FILE).read_bytes():
        raise CorruptDataError(f"another classifier is packaged as {name}:{version} in {home.bentoml}")
    return (home.bentoml / "bentos" / name / version / "bento.yaml").is_file()


def _build_in_subprocess(
    classifier_folder: Path, name: str, version: str, labels: dict[str, str], staging: Path
) -> None:
    """Run BentoML's build in a process of its own, from a copy of the source, with `staging` as its home.

    It changes the working directory, `sys.path` and the logging of the process it runs in, and importing
    the service from the copy shows that the copy is complete.
    """
    context = staging / "context"
    source = Path(str(relearn.__file__)).parent
    ignore_patterns = shutil.ignore_patterns("__pycache__", "__main__.py", "flows")
    shutil.copytree(source, context / source.name, ignore=ignore_patterns)
    environment = build_bentoml_environment() | {"BENTOML_HOME": str(staging), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONSAFEPATH", None)  # the copy is imported, from the folder where the build runs
    command = [
        sys.executable,
        "-m",
        "relearn.serving.deployment.build_bento",
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
        raise InfrastructureError(f"{name}:{version} could not be packaged: {error_lines[-1]}")


def build_bentoml_environment() -> dict[str, str]:
    """Our environment for BentoML's processes: no telemetry unless the user asked for it."""
    environment = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", **os.environ}
    environment.pop("BENTOML_CONTAINERIZED", None)  # with it, workers that die are not replaced
    if not environment.get("BENTOML_CONFIG"):
        environment.pop("BENTOML_CONFIG", None)  # set but empty, BentoML looks for a file without a name
    return environment


def _move_to_store(staging_store: Path, version: str, store: Path) -> None:
    """Move one version into BentoML's store, and let `name:latest` mean it."""
    store.mkdir(parents=True, exist_ok=True)
    if not (store / version).exists():
        (staging_store / version).rename(store / version)
    _set_latest(store, version)


def _set_latest(store: Path, version: str) -> None:
    write_bytes_atomically(store / "latest", version.encode())
