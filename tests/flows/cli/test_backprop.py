"""`relearn backprop`: numbers in the terminal, figures on disk, one line for bad input."""

from pathlib import Path

import pytest
from PIL import Image

from relearn.flows.cli.app import run_command_line

SMALL = ["1-forward", "2-backward", "3-update", "relu", "learning-rates"]


def test_the_small_network_is_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The four steps with their numbers, then the path of each figure, 900 pixels wide or more."""
    assert 0 == run_command_line(["backprop", "--output", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    steps = ["1. Forward pass through 2-3-3-1", "2. Loss", "3. Backward pass", "4. Update"]
    places = [printed.index(step) for step in steps]
    assert sorted(places) == places
    assert "0.90·0.14 + 0.53·0.82 + 0.13" in printed
    assert "loss = −ln 0.443 = 0.815 nats" in printed
    for name in SMALL:
        path = tmp_path / "figures" / f"{name}.png"
        assert str(path) in printed
        with Image.open(path) as image:
            assert image.width >= 900


def test_figures_go_to_the_home_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --output nothing is written but a folder for the lesson in the home."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == run_command_line(["backprop", "--sizes", "2", "1", "--steps", "1"])
    assert sorted(f"{name}.png" for name in SMALL) == sorted(
        path.name for path in (tmp_path / "home" / "backprop" / "2-1").iterdir()
    )


def test_a_network_too_large_to_draw_is_told_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its long tables are cut to the largest numbers, its curves drawn."""
    assert 0 == run_command_line(
        ["backprop", "--sizes", "8", "40", "3", "--steps", "3", "--output", str(tmp_path)]
    )
    assert "the 30 rows of 483 with the largest gradient" in capsys.readouterr().out
    assert ["learning-rates.png", "relu.png"] == sorted(path.name for path in tmp_path.iterdir())


def test_a_picture_through_an_untrained_network(
    image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pixels of a file are the inputs, whatever its size; the label is the target."""
    arguments = ["--image", str(image_file), "--label", "1", "--sizes", "64", "6", "4", "--steps", "5"]
    assert 0 == run_command_line(
        ["backprop", *arguments, "--lr", "0.1", "--output", str(tmp_path / "figures")]
    )
    printed = capsys.readouterr().out
    assert "1. Forward pass through 64-6-4" in printed
    assert "64 products" in printed
    assert ["image.png"] == [path.name for path in (tmp_path / "figures").iterdir()]


def test_a_picture_through_a_trained_classifier(
    image_file: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output is what the classifier predicts, under the names of its classes."""
    arguments = ["--image", str(image_file), "--label", "straight", "--classifier", str(classifier)]
    assert 0 == run_command_line(
        ["backprop", *arguments, "--steps", "2", "--output", str(tmp_path / "figures")]
    )
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
    """What was wrong, what was got, what is accepted; exit code 2 and no figure."""
    places = {"IMAGE": str(image_file), "FOLDER": str(image_file.parent)}
    assert 2 == run_command_line(["backprop", *(places.get(argument, argument) for argument in arguments)])
    captured = capsys.readouterr()
    assert message in captured.err
    assert 1 == captured.err.count("\n")
    assert "" == captured.out


def test_all_problems_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each of them."""
    assert 2 == run_command_line(["backprop", "--steps", "0", "--lr", "0", "--momentum", "2"])
    assert 3 == capsys.readouterr().err.count("error[config]")
