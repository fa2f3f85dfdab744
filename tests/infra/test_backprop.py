"""`make backprop`: printed numbers, figures, one line for bad input."""

from pathlib import Path

import pytest
from PIL import Image

from infra.backprop import main

FIGURE_NAMES = ["1-forward", "2-backward", "3-update", "relu", "learning-rates"]


def test_small_network_is_printed_and_plotted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The four steps with their numbers, then the path of each figure, at least 900 pixels wide."""
    assert 0 == main(["--output", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    steps = ["1. Forward pass through 2-3-3-1", "2. Loss", "3. Backward pass", "4. Update"]
    positions = [printed.index(step) for step in steps]
    assert sorted(positions) == positions
    assert "0.90·0.14 + 0.53·0.82 + 0.13" in printed
    assert "loss = −ln 0.443 = 0.815 nats" in printed
    for name in FIGURE_NAMES:
        path = tmp_path / "figures" / f"{name}.png"
        assert str(path) in printed
        with Image.open(path) as image:
            assert image.width >= 900


def test_figures_go_to_home_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --output they go to a folder of the home named after the layer sizes."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == main(["--sizes", "2", "1", "--steps", "1"])
    assert sorted(f"{name}.png" for name in FIGURE_NAMES) == sorted(
        path.name for path in (tmp_path / "home" / "backprop" / "2-1").iterdir()
    )


def test_large_network_is_printed_without_diagrams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long tables are limited to the largest numbers; the curves are plotted."""
    assert 0 == main(["--sizes", "8", "40", "3", "--steps", "3", "--output", str(tmp_path)])
    assert "the 30 rows of 483 with the largest gradient" in capsys.readouterr().out
    assert ["learning-rates.png", "relu.png"] == sorted(path.name for path in tmp_path.iterdir())


def test_image_through_untrained_network(
    image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pixels of a file of any size are the inputs, the label is the target."""
    arguments = ["--image", str(image_file), "--label", "1", "--sizes", "64", "6", "4", "--steps", "5"]
    assert 0 == main([*arguments, "--lr", "0.1", "--output", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    assert "1. Forward pass through 64-6-4" in printed
    assert "64 products" in printed
    assert ["image.png"] == [path.name for path in (tmp_path / "figures").iterdir()]


def test_image_through_trained_classifier(
    image_file: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outputs are the predictions of the classifier, labeled with its classes."""
    arguments = ["--image", str(image_file), "--label", "straight", "--classifier", str(classifier)]
    assert 0 == main([*arguments, "--steps", "2", "--output", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    assert "O(round)" in printed
    assert "O(straight)" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "2", "x"], "x"),
        (["--sizes", "3"], "sizes: got "),
        (["--sizes", "2", "0", "1"], "sizes.1: got '0', accepted: greater than or equal to 1"),
        (["--sizes", "9999", "10"], "sizes.0: got '9999', accepted: less than or equal to 1024"),
        (["--lr", "0"], "lr: got '0', accepted: greater than 0"),
        (["--lr", "nan"], "lr: got 'nan'"),
        (["--momentum", "1"], "momentum: got '1', accepted: less than 1"),
        (["--steps", "0"], "steps: got '0'"),
        (["--seed", "-1"], "seed: got '-1'"),
        (["--label", "3"], "--image, --label: got one of them, accepted: both"),
        (["--classifier", "somewhere"], "--classifier: accepted with --image"),
        (["--image", "nowhere.png", "--label", "3"], "--image: nowhere.png cannot be read: No such file"),
        (["--image", "IMAGE"], "--image, --label: got one of them, accepted: both"),
        (["--image", "IMAGE", "--label", "12"], "label: got '12', accepted: 0, 1, 2"),
        (
            ["--image", "IMAGE", "--label", "3", "--sizes", "10", "5"],
            "got 10 inputs, accepted for an image: a square",
        ),
        (["--image", "FOLDER", "--label", "3"], "cannot be read: Is a directory"),
        (["--image", "IMAGE", "--label", "3", "--classifier", "FOLDER"], "no classifier in"),
        (
            ["--image", "IMAGE", "--label", "3", "--sizes", "784", "10", "--classifier", "x"],
            "--classifier: accepted with --image and without --sizes",
        ),
        (["--output", "IMAGE"], "--output: got the file"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, image_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parameter, value and accepted values; exit code 2 and no output."""
    paths = {"IMAGE": str(image_file), "FOLDER": str(image_file.parent)}
    assert 2 == main([*(paths.get(argument, argument) for argument in arguments)])
    captured = capsys.readouterr()
    assert message in captured.err
    assert 1 == captured.err.count("\n")
    assert "" == captured.out


def test_all_problems_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per problem."""
    assert 2 == main(["--steps", "0", "--lr", "0", "--momentum", "2"])
    assert 3 == capsys.readouterr().err.count("error[config]")
