"""Promises of `relearn serve` and `relearn predict` on the command line."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.model.home import Home
from relearn.model.images.decode import decode_image
from relearn.model.images.resize import fit_image
from relearn.model.inference.classifier import Classifier
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore


@pytest.fixture
def released_home(
    bento: str,
    saved: Path,
    home: Home,
    publish: Callable[..., Release],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    """A home where version 3 is live as `digits`."""
    assert "digits:3" == bento
    publish(ReleaseStore(home.releases_dir("digits")), "3", saved)
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    monkeypatch.setenv("BENTOML_HOME", str(home.bentoml))
    return home


@pytest.fixture
def image_files(tmp_path: Path, images: np.ndarray, encoded: Callable[..., bytes]) -> list[Path]:
    """Two files: a PNG image in the classifier's size, and a JPEG drawing in another size."""
    page = np.full((1, 90, 70), 255, np.uint8)
    page[0, 10:80, 30:40] = 0
    files = [tmp_path / "one.png", tmp_path / "two.jpg"]
    files[0].write_bytes(encoded(images[0]))
    files[1].write_bytes(encoded(page, "JPEG"))
    return files


def predict_directly(classifier: Classifier, files: list[Path]) -> np.ndarray:
    return classifier.predict(
        np.stack([fit_image(decode_image(file.read_bytes()), (1, 28, 28), "mnist") for file in files])
    )


@pytest.mark.parametrize(("name", "read"), [("out.csv", pd.read_csv), ("out.parquet", pd.read_parquet)])
def test_predict_writes_the_predictions_of_the_api(
    released_home: Home,
    classifier: Classifier,
    image_files: list[Path],
    tmp_path: Path,
    name: str,
    read: Callable[[Path], pd.DataFrame],
):
    """The table has one row for each file and one column for each class probability."""
    assert 0 == run_command_line(["predict", *map(str, image_files), "-o", str(tmp_path / name)])

    table = read(tmp_path / name)
    probabilities = predict_directly(classifier, image_files)
    assert [*map(str, image_files)] == table["file"].tolist()
    assert classifier.to_labels(probabilities) == table["label"].astype(str).tolist()
    assert np.allclose(probabilities, table[[f"p_{digit}" for digit in range(10)]], atol=1e-5)
    assert np.allclose(probabilities.max(axis=1), table["probability"], atol=1e-5)


def test_predict_prints_a_table(
    released_home: Home, classifier: Classifier, image_files: list[Path], capsys: pytest.CaptureFixture[str]
):
    """The terminal shows file, label and probability."""
    assert 0 == run_command_line(["predict", str(image_files[0])])

    probabilities = predict_directly(classifier, image_files[:1])
    output = capsys.readouterr().out
    assert f"{probabilities.max():.1%}" in output
    assert classifier.to_labels(probabilities)[0] in output


def test_predict_accepts_any_saved_classifier(
    saved: Path, image_files: list[Path], capsys: pytest.CaptureFixture[str]
):
    """It needs no release."""
    assert 0 == run_command_line(["predict", str(image_files[0]), "--classifier", str(saved)])
    assert "one.png" in capsys.readouterr().out


def test_files_that_cannot_be_read_leave_the_predictions_of_the_others(
    released_home: Home, image_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its line on standard error, and the exit code is 2; a file given twice has two rows."""
    (tmp_path / "text.png").write_text("not an image")
    bad = [str(tmp_path / name) for name in ("text.png", "nowhere.png")]
    first, second = map(str, image_files[:2])
    assert 2 == run_command_line(
        ["predict", first, bad[0], second, bad[1], first, "-o", str(tmp_path / "p.csv")]
    )
    errors = capsys.readouterr().err.splitlines()
    assert [True, True] == [name in line for name, line in zip(bad, errors, strict=True)]
    assert [first, second, first] == pd.read_csv(tmp_path / "p.csv")["file"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "error[user_input]: files: got none"),
        (["predict", "{tmp}/nowhere.png"], "nowhere.png cannot be read: No such file or directory"),
        (["predict", "{tmp}"], "cannot be read: Is a directory"),
        (["predict", "{tmp}/text.png"], "text.png: the image is not PNG, JPEG, WebP, BMP, TIFF or GIF"),
        (["predict", "{tmp}/half.png"], "error[invalid_image]: {tmp}/half.png: "),
        (
            ["predict", "{tmp}/one.png", "-o", "{tmp}/out.xlsx"],
            "accepted: a name that ends in .parquet or .csv",
        ),
        (["predict", "{tmp}/one.png", "-o", "{tmp}/there.csv"], "there.csv exists; add --force"),
        (
            ["predict", "{tmp}/one.png", "--model-name", "mnist"],
            "nothing released as 'mnist'; released: digits",
        ),
        (["predict", "{tmp}/one.png", "--classifier", "{tmp}"], "error[not_found]: no classifier in {tmp}"),
        (
            ["serve", "--host", "0.0.0.0"],
            "host: got 0.0.0.0 without API keys, accepted: 127.0.0.1, or keys in",
        ),
        (["serve", "--model-name", "mnist"], "nothing released as 'mnist'; released: digits"),
        (["serve", "--port", "70000"], "error[config]: --port: got '70000'"),
        (["serve", "--workers", "0"], "error[config]: --workers: got '0'"),
        (["serve", "--host", "example.org"], "error[config]: --host: got 'example.org', accepted: localhost"),
    ],
)
def test_user_error_is_reported_in_one_line(
    released_home: Home,
    image_files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    """Exit code 2, the name of the file or flag, no traceback, no file written."""
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "half.png").write_bytes(image_files[0].read_bytes()[:100])
    (tmp_path / "there.csv").write_text("kept")
    before = sorted(tmp_path.iterdir())

    assert 2 == run_command_line([argument.format(tmp=tmp_path) for argument in arguments])

    lines = capsys.readouterr().err.splitlines()
    assert 1 == len(lines)
    assert message.format(tmp=tmp_path) in lines[0]
    assert before == sorted(tmp_path.iterdir())
    assert "kept" == (tmp_path / "there.csv").read_text()


def test_missing_release_is_reported_with_the_next_command(
    image_files: list[Path], capsys: pytest.CaptureFixture[str]
):
    """Both commands name the command that creates a release."""
    for arguments in (["serve"], ["predict", str(image_files[0])]):
        assert 2 == run_command_line(arguments)
        assert "error[not_found]: nothing released yet: run `relearn run`\n" == capsys.readouterr().err


def test_empty_card_of_the_release_ends_serve_in_one_line(
    released_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is named, and the server is stopped."""
    (card_file,) = released_home.releases_dir("digits").glob("3/card.json")
    card_file.write_bytes(b"")
    earlier_processes = set(psutil.Process().children())  # servers of fixtures
    assert 4 == run_command_line(["serve", "--port", "0", "--graceful-timeout-seconds", "1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert str(card_file) in line
    assert earlier_processes >= set(psutil.Process().children())


@pytest.fixture
def serving(released_home: Home) -> Iterator[subprocess.Popen[str]]:
    """`relearn serve` on a free port, which handles SIGINT even if the shell of the tests ignores it."""
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from relearn.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--port", "0", "--graceful-timeout-seconds", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        yield process
        process.kill()


def test_printed_curl_command_works_until_serve_stops(serving: subprocess.Popen[str]):
    """The command works when pasted; after SIGTERM no process remains."""
    first_line = serving.stdout.readline()
    curl = next(line for line in serving.stdout if line.startswith("curl "))
    processes = psutil.Process(serving.pid).children(recursive=True)
    response = subprocess.run(
        ["curl", "-s", *shlex.split(curl)[1:]], capture_output=True, text=True, check=False
    )
    serving.terminate()

    assert first_line.startswith("digits 3 answers at http://127.0.0.1:"), serving.stderr.read()
    assert '"version":"3"' in response.stdout
    assert 143 == serving.wait(20)
    assert "error[stopped]: terminated by a signal\n" == serving.stderr.read()
    assert len(processes) >= 2
    assert not any(process.is_running() for process in processes)


def test_ctrl_c_stops_serve_during_the_start(serving: subprocess.Popen[str]):
    """No process remains."""
    process = psutil.Process(serving.pid)
    while not process.children():
        time.sleep(0.05)
    processes = process.children(recursive=True)
    serving.send_signal(signal.SIGINT)

    assert 130 == serving.wait(20)
    assert "error[stopped]: ended by Ctrl-C\n" == serving.stdout.read() + serving.stderr.read()
    assert not psutil.wait_procs(processes, timeout=20)[1]
