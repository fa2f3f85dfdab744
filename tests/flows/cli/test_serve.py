"""`relearn predict` with files whose names Rich could take for markup."""

import shutil
from pathlib import Path

import pytest

from relearn.flows.cli.app import run_command_line


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
