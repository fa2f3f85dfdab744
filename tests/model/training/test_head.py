"""The head of a pretrained network: features once, a convex fit, probabilities that fit their accuracy."""

import json
import sqlite3
import warnings
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegressionCV
from torch import nn

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.data.transforms import to_unit_float
from relearn.model.errors import DataError, InfrastructureError
from relearn.model.networks.pretrained import Pretrained
from relearn.model.training import features, logistic
from relearn.model.training.features import FEATURES_FILE, compute_features, count_unused, delete_unused
from relearn.model.training.head import HeadResult, fit_head
from relearn.model.training.state import TrainingSnapshot

SHAPE = (3, 16, 16)
CLASSES = 3
CONFIG = TrainConfig(network="pretrained", threads=1, device="cpu")


def make_images(count: int, seed: int = 0) -> LabelledImages:
    """Make noise images with one bright channel; its number is the label."""
    generator, labels = np.random.default_rng(seed), np.arange(count) % CLASSES
    images = generator.integers(0, 100, (count, *SHAPE), dtype=np.uint8)
    images[np.arange(count), labels] += 150
    return LabelledImages(images, labels)


SPLITS = Splits(make_images(12), make_images(6, 1), make_images(6, 2))


def build() -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(CONFIG, SHAPE, CLASSES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone and features of `SPLITS`, computed once for all tests."""
    folder = tmp_path_factory.mktemp("backbones")
    fit_head(CONFIG, build(), SPLITS, CLASSES, folder)
    return folder


def test_head_predicts_the_classes(folder: Path) -> None:
    """Images of three colors are told apart, and the logits are those of the features by hand."""
    network = build()
    result = fit_head(CONFIG, network, SPLITS, CLASSES, folder)
    with torch.inference_mode():
        logits = network(to_unit_float(torch.from_numpy(SPLITS.test.images)))
    assert SPLITS.test.labels.tolist() == logits.argmax(1).tolist()
    assert (1.0, True) == (result.train_accuracy, result.val_accuracy >= 5 / 6)
    assert result.c in logistic.INVERSE_PENALTIES
    assert min(result.to_frame()["loss"]) == result.to_frame().set_index("c")["loss"][result.c]


def test_interrupted_training_reaches_the_same_head(folder: Path, tmp_path: Path) -> None:
    """Ended within the features or after the fit, it continues to the same bits, with no image twice."""
    complete, snapshots = build(), list[TrainingSnapshot]()
    result = fit_head(CONFIG, complete, SPLITS, CLASSES, folder, on_checkpoint=snapshots.append)
    initial, last = snapshots

    def interrupt(done: int, total: int) -> None:
        if done > features.IMAGES_AT_A_TIME // 4:
            raise KeyboardInterrupt

    interrupted, counts = build(), list[int]()
    with pytest.raises(KeyboardInterrupt):
        fit_head(CONFIG, interrupted, SPLITS, CLASSES, tmp_path, on_progress=interrupt)
    assert 12 == count_rows(tmp_path / FEATURES_FILE)
    again = fit_head(
        CONFIG, interrupted, SPLITS, CLASSES, tmp_path, initial, lambda done, total: counts.append(done)
    )
    assert [12, 18] == counts
    after_the_fit = build()
    assert result == fit_head(CONFIG, after_the_fit, SPLITS, CLASSES, folder, last)
    for network in (interrupted, after_the_fit):
        assert all(
            torch.equal(value, network.state_dict()[name]) for name, value in complete.state_dict().items()
        )
    assert (result.c, result.temperature, result.val_loss) == (again.c, again.temperature, again.val_loss)


def count_rows(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute("SELECT count(*) FROM features").fetchone()[0])


def test_features_are_computed_once(folder: Path) -> None:
    """Old images are read and new ones computed: a network that cannot compute needs only the new ones."""
    network, sha256, file = build(), "a" * 64, folder / "once.db"
    first = compute_features(network, sha256, SPLITS.train.images[:8], file)
    network.backbone = nn.Module()  # type: ignore[assignment]  # any call fails
    again = compute_features(network, sha256, SPLITS.train.images[:8][::-1], file)
    np.testing.assert_array_equal(first[::-1], again)
    for other in ({"sha256": "b" * 64}, {"images": SPLITS.train.images[8:]}):
        with pytest.raises(NotImplementedError):
            compute_features(
                network, other.get("sha256", sha256), other.get("images", SPLITS.train.images[:8]), file
            )


@pytest.mark.parametrize("threads", [1, 3])
def test_features_do_not_depend_on_threads_or_neighbors(folder: Path, threads: int) -> None:
    """Each image has the same features, bit for bit, alone and among others, on any number of threads."""
    network, file, before = build(), folder / f"threads-{threads}.db", torch.get_num_threads()
    torch.set_num_threads(threads)
    together = compute_features(network, "a", SPLITS.train.images, file)
    assert threads == torch.get_num_threads()
    torch.set_num_threads(before)
    alone = compute_features(network, "b", SPLITS.train.images[4:5], file)
    np.testing.assert_array_equal(together[4:5], alone)


def test_damaged_features_are_computed_again(tmp_path: Path) -> None:
    """A file that is no database is replaced."""
    file = tmp_path / FEATURES_FILE
    file.write_bytes(b"no database" * 1000)
    compute_features(build(), "a", SPLITS.test.images, file)
    assert 6 == count_rows(file)


def test_features_that_cannot_be_kept_are_one_line(tmp_path: Path) -> None:
    """The line names the file and the reason."""
    (tmp_path / "home").write_text("a file where the folder has to be")
    with pytest.raises(InfrastructureError, match=r"cannot keep features of images in .*features\.db: "):
        compute_features(build(), "a", SPLITS.test.images, tmp_path / "home" / FEATURES_FILE)


def test_unused_features_are_pruned(tmp_path: Path) -> None:
    """Features of images that no training has used for a month are deleted, the others stay."""
    file = tmp_path / FEATURES_FILE
    compute_features(build(), "a", SPLITS.test.images, file)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE features SET day = day - ?", [features.KEEP_DAYS + 1])
    compute_features(build(), "a", SPLITS.test.images[:2], file)
    assert 4 == count_unused(file)
    assert delete_unused(file)
    assert (2, 0) == (count_rows(file), count_unused(file))


def make_features(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make features whose classes overlap, and their labels."""
    generator, labels = np.random.default_rng(seed), np.arange(count) % classes
    centers = np.random.default_rng(0).normal(size=(classes, 20))
    return (centers[labels] + 2 * generator.normal(size=(count, 20))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_head_is_not_worse_than_scikit_learn(classes: int) -> None:
    """Its mean loss on other images is at most that of LogisticRegressionCV with its ten penalties."""
    others, other_labels = make_features(2000, classes, 0)
    losses, peer_losses = [], []
    for seed in range(1, 4):
        learned, labels = make_features(300, classes, seed)
        folds = logistic.make_folds(labels, np.arange(300), 0)
        chosen = logistic.cross_validate(learned, labels, classes, folds)
        head = logistic.fit_logistic(learned, labels, classes, chosen.c)
        temperature = logistic.fit_temperature(chosen.logits, labels[chosen.indices])
        losses.append(logistic.score_logits(head.predict(others), other_labels, temperature)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            peer = LogisticRegressionCV(max_iter=1000, scoring="neg_log_loss").fit(learned, labels)
        peer_losses.append(-np.log(peer.predict_proba(others)[np.arange(2000), other_labels]).mean())
    assert np.mean(losses) <= 1.01 * np.mean(peer_losses)


def test_folds_divide_the_images() -> None:
    """Each image is held out once, equal images in the same fold, and classes are spread over the folds."""
    labels, groups = np.arange(60) % 3, np.arange(60) // 2
    folds = logistic.make_folds(labels, groups, 0)
    assert list(range(60)) == sorted(np.concatenate([held_out for _, held_out in folds]).tolist())
    for learned, held_out in folds:
        assert not set(groups[learned]) & set(groups[held_out])
        assert 4 == np.bincount(labels[held_out]).min()


@pytest.mark.parametrize("counts", [(2, 2), (2, 2, 1), (3, 1)])
def test_few_images_are_enough(counts: tuple[int, ...], folder: Path) -> None:
    """A head is trained on two images of a class, and its probabilities are finite."""
    images, labels = make_images(sum(counts)).images, np.repeat(np.arange(len(counts)), counts)
    splits = Splits(
        LabelledImages(images[:-1], labels[:-1]), LabelledImages(images[-1:], labels[-1:]), SPLITS.test
    )
    result = fit_head(CONFIG, build(), splits, CLASSES, folder)
    assert np.isfinite([result.val_loss, result.val_accuracy, result.temperature]).all()


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2]])
def test_too_few_images_are_one_line(labels: list[int]) -> None:
    """Images that are the only ones of their class cannot be predicted from others."""
    with pytest.raises(
        DataError, match=r"cross-validation: got . images .* accepted: two or more of two classes"
    ):
        logistic.make_folds(np.array(labels), np.arange(len(labels)), 0)


def test_fewer_groups_than_folds_are_enough() -> None:
    """Four patients make four folds, none of which shares a patient with what it learns from."""
    labels, groups = np.arange(100) % 2, np.arange(100) // 25
    folds = logistic.make_folds(labels, groups, 0)
    assert 4 == len(folds)
    assert all(not set(groups[learned]) & set(groups[held_out]) for learned, held_out in folds)


def test_classes_that_are_one_group_each_are_an_error() -> None:
    """Nothing can be scored: no fold learns a class that it is asked for."""
    labels = np.repeat(np.arange(5), 30)
    with pytest.raises(DataError, match=r"in 5 groups, accepted: .*, of two or more groups"):
        logistic.make_folds(labels, labels, 0)


def test_class_with_one_image_is_learned() -> None:
    """Its image is not scored, since no fold has another one, and the head has logits for it."""
    values, labels = make_features(31, 3, 1)
    labels[:] = np.arange(31) % 2
    labels[-1] = 2
    folds = logistic.make_folds(labels, np.arange(31), 0)
    chosen = logistic.cross_validate(values, labels, 3, folds)
    assert 30 not in chosen.indices
    head = logistic.fit_logistic(values, labels, 3, 1.0)
    assert 2 == head.predict(values[-1:]).argmax()
    without = logistic.fit_logistic(values[:-1], labels[:-1], 3, 1.0)
    assert (without.predict(values).argmax(1) < 2).all()


def test_balanced_head_finds_a_rare_class() -> None:
    """Overlapping classes, 19 images to 1, are recognized equally often."""
    generator = np.random.default_rng(2)
    labels = (np.arange(4000) % 20 == 0).astype(np.int64)
    values = (generator.normal(size=(4000, 2)) + labels[:, None]).astype(np.float32)
    recalls = {}
    for is_balanced in (False, True):
        predicted = logistic.fit_logistic(values, labels, 2, 1.0, is_balanced).predict(values).argmax(1)
        recalls[is_balanced] = [float((predicted == label)[labels == label].mean()) for label in (0, 1)]
    assert recalls[False][1] < 0.2
    assert recalls[True][1] == pytest.approx(recalls[True][0], abs=0.05)


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0])
def test_temperature_repairs_probabilities(factor: float) -> None:
    """Logits that are too large or too small by a factor get that temperature."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 3)) * 2
    labels = np.array([generator.choice(3, p=np.exp(log_softmax(row))) for row in logits])
    assert factor == pytest.approx(logistic.fit_temperature(logits * factor, labels), rel=0.1)


def test_results_survive_a_checkpoint() -> None:
    """A result is the same after JSON, and no result is there before the end."""
    result = HeadResult(
        (logistic.PenaltyRecord(0.1, 0.5, 0.75),), 0.1, 1.0, 1.0, 0.5, 0.75, 0.7, 5, 1.0, 1.0, 1, "cpu"
    )
    scalars = json.loads(json.dumps({"history": [asdict(result)]}))
    assert result == HeadResult.from_snapshot(TrainingSnapshot({}, scalars))
    assert HeadResult.from_snapshot(TrainingSnapshot({}, {"history": []})) is None
