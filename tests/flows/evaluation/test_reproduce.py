"""`relearn evaluate --reproduce`: identical, equivalent or different, from the card alone."""

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
from relearn.flows.evaluation.reproduce import reproduce_version
from relearn.flows.releases.release_state import ReleaseState, record_decision
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from tests.flows.conftest import Ran

AddVersion = Callable[..., Home]

CUSTOM_NETWORK = """
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
    """Images whose class is their brightness."""
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    images = generator.integers(0, 120, (400, 12, 12), dtype=np.uint8) + (120 * labels)[:, None, None]
    np.savez(tmp_path / "light.npz", images=images.astype(np.uint8), labels=labels)
    return tmp_path / "light.npz"


@pytest.fixture
def add_version(file: Path, tmp_path: Path) -> AddVersion:
    """Return a function that trains on the file and adds the changed network as version 1."""

    def add(
        change: Callable[[torch.nn.Module], object] = lambda network: None,
        card_fields: Any = None,
        **settings: Any,
    ) -> Home:
        home = Home(tmp_path / "home", tmp_path / "data")
        config = TrainConfig.parse({"dataset": f"npz:{file}", "hidden_sizes": (16,), "epochs": 5, **settings})
        prepared = prepare_dataset(config, home)
        network = build_network(config, prepared.shape, 2)
        threads = fit(config, network, prepared.splits, 2).threads
        change(network)
        card = ModelCard.from_network(config, prepared, network).model_copy(
            update={"threads": threads, **(card_fields or {})}
        )
        classifier, folder = Classifier(network, card), tmp_path / "saved"
        classifier.save(folder)
        Golden.from_classifier(classifier, prepared.splits.test.images).save(folder)
        digests = ReleaseStore(home.releases_dir("light")).add_version("1", folder)
        live = Release(
            version="1", bento="light:1", run_id="r", published_at=datetime.now(UTC), sha256=digests
        )
        decision: dict[str, Any] = {"action": "promote", "subject": "1", "run_id": "r", "live": live}
        record_decision(
            home, "light", ReleaseState(), **decision, reasons=(), fingerprints={}, rollback_target=None
        )
        return home

    return add


def shift_weights(offset: float) -> Callable[[torch.nn.Module], object]:
    def change(network: torch.nn.Module) -> None:
        with torch.no_grad():
            next(network.parameters()).add_(offset)

    return change


def test_released_version_is_reproduced_bit_for_bit(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The home needs the release alone; logging in the original training changes nothing."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    shutil.copytree(ran.home.releases_dir("digits"), tmp_path / "home" / "releases" / "digits")
    assert 0 == run_command_line(["evaluate", "1", "--reproduce"])
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert "SAME digits@1 was reproduced bit for bit" == last_line


def test_small_difference_is_equivalent(add_version: AddVersion) -> None:
    """The result has the differences of weights and labels."""
    result = reproduce_version(add_version(shift_weights(1e-4)), "light", "1")
    assert "equivalent" == result.conclusion
    assert result.max_difference == pytest.approx(1e-4, rel=0.01)
    assert result.agreement == pytest.approx(1, abs=0.05)


def test_significant_difference_is_not_reproduced(
    add_version: AddVersion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version has other weights than its card leads to."""
    home = add_version(lambda network: [parameter.data.neg_() for parameter in network.parameters()])
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    assert 4 == run_command_line(["evaluate", "1", "--reproduce"])
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error[not_reproduced]: not reproduced: +"), error
    assert error.endswith("a significant difference")


def test_environment_differences_are_reported(add_version: AddVersion) -> None:
    """The version was trained with another torch."""
    result = reproduce_version(add_version(card_fields={"torch": "2.0.0"}), "light", "1")
    assert (f"torch {torch.__version__}, originally 2.0.0",) == result.environment_differences


def test_reproduction_uses_the_original_number_of_threads(add_version: AddVersion) -> None:
    """With another number, sums are rounded differently."""
    result = reproduce_version(add_version(threads=1), "light", "1")
    assert ("identical", 1) == (result.conclusion, torch.get_num_threads())


def test_changed_data_is_reported(add_version: AddVersion, file: Path) -> None:
    """Once the home has no copy of the data; no training is started."""
    home = add_version()
    shutil.rmtree(home.dataset_cache)
    with np.load(file) as arrays:
        np.savez(file, images=255 - arrays["images"], labels=arrays["labels"])
    with pytest.raises(
        CorruptDataError, match=r"light\.npz has changed since .*, and the prepared copy is gone"
    ):
        reproduce_version(home, "light", "1")


def test_missing_data_is_reported(add_version: AddVersion, file: Path) -> None:
    """The error is `CorruptDataError`, not `NotFoundError` of a version."""
    home = add_version()
    file.unlink()
    shutil.rmtree(home.dataset_cache)
    with pytest.raises(CorruptDataError, match=r"cannot be reproduced: .*light\.npz does not exist"):
        reproduce_version(home, "light", "1")


def test_custom_network_is_reproduced_without_its_original_file(
    add_version: AddVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source is stored with the card, its initial weights come from the seed."""
    (tmp_path / "own_small.py").write_text(CUSTOM_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    home = add_version(network="own_small:Small")
    (tmp_path / "own_small.py").unlink()
    del sys.modules["own_small"]

    assert "identical" == reproduce_version(home, "light", "1").conclusion


def test_unknown_version_is_rejected(add_version: AddVersion) -> None:
    """The message lists the versions that are accepted."""
    with pytest.raises(NotFoundError, match="got '2', which is not kept as light; accepted: 1"):
        reproduce_version(add_version(), "light", "2")
