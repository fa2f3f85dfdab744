"""`relearn serve` and `relearn predict`, as they are typed."""

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
from relearn.model.images.decode import decode_image, fit_image
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
def pictures(tmp_path: Path, images: np.ndarray, encoded: Callable[..., bytes]) -> list[Path]:
    """Two files: an image in the classifier's size, and a drawing in another."""
    page = np.full((1, 90, 70), 255, np.uint8)
    page[0, 10:80, 30:40] = 0
    files = [tmp_path / "one.png", tmp_path / "two.jpg"]
    files[0].write_bytes(encoded(images[0]))
    files[1].write_bytes(encoded(page, "JPEG"))
    return files


def expected(classifier: Classifier, files: list[Path]) -> np.ndarray:
    return classifier.predict(
        np.stack([fit_image(decode_image(file.read_bytes()), (1, 28, 28), "mnist") for file in files])
    )


@pytest.mark.parametrize(("name", "read"), [("out.csv", pd.read_csv), ("out.parquet", pd.read_parquet)])
def test_predict_writes_what_the_api_would_answer(
    released_home: Home,
    classifier: Classifier,
    pictures: list[Path],
    tmp_path: Path,
    name: str,
    read: Callable[[Path], pd.DataFrame],
):
    """One row a file, every probability by class."""
    assert 0 == run_command_line(["predict", *map(str, pictures), "-o", str(tmp_path / name)])

    answers = read(tmp_path / name)
    probabilities = expected(classifier, pictures)
    assert [*map(str, pictures)] == answers["file"].tolist()
    assert classifier.to_labels(probabilities) == answers["label"].astype(str).tolist()
    assert np.allclose(probabilities, answers[[f"p_{digit}" for digit in range(10)]], atol=1e-5)
    assert np.allclose(probabilities.max(axis=1), answers["probability"], atol=1e-5)


def test_predict_shows_a_table(
    released_home: Home, classifier: Classifier, pictures: list[Path], capsys: pytest.CaptureFixture[str]
):
    """On the terminal: file, label, probability."""
    assert 0 == run_command_line(["predict", str(pictures[0])])

    probabilities = expected(classifier, pictures[:1])
    lines = capsys.readouterr().out
    assert f"{probabilities.max():.1%}" in lines
    assert classifier.to_labels(probabilities)[0] in lines


def test_predict_takes_any_saved_classifier(
    saved: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
):
    """Nothing needs to be released."""
    assert 0 == run_command_line(["predict", str(pictures[0]), "--classifier", str(saved)])
    assert "one.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "error[user_input]: files: got none"),
        (["predict", "{tmp}/nowhere.png"], "nowhere.png cannot be read: No such file or directory"),
        (["predict", "{tmp}"], "cannot be read: Is a directory"),
        (
            ["predict", "{tmp}/one.png", "{tmp}/text.png"],
            "text.png: the picture is neither PNG nor JPEG",
        ),
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
        (["serve", "--port", "70000"], "error[config]: port: got '70000'"),
        (["serve", "--workers", "0"], "error[config]: workers: got '0'"),
        (["serve", "--host", "example.org"], "error[config]: host: got 'example.org', accepted: localhost"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    released_home: Home,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    """Exit code 2, the file or flag by name, no traceback, nothing written."""
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(pictures[0].read_bytes()[:100])
    (tmp_path / "there.csv").write_text("kept")
    before = sorted(tmp_path.iterdir())

    assert 2 == run_command_line([argument.format(tmp=tmp_path) for argument in arguments])

    lines = capsys.readouterr().err.splitlines()
    assert 1 == len(lines)
    assert message.format(tmp=tmp_path) in lines[0]
    assert before == sorted(tmp_path.iterdir())
    assert "kept" == (tmp_path / "there.csv").read_text()


def test_before_any_release_both_verbs_say_how_to_make_one(
    pictures: list[Path], capsys: pytest.CaptureFixture[str]
):
    """The command that leads out of it."""
    for arguments in (["serve"], ["predict", str(pictures[0])]):
        assert 2 == run_command_line(arguments)
        assert "error[not_found]: nothing released yet: run `relearn run`\n" == capsys.readouterr().err


@pytest.fixture
def serving(released_home: Home) -> Iterator[subprocess.Popen[str]]:
    """`relearn serve` on a free port; hears Ctrl-C also where the shell that runs the tests does not."""
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


def test_serve_answers_its_own_curl_until_it_is_told_to_stop(serving: subprocess.Popen[str]):
    """The printed command works as it is pasted; after SIGTERM nothing is left."""
    first, curl = serving.stdout.readline(), serving.stdout.readline()
    processes = psutil.Process(serving.pid).children(recursive=True)
    answer = subprocess.run(
        ["curl", "-s", *shlex.split(curl)[1:]], capture_output=True, text=True, check=False
    )
    serving.terminate()

    assert first.startswith("digits 3 answers at http://127.0.0.1:"), serving.stderr.read()
    assert '"version":"3"' in answer.stdout
    assert 143 == serving.wait(20)
    assert "error[stopped]: terminated by a signal\n" == serving.stderr.read()
    assert len(processes) >= 2
    assert not any(process.is_running() for process in processes)


def test_serve_stops_at_ctrl_c_before_it_is_up(serving: subprocess.Popen[str]):
    """Changing one's mind leaves nothing behind."""
    me = psutil.Process(serving.pid)
    while not me.children():
        time.sleep(0.05)
    processes = me.children(recursive=True)
    serving.send_signal(signal.SIGINT)

    assert 130 == serving.wait(20)
    assert "error[stopped]: ended by Ctrl-C\n" == serving.stdout.read() + serving.stderr.read()
    assert not psutil.wait_procs(processes, timeout=20)[1]
