import json
from pathlib import Path

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters

SHAPE = (1, 12, 12)
CLASSES = ("ant", "bee", "cow")


def make(**settings: object) -> Classifier:
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


@pytest.mark.parametrize("settings", [{}, {"network": "cnn"}, {"batch_norm": True, "dropout": 0.5}])
def test_what_is_loaded_predicts_as_what_was_saved(
    tmp_path: Path, images: np.ndarray, settings: dict[str, object]
) -> None:
    """Saving and loading changes no probability, not in the last bit."""
    classifier = make(**settings)
    classifier.save(tmp_path / "zoo")
    loaded = Classifier.load(tmp_path / "zoo")
    np.testing.assert_array_equal(classifier.predict(images), loaded.predict(images))
    assert classifier.card.classes == loaded.card.classes


def test_saving_is_repeatable(tmp_path: Path) -> None:
    """The same classifier saved twice gives the same bytes."""
    classifier = make()
    for folder in ("a", "b"):
        classifier.save(tmp_path / folder)
    for name in ("weights.safetensors", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_probabilities_are_shares(images: np.ndarray) -> None:
    """Each row is float32, has one number a class and adds up to one; labels are the greatest."""
    classifier = make()
    probabilities = classifier.predict(images)
    assert ((300, 3), np.float32) == (probabilities.shape, probabilities.dtype)
    np.testing.assert_allclose(1, probabilities.sum(1), atol=1e-6)
    assert [CLASSES[index] for index in probabilities.argmax(1)] == classifier.to_labels(probabilities)


def test_one_image_or_many_is_the_same(images: np.ndarray) -> None:
    """An image has the same probabilities alone and among others."""
    classifier = make(network="cnn")
    together = classifier.predict(images[:64])
    alone = np.concatenate([classifier.predict(image[np.newaxis]) for image in images[:64]])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_no_images_give_no_rows() -> None:
    """An empty batch is an empty answer."""
    assert (0, 3) == make().predict(np.empty((0, *SHAPE), np.uint8)).shape


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 1, 12, 12), np.float32),
        np.zeros((1, 12, 12), np.uint8),
        np.zeros((2, 3, 12, 12), np.uint8),
        np.zeros((2, 1, 12, 13), np.uint8),
    ],
)
def test_other_images_are_refused(wrong: np.ndarray) -> None:
    """Images of another type or shape are refused, saying which are taken."""
    with pytest.raises(UserInputError, match=r"accepted: uint8 \(n, 1, 12, 12\)"):
        make().predict(wrong)


@pytest.mark.parametrize("offset", [0, 100, 5_000, -1])
def test_a_flipped_byte_is_found(tmp_path: Path, offset: int) -> None:
    """Weights that are not what was saved are refused before they are used."""
    make().save(tmp_path / "zoo")
    path = tmp_path / "zoo" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptDataError, match="is not what was saved: its SHA-256 differs"):
        Classifier.load(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "got format 1, accepted: 2"),
        ({"format": None}, "got format None, accepted: 2"),
        ({"digests": {}}, "names no weights.safetensors"),
        ({"classes": ["ant", "bee"]}, "does not fit its card"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"shape": [1, 12]}, "shape"),
        ({"digests": {"weights.safetensors": "0", "../secret": "0"}}, "digests"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A card of another format, or one that does not describe its weights, is one line."""
    make().save(tmp_path / "zoo")
    path = tmp_path / "zoo" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptDataError, match=message):
        Classifier.load(tmp_path / "zoo")


def test_a_missing_or_torn_folder_is_one_line(tmp_path: Path) -> None:
    """No folder, no card, no weights, half a card: each is said."""
    with pytest.raises(NotFoundError, match=r"has no card.json"):
        Classifier.load(tmp_path / "nothing")
    make().save(tmp_path / "zoo")
    (tmp_path / "zoo" / "weights.safetensors").unlink()
    with pytest.raises(CorruptDataError, match="cannot be read: No such file"):
        Classifier.load(tmp_path / "zoo")
    (tmp_path / "zoo" / "card.json").write_text('{"format": 2, "con')
    with pytest.raises(CorruptDataError, match="cannot be read"):
        Classifier.load(tmp_path / "zoo")


def test_a_network_of_ones_own_travels_with_its_source(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own class is loaded from the source saved with it, even where the class is long gone."""
    source = tmp_path / "own_network.py"
    source.write_text(
        "from torch import nn\n"
        "class Own(nn.Sequential):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    classifier = make(network="own_network:Own")
    classifier.save(tmp_path / "zoo")
    source.unlink()
    np.testing.assert_array_equal(
        classifier.predict(images), Classifier.load(tmp_path / "zoo").predict(images)
    )
    (tmp_path / "zoo" / "network.py").write_text("raise SystemExit")
    with pytest.raises(CorruptDataError, match="SHA-256 differs"):
        Classifier.load(tmp_path / "zoo")
