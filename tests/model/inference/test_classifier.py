"""Classifier: predictions, saving and loading, and errors for damaged folders."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relearn.model.config import TrainConfig
from relearn.model.errors import (
    CorruptDataError,
    InvalidModelOutputError,
    NotFoundError,
    StopSignal,
    UserInputError,
)
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters

SHAPE = (1, 12, 12)
CLASSES = ("ant", "bee", "cow")


def make_classifier(**settings: object) -> Classifier:
    config = TrainConfig.parse({"model_name": "zoo", **settings})
    network = build_network(config, SHAPE, len(CLASSES))
    card = ModelCard(
        config=config,
        dataset="zoo",
        classes=CLASSES,
        shape=SHAPE,
        style="photo",
        fingerprint="f" * 64,
        parameters=count_parameters(network),
    )
    return Classifier(network, card)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (300, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize(
    "settings", [{}, {"network": "cnn"}, {"batch_norm": True, "dropout": 0.5}, {"network": "pretrained"}]
)
def test_loaded_classifier_gives_the_same_predictions(
    tmp_path: Path, images: np.ndarray, settings: dict[str, object]
) -> None:
    """Saving and loading changes no bit of a probability."""
    classifier = make_classifier(**settings)
    classifier.save(tmp_path / "zoo")
    loaded, images = Classifier.load(tmp_path / "zoo"), images[:20]
    np.testing.assert_array_equal(classifier.predict(images), loaded.predict(images))
    assert classifier.card.classes == loaded.card.classes


def test_temperature_divides_the_logits(tmp_path: Path, images: np.ndarray) -> None:
    """Probabilities are softer with a temperature above 1, the labels stay; saving keeps it."""
    classifier = make_classifier()
    soft = Classifier(classifier.network, classifier.card.model_copy(update={"temperature": 2.0}))
    probabilities, softer = classifier.predict(images), soft.predict(images)
    odds = np.log(probabilities[:, :1] / probabilities[:, 1:])
    np.testing.assert_allclose(odds / 2, np.log(softer[:, :1] / softer[:, 1:]), atol=1e-5)
    soft.save(tmp_path / "zoo")
    np.testing.assert_array_equal(softer, Classifier.load(tmp_path / "zoo").predict(images))


def test_images_of_a_pretrained_network_do_not_depend_on_each_other(images: np.ndarray) -> None:
    """A batch has the same probabilities, to the last bit, as each of its images alone."""
    classifier, threads = make_classifier(network="pretrained"), torch.get_num_threads()
    torch.set_num_threads(1)  # as in a server
    together = classifier.predict(images[:4])
    alone = np.concatenate([classifier.predict(images[index : index + 1]) for index in range(4)])
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(together, alone)


def test_saving_is_reproducible(tmp_path: Path) -> None:
    """The same classifier, saved twice, gives the same bytes."""
    classifier = make_classifier()
    for folder in ("a", "b"):
        classifier.save(tmp_path / folder)
    for name in ("weights.safetensors", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_probabilities_add_up_to_one(images: np.ndarray) -> None:
    """Each row is float32 with one value per class; the label is the class with the highest value."""
    classifier = make_classifier()
    probabilities = classifier.predict(images)
    assert ((300, 3), np.float32) == (probabilities.shape, probabilities.dtype)
    np.testing.assert_allclose(1, probabilities.sum(1), atol=1e-6)
    assert [CLASSES[index] for index in probabilities.argmax(1)] == classifier.to_labels(probabilities)


def test_predictions_do_not_depend_on_the_batch(images: np.ndarray) -> None:
    """An image has the same probabilities alone and in a batch of 64, within 1e-6."""
    classifier = make_classifier(network="cnn")
    in_batch = classifier.predict(images[:64])
    alone = np.concatenate([classifier.predict(image[np.newaxis]) for image in images[:64]])
    np.testing.assert_allclose(in_batch, alone, atol=1e-6)


def test_empty_batch_gives_no_rows() -> None:
    """The result has shape (0, classes)."""
    assert (0, 3) == make_classifier().predict(np.empty((0, *SHAPE), np.uint8)).shape


@pytest.mark.parametrize(
    "invalid_images",
    [
        np.zeros((2, 1, 12, 12), np.float32),
        np.zeros((1, 12, 12), np.uint8),
        np.zeros((2, 3, 12, 12), np.uint8),
        np.zeros((2, 1, 12, 13), np.uint8),
    ],
)
def test_images_of_another_dtype_or_shape_are_rejected(invalid_images: np.ndarray) -> None:
    """The message has the accepted dtype and shape."""
    with pytest.raises(UserInputError, match=r"accepted: uint8 \(n, 1, 12, 12\)"):
        make_classifier().predict(invalid_images)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_network_that_returns_no_probabilities_is_reported(images: np.ndarray, value: float) -> None:
    """The error has the network, the number of affected images and the first of them."""
    classifier = make_classifier()

    def damage(_network: nn.Module, _inputs: object, logits: Tensor) -> Tensor:
        logits[[2, 5], 1] = value
        return logits

    classifier.network.register_forward_hook(damage)
    message = r"network mlp returned NaN, infinity or no probabilities for 2 of 8 images, first image 2"
    with pytest.raises(InvalidModelOutputError, match=message):
        classifier.predict(images[:8])


def test_error_of_a_network_has_a_part_for_clients(images: np.ndarray) -> None:
    """Clients read the class of the error, but not its text, which may contain a path."""
    classifier = make_classifier()

    def fail(_network: nn.Module, _inputs: object) -> None:
        raise FileNotFoundError("/home/ann/table.csv")

    classifier.network.register_forward_pre_hook(fail)
    with pytest.raises(InvalidModelOutputError) as raised:
        classifier.predict(images[:1])
    assert "network mlp raised FileNotFoundError: /home/ann/table.csv" == str(raised.value)
    assert "network mlp raised FileNotFoundError" == raised.value.public_message


def test_stop_by_a_signal_is_no_error_of_the_network(images: np.ndarray) -> None:
    """A `SystemExit` of the network is one."""
    classifier, stops = make_classifier(), iter([StopSignal(143), SystemExit(143)])

    def stop(_network: nn.Module, _inputs: object) -> None:
        raise next(stops)

    classifier.network.register_forward_pre_hook(stop)
    for error_type in (StopSignal, InvalidModelOutputError):
        with pytest.raises(error_type):
            classifier.predict(images[:1])


@pytest.mark.parametrize("offset", [0, 100, 5_000, -1])
def test_flipped_bit_is_detected(tmp_path: Path, offset: int) -> None:
    """Changed weights are rejected before they are used."""
    make_classifier().save(tmp_path / "zoo")
    path = tmp_path / "zoo" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptDataError, match="is not what was saved: its SHA-256 differs"):
        Classifier.load(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "got format 1, accepted: 4"),
        ({"format": 3}, "got format 3, accepted: 4"),
        ({"format": None}, "got format None, accepted: 4"),
        ({"digests": {}}, "lists no weights.safetensors"),
        ({"classes": ["ant", "bee"]}, "does not fit its card"),
        ({"color": "red"}, "unknown setting 'color'"),
        ({"shape": [1, 12]}, "shape"),
        ({"digests": {"weights.safetensors": "0", "../secret": "0"}}, "digests"),
    ],
)
def test_invalid_card_is_rejected(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A card of another format, or one that does not fit its weights, gives one line."""
    make_classifier().save(tmp_path / "zoo")
    path = tmp_path / "zoo" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptDataError, match=message):
        Classifier.load(tmp_path / "zoo")


def test_missing_or_incomplete_folder_is_reported(tmp_path: Path) -> None:
    """A missing folder, missing weights and a truncated card have a message each."""
    with pytest.raises(NotFoundError, match=r"has no card.json"):
        Classifier.load(tmp_path / "nothing")
    make_classifier().save(tmp_path / "zoo")
    (tmp_path / "zoo" / "weights.safetensors").unlink()
    with pytest.raises(CorruptDataError, match="cannot be read: No such file"):
        Classifier.load(tmp_path / "zoo")
    (tmp_path / "zoo" / "card.json").write_text('{"format": 2, "con')
    with pytest.raises(CorruptDataError, match="cannot be read"):
        Classifier.load(tmp_path / "zoo")


def test_custom_network_is_saved_with_its_source(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A custom class is loaded from the saved source file, after the original one was deleted."""
    source = tmp_path / "custom_network.py"
    source.write_text(
        "from torch import nn\n"
        "class Custom(nn.Sequential):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    classifier = make_classifier(network="custom_network:Custom")
    classifier.save(tmp_path / "zoo")
    source.unlink()
    np.testing.assert_array_equal(
        classifier.predict(images), Classifier.load(tmp_path / "zoo").predict(images)
    )
    assert not (tmp_path / "zoo" / "__pycache__").exists()  # a compiled copy has no digest
    (tmp_path / "zoo" / "network.py").write_text("raise SystemExit")
    with pytest.raises(CorruptDataError, match="SHA-256 differs"):
        Classifier.load(tmp_path / "zoo")
