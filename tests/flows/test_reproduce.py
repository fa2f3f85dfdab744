"""Promises of `relearn reproduce`: the same, close to it, or why it cannot be; from the card alone."""

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relearn.flows.cli.app import run_command_line
from relearn.flows.evaluation.reproduce import reproduce
from relearn.flows.releases.release_state import ReleaseState, record_decision
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from tests.flows.conftest import Ran

Keep = Callable[..., Home]

OWN = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(144, 16), nn.Linear(16, classes)
        self.dropout = nn.Dropout(0.1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.output(self.dropout(self.hidden(inputs.flatten(1)).relu()))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Images whose brightness tells their class."""
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    images = generator.integers(0, 120, (400, 12, 12), dtype=np.uint8) + (120 * labels)[:, None, None]
    np.savez(tmp_path / "light.npz", images=images.astype(np.uint8), labels=labels)
    return tmp_path / "light.npz"


@pytest.fixture
def keep(file: Path, tmp_path: Path) -> Keep:
    """Trains on the file, and keeps what came of it as version 1, changed as asked for."""

    def done(
        change: Callable[[torch.nn.Module], object] = lambda network: None, told: Any = None, **settings: Any
    ) -> Home:
        home = Home(tmp_path / "home", tmp_path / "data")
        config = TrainConfig.parse({"dataset": f"npz:{file}", "hidden_sizes": (16,), "epochs": 5, **settings})
        prepared = prepare_dataset(config, home)
        network = build_network(config, prepared.shape, 2)
        threads = fit(config, network, prepared.splits, 2).threads
        change(network)
        card = ModelCard.from_network(config, prepared, network).model_copy(
            update={"threads": threads, **(told or {})}
        )
        classifier, folder = Classifier(network, card), tmp_path / "saved"
        classifier.save(folder)
        Golden.from_classifier(classifier, prepared.splits.test.images).save(folder)
        digests = ReleaseStore(home.releases_dir("light")).add_version("1", folder)
        live = Release(
            version="1", bento="light:1", run_id="r", published_at=datetime.now(UTC), sha256=digests
        )
        promoted: dict[str, Any] = {"action": "promote", "subject": "1", "run_id": "r", "live": live}
        record_decision(
            home, "light", ReleaseState(), **promoted, reasons=(), fingerprints={}, rollback_target=None
        )
        return home

    return done


def moved(by: float) -> Callable[[torch.nn.Module], object]:
    def change(network: torch.nn.Module) -> None:
        with torch.no_grad():
            next(network.parameters()).add_(by)

    return change


def test_what_relearn_run_released_is_the_same(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, whatever watched the first training; in a home that has nothing but the release."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    shutil.copytree(ran.home.releases_dir("digits"), tmp_path / "home" / "releases" / "digits")
    assert 0 == run_command_line(["reproduce", "1"])
    said = capsys.readouterr().out.splitlines()[-1]
    assert "SAME version 1 of digits was reproduced bit for bit" == said


def test_a_little_off_is_close(keep: Keep) -> None:
    """With how far weights, labels and accuracy are apart."""
    done = reproduce(keep(moved(1e-4)), "light", "1")
    assert "equivalent" == done.verdict
    assert done.difference == pytest.approx(1e-4, rel=0.01)
    assert done.agreement == pytest.approx(1, abs=0.05)


def test_something_else_is_not_called_close(
    keep: Keep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A classifier that this card does not lead to: more than chance apart."""
    home = keep(lambda network: [parameter.data.neg_() for parameter in network.parameters()])
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    assert 4 == run_command_line(["reproduce", "1"])
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error[not_reproduced]: not reproduced: +"), error
    assert error.endswith("a significant difference")


def test_other_circumstances_are_told(keep: Keep) -> None:
    """What was not as it was when the version was trained."""
    done = reproduce(keep(told={"torch": "2.0.0"}), "light", "1")
    assert (f"torch {torch.__version__}, then 2.0.0",) == done.circumstances


def test_it_learns_on_as_many_threads(keep: Keep) -> None:
    """With another number the sums come out otherwise."""
    done = reproduce(keep(threads=1), "light", "1")
    assert ("identical", 1) == (done.verdict, torch.get_num_threads())


def test_changed_data_is_the_reason(keep: Keep, file: Path) -> None:
    """No training is begun on data that it was not."""
    home = keep()
    with np.load(file) as arrays:
        np.savez(file, images=255 - arrays["images"], labels=arrays["labels"])
    with pytest.raises(CorruptDataError, match=r"light\.npz.* has changed since: got fingerprint"):
        reproduce(home, "light", "1")


def test_data_that_is_gone_is_the_reason(keep: Keep, file: Path) -> None:
    """Not a version that could not be found, and no traceback."""
    home = keep()
    file.unlink()
    with pytest.raises(CorruptDataError, match="its data is not to be had"):
        reproduce(home, "light", "1")


def test_an_own_network_needs_no_file_of_the_users(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source goes with the card; its first weights come from the seed."""
    (tmp_path / "own_small.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    home = keep(network="own_small:Small")
    (tmp_path / "own_small.py").unlink()
    del sys.modules["own_small"]

    assert "identical" == reproduce(home, "light", "1").verdict


def test_a_version_that_is_not_kept_is_told(keep: Keep) -> None:
    """With those that are."""
    with pytest.raises(NotFoundError, match="got '2', which is not kept as light; accepted: 1"):
        reproduce(keep(), "light", "2")
