"""Promises of `build_bento`: the Bento is complete, pinned, free of `flows`, and built only once."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.deployment.bento_store import find_bento_folder
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.requirements import REQUIREMENTS


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return bytes and modification time of every file under `folder`."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def list_source_files(root: Path) -> set[str]:
    """Return the source files of `model` and `serving` under `root`."""
    paths = [path for layer in ("model", "serving") for path in (root / layer).rglob("*.*")]
    return {str(path.relative_to(root)) for path in paths if path.suffix != ".pyc"}


def test_bento_contains_source_classifier_and_pins(bento: str, saved: Path, home: Home):
    """It has `model` and `serving` with the page, the classifier by tag, and versions that an index knows."""
    folder = find_bento_folder(bento, home)
    source = list_source_files(Path(__file__).parents[3])

    assert {"serving/service.py", "serving/page/index.html"} <= source
    assert source == list_source_files(folder / "src" / "relearn")
    stored = home.bentoml / "models" / "digits" / "3"
    assert {path.name for path in saved.iterdir()} | {"model.yaml"} == {
        path.name for path in stored.iterdir()
    }
    assert "tag: digits:3" in (folder / "bento.yaml").read_text()
    pins = (folder / "env" / "python" / "requirements.txt").read_text().split()
    assert set(REQUIREMENTS) == {pin.partition("==")[0] for pin in pins}
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", pin) for pin in pins)


def test_source_in_the_bento_does_not_import_flows(bento: str, home: Home):
    """No file imports flows, mlflow or prefect."""
    for file in (find_bento_folder(bento, home) / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(re.match(r"(relearn\.flows|mlflow|prefect)\b", name) for name in names), file


def test_building_twice_changes_nothing(bento: str, saved: Path, home: Home):
    """The same classifier and version give the same tag, no changed file and no temporary file."""
    before = snapshot(home.bentoml)

    assert "digits:3" == build_bento(saved, "digits", "3", home)

    assert before == snapshot(home.bentoml)
    assert [] == list((home.bentoml / "tmp").iterdir())


def test_missing_or_damaged_bento_is_built_again(saved: Path, tmp_path: Path):
    """After a kill between model and Bento, or a power failure, the next build completes it."""
    home = Home(tmp_path, tmp_path)
    build_bento(saved, "digits", "1", home)
    shutil.rmtree(home.bentoml / "bentos" / "digits" / "1")
    (home.bentoml / "models" / "digits" / "1" / "weights.safetensors").write_bytes(b"")

    build_bento(saved, "digits", "1", home)

    assert (find_bento_folder("digits:1", home) / "bento.yaml").is_file()
    Classifier.load(home.bentoml / "models" / "digits" / "1")


def test_new_version_leaves_previous_one_unchanged(
    bento: str, make_classifier: Callable[..., Classifier], home: Home, tmp_path: Path
):
    """The new version becomes the latest."""
    before = snapshot(find_bento_folder(bento, home))
    make_classifier(seed=1).save(tmp_path / "next")

    build_bento(tmp_path / "next", "digits", "4", home)

    assert before == snapshot(find_bento_folder(bento, home))
    assert "4" == (home.bentoml / "bentos" / "digits" / "latest").read_text()
    stored = [Classifier.load(home.bentoml / "models" / "digits" / version) for version in "34"]
    assert 2 == len({tuple(classifier.card.digests.values()) for classifier in stored})


def test_version_is_never_reused_for_another_classifier(
    bento: str, make_classifier: Callable[..., Classifier], home: Home, tmp_path: Path
):
    make_classifier(seed=2).save(tmp_path / "second")

    with pytest.raises(CorruptDataError, match="another classifier is packaged as digits:3"):
        build_bento(tmp_path / "second", "digits", "3", home)


def test_damaged_classifier_is_not_packaged(saved: Path, tmp_path: Path):
    """One changed byte is enough, and no file is created."""
    shutil.copytree(saved, tmp_path / "bad")
    weights = tmp_path / "bad" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    home = Home(tmp_path / "home", tmp_path)

    with pytest.raises(CorruptDataError):
        build_bento(tmp_path / "bad", "digits", "1", home)
    with pytest.raises(NotFoundError):
        build_bento(tmp_path / "nowhere", "digits", "1", home)

    assert not home.root.exists()


@pytest.mark.parametrize(
    ("name", "version"), [("Digits", "1"), ("digits-", "1"), ("a/b", "1"), ("x", ""), ("x", "é")]
)
def test_invalid_tag_is_rejected(saved: Path, home: Home, name: str, version: str):
    """The message lists the accepted characters."""
    with pytest.raises(UserInputError, match="accepted: lower-case letters"):
        build_bento(saved, name, version, home)


def test_bento_is_found_only_by_its_full_tag(bento: str, home: Home):
    """`digits:3` does not match `digits:30` or another tag with the same prefix."""
    (home.bentoml / "bentos" / "digits" / "30").mkdir(exist_ok=True)

    for tag in ("digits:30", "digits:", "digits", "other:3"):
        with pytest.raises(NotFoundError, match="no Bento"):
            find_bento_folder(tag, home)
