"""`relearn predict` with files whose names Rich could take for markup."""

import shutil
from pathlib import Path

import pytest

from relearn.flows.cli.app import run_command_line
from relearn.model.inference.classifier import Classifier


@pytest.mark.parametrize("name", ["a[red]b.png", "a[/b].png", ":cat:.png"])
def test_file_names_are_printed_as_they_are(
    name: str,
    image_file: Path,
    classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the table, in a message about a missing file, and after `--output`."""
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    shutil.copy(image_file, name)
    command = ["predict", "--classifier", str(classifier)]
    assert 0 == run_command_line([*command, name])
    assert name in capsys.readouterr().out
    assert 0 == run_command_line([*command, name, "-o", f"{name}.csv"])
    assert f"1 predictions in {name}.csv\n" == capsys.readouterr().out
    assert 2 == run_command_line([*command, f"no{name}"])
    assert f"no{name} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "classes", [("[x]*", "[/b]"), ("caf\u00e9", "cafe\u0301"), ("fit", "\ufb01t"), ("a b", "=1")]
)
def test_class_names_are_printed_as_they_are(
    classes: tuple[str, str], image_file: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich's markup, names that Python takes for one, spaces, and a formula: in the table and in the CSV."""
    loaded = Classifier.load(classifier)
    named = Classifier(loaded.network, loaded.card.model_copy(update={"classes": classes}))
    folder = classifier.with_name("named")
    named.save(folder)
    assert 0 == run_command_line(["predict", "--classifier", str(folder), str(image_file)])
    printed = capsys.readouterr().out
    assert any(name in printed for name in classes)
    output = folder.with_suffix(".csv")
    command = ["predict", "--classifier", str(folder), str(image_file), "-o", str(output)]
    assert 0 == run_command_line(command)
    assert [f"p_{name}" for name in classes] == output.read_text().split("\n")[0].split(",")[-2:]
