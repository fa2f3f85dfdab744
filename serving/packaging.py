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
from relearn.model import atomic
from relearn.model.errors import InputError, IntegrityError, MachineError, NotFoundError
from relearn.model.home import Home

_TAG = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")


def package(classifier_folder: Path, name: str, version: str, home: Home) -> str:
    """Make the Bento `name:version` of a saved classifier in `home.bentoml`; returns its tag.

    The Bento carries the classifier, the source of `model` and `serving`, and pinned requirements.
    Made beside the stores and moved in whole: it is there or not. Doing it again changes nothing.
    Raises `InputError` for a name or version BentoML cannot use, what `Classifier.load` raises for an
    unsound folder, `IntegrityError` when another classifier stands under this tag, `MachineError`.
    """
    for part in (name, version):
        if not _TAG.fullmatch(part):
            raise InputError(
                f"release: got {part!r}, accepted: lower-case letters, digits, '-', '_' and '.', 63 at most, "
                "a letter or digit at both ends"
            )
    from relearn.model.classifier import Classifier  # torch, which starting a server does without

    card = Classifier.load(classifier_folder).card
    if not _stands(classifier_folder, name, version, home):
        about = {"dataset": card.dataset, "network": card.config.network, "classes": str(len(card.classes))}
        (home.bentoml / "tmp").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="relearn-", dir=home.bentoml / "tmp") as staging:
            _build_apart(classifier_folder, name, version, about, Path(staging))
            for store in reversed(stores(name, home)):
                _move(Path(staging) / store.relative_to(home.bentoml), version, store)
    return f"{name}:{version}"


def bento_folder(tag: str, home: Home) -> Path:
    """Where the Bento `name:version` lies; exact, unlike BentoML's own look-up by the start of a version."""
    name, _, version = tag.partition(":")
    folder = home.bentoml / "bentos" / name / version
    if not version or not (folder / "bento.yaml").is_file():
        raise NotFoundError(f"no Bento {tag} in {home.bentoml}")
    return folder


def stores(name: str, home: Home) -> tuple[Path, Path]:
    """Where BentoML keeps the versions of `name`: its Bentos, and the models that these name."""
    return home.bentoml / "bentos" / name, home.bentoml / "models" / name


def discard(name: str, version: str, home: Home) -> None:
    """Take a Bento and then its model away, where they are; `name:latest` means the newest that is left."""
    for store in stores(name, home):
        if (store / version).is_dir():
            atomic.remove(store / version)
        left = [folder.name for folder in store.glob("[0-9]*") if folder.name.isdecimal()]
        if left:
            _let_be_latest(store, max(left, key=int))
        else:
            (store / "latest").unlink(missing_ok=True)


def _stands(classifier_folder: Path, name: str, version: str, home: Home) -> bool:
    """Whether this very classifier is packaged under this tag already."""
    from relearn.model.classifier import CARD

    try:
        there = (home.bentoml / "models" / name / version / CARD).read_bytes()
    except FileNotFoundError:
        return False
    if there != (classifier_folder / CARD).read_bytes():
        raise IntegrityError(f"another classifier is packaged as {name}:{version} in {home.bentoml}")
    return (home.bentoml / "bentos" / name / version / "bento.yaml").is_file()


def _build_apart(
    classifier_folder: Path, name: str, version: str, about: dict[str, str], staging: Path
) -> None:
    """Run BentoML's build in a process of its own, from a copy of the source, with `staging` as its home.

    It changes the working directory, `sys.path` and the logging of the process it runs in, and importing
    the service from the copy shows that the copy is complete.
    """
    context = staging / "context"
    source = Path(str(relearn.__file__)).parent
    ignored = shutil.ignore_patterns("__pycache__", "__main__.py", "flows")
    shutil.copytree(source, context / source.name, ignore=ignored)
    environment = server_environment() | {"BENTOML_HOME": str(staging), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONSAFEPATH", None)  # the copy is imported, from the folder where the build runs
    command = [
        sys.executable,
        "-m",
        "relearn.serving.bento",
        str(classifier_folder.absolute()),
        name,
        version,
    ]
    done = subprocess.run(  # noqa: S603
        [*command, json.dumps(about)],
        cwd=context,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MachineError(f"{name}:{version} could not be packaged: {lines[-1]}")


def server_environment() -> dict[str, str]:
    """Our environment for BentoML's processes: no telemetry unless the user asked for it."""
    environment = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", **os.environ}
    environment.pop("BENTOML_CONTAINERIZED", None)  # with it, workers that die are not replaced
    if not environment.get("BENTOML_CONFIG"):
        environment.pop("BENTOML_CONFIG", None)  # set but empty, BentoML looks for a file without a name
    return environment


def _move(built: Path, version: str, store: Path) -> None:
    """Move one version into BentoML's store, and let `name:latest` mean it."""
    store.mkdir(parents=True, exist_ok=True)
    if not (store / version).exists():
        (built / version).rename(store / version)
    _let_be_latest(store, version)


def _let_be_latest(store: Path, version: str) -> None:
    atomic.write_bytes(store / "latest", version.encode())
