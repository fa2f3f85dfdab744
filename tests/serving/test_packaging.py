"""Classifier folder → Bento: complete, pinned, without anything of flows, and the same when done twice."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.deployment.packaging import build_bento, find_bento_folder
from relearn.serving.deployment.requirements import REQUIREMENTS


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file under `folder`, its bytes and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def files(root: Path) -> set[str]:
    """The source files under `root`, a folder that holds model and serving."""
    found = [path for room in ("model", "serving") for path in (root / room).rglob("*.*")]
    return {str(path.relative_to(root)) for path in found if path.suffix != ".pyc"}


def test_the_bento_carries_source_classifier_and_pins(bento: str, saved: Path, home: Home):
    """Model and serving, its page too, the classifier by tag, exact versions that every index knows."""
    folder = find_bento_folder(bento, home)
    source = files(Path(__file__).parents[2])

    assert {"serving/service.py", "serving/page/index.html"} <= source
    assert source == files(folder / "src" / "relearn")
    stored = home.bentoml / "models" / "digits" / "3"
    assert {path.name for path in saved.iterdir()} | {"model.yaml"} == {
        path.name for path in stored.iterdir()
    }
    assert "tag: digits:3" in (folder / "bento.yaml").read_text()
    pins = (folder / "env" / "python" / "requirements.txt").read_text().split()
    assert set(REQUIREMENTS) == {pin.partition("==")[0] for pin in pins}
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", pin) for pin in pins)


def test_the_source_in_the_bento_needs_nothing_of_flows(bento: str, home: Home):
    """No file of it names flows, mlflow or prefect in an import."""
    for file in (find_bento_folder(bento, home) / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(re.match(r"(relearn\.flows|mlflow|prefect)\b", name) for name in names), file


def test_packaging_again_changes_nothing(bento: str, saved: Path, home: Home):
    """The same classifier under the same version: same tag, not one file touched, nothing left over."""
    before = tree(home.bentoml)

    assert "digits:3" == build_bento(saved, "digits", "3", home)

    assert before == tree(home.bentoml)
    assert [] == list((home.bentoml / "tmp").iterdir())


def test_a_bento_that_is_gone_is_made_again(saved: Path, tmp_path: Path):
    """Killed between the model and the Bento, the next try completes it."""
    home = Home(tmp_path, tmp_path)
    build_bento(saved, "digits", "1", home)
    shutil.rmtree(home.bentoml / "bentos" / "digits" / "1")

    build_bento(saved, "digits", "1", home)

    assert (find_bento_folder("digits:1", home) / "bento.yaml").is_file()


def test_two_versions_stand_side_by_side(
    bento: str, make_classifier: Callable[..., Classifier], home: Home, tmp_path: Path
):
    """The next version leaves the one before it as it is, and is the latest."""
    before = tree(find_bento_folder(bento, home))
    make_classifier(seed=1).save(tmp_path / "next")

    build_bento(tmp_path / "next", "digits", "4", home)

    assert before == tree(find_bento_folder(bento, home))
    assert "4" == (home.bentoml / "bentos" / "digits" / "latest").read_text()
    stored = [Classifier.load(home.bentoml / "models" / "digits" / version) for version in "34"]
    assert 2 == len({tuple(one.card.digests.values()) for one in stored})


def test_another_classifier_under_the_same_version_is_refused(
    bento: str, make_classifier: Callable[..., Classifier], home: Home, tmp_path: Path
):
    """A version means one classifier for ever."""
    make_classifier(seed=2).save(tmp_path / "other")

    with pytest.raises(CorruptDataError, match="another classifier is packaged as digits:3"):
        build_bento(tmp_path / "other", "digits", "3", home)


def test_an_unsound_classifier_is_not_packaged(saved: Path, tmp_path: Path):
    """One byte changed: refused, and nothing is left behind."""
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
def test_a_tag_that_bentoml_cannot_hold_is_refused_first(saved: Path, home: Home, name: str, version: str):
    """Said before anything is made, with what is accepted."""
    with pytest.raises(UserInputError, match="accepted: lower-case letters"):
        build_bento(saved, name, version, home)


def test_a_version_is_found_by_its_whole_name(bento: str, home: Home):
    """`digits:3` is not `digits:30`, nor any other that starts alike."""
    (home.bentoml / "bentos" / "digits" / "30").mkdir(exist_ok=True)

    for tag in ("digits:30", "digits:", "digits", "other:3"):
        with pytest.raises(NotFoundError, match="no Bento"):
            find_bento_folder(tag, home)
