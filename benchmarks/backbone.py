"""Photos: accuracy of `pretrained` by the number of labels, its speed, and the time to the first answer.

`RELEARN_DATA` names a folder with `ants-bees` and `cifar10-jpeg.tar.gz`.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.subprocess_peers import median_range
from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.download import torchvision
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.evaluation.metrics import Evaluation
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.home import Home
from relearn.model.images.decode import open_image
from relearn.model.images.decode_many import ImageSource, decode_images
from relearn.model.images.resize import decode_fitted
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.pretrained import Pretrained
from relearn.model.networks.pretrained_weights import WEIGHTS, load_backbone
from relearn.model.training import logistic
from relearn.model.training.features import compute_features

NAME, SIDE = "pretrained", 224
LABELS_PER_CLASS = (5, 10, 20, 50, 100)
DRAWS = 10  # random choices of the labels of one size
CIFAR_TRAIN, CIFAR_TEST = 100, 100  # images of each class: features of 2,000 take a minute
LARGE_PHOTO = 1732, 1155  # pixels: 2 MP
Labelled = tuple[np.ndarray, np.ndarray]


def measure(rounds: int = 3) -> tuple[str, str, pd.DataFrame]:
    """Measure accuracy, speed and the time to the first answer."""
    data = Home.from_environment().data
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        network = Pretrained(TrainConfig(network=NAME), (3, SIDE, SIDE), 2)
        load_backbone(network, NAME, folder)
        devices.set_num_threads(None)
        files = sorted((data / "ants-bees").glob("*/*/*.jpg"))
        photos = _features_of_files(network, files, folder)
        cifar = [
            _read_cifar(network, data / "cifar10-jpeg.tar.gz", part, folder) for part in ("train", "test")
        ]
        rows = [
            *_compare_with_sklearn(*photos),
            *_curve("ants and bees, 398 photos", _resample(*photos)),
            *_curve(f"CIFAR-10 (JPEG), {len(cifar[1][1]):,} other images", _draw(*cifar)),
            *_measure_features(network, files, folder, rounds),
            *_measure_latency(folder, rounds),
            *_measure_first_answer(data / "ants-bees" / "train", folder),
        ]
    note = (
        f"EfficientNet-Lite0 with ImageNet's weights, photos of {SIDE} × {SIDE} pixels. Accuracies in % with"
        f" 95 % intervals; those by labels are means of {DRAWS} draws, with their range. Speeds: median and"
        f" range of {rounds} interleaved rounds."
    )
    return "Photos with a pretrained backbone", note, pd.DataFrame(rows)


def _row(what: str, result: str, peer: str = "") -> dict[str, str]:
    print(what, result, peer, flush=True)
    return {"what": what, "result": result, "compared with": peer}


def _features_of_files(network: Pretrained, files: list[Path], folder: Path) -> Labelled:
    names = [file.parent.name for file in files]
    images = decode_images(
        [ImageSource(str(file), lambda file=file: file.open("rb")) for file in files], SIDE, channels=3
    )
    features = compute_features(
        network, WEIGHTS[NAME].converted_sha256, images.images, folder / "features.db"
    )
    return features, np.unique(names, return_inverse=True)[1]


def _read_cifar(network: Pretrained, archive: Path, part: str, folder: Path) -> Labelled:
    limit = CIFAR_TRAIN if part == "train" else CIFAR_TEST
    counts, images, labels = Counter[str](), list[np.ndarray](), list[str]()
    with tarfile.open(archive) as tar:
        for member in tar:
            split, label = Path(member.name).parts[-3:-1] if member.isfile() else ("", "")
            if split == part and counts[label] < limit:
                content = tar.extractfile(member)
                assert content is not None
                image = Image.open(io.BytesIO(content.read())).convert("RGB")
                images.append(np.asarray(image).transpose(2, 0, 1))
                labels.append(label)
                counts[label] += 1
    features = compute_features(
        network, WEIGHTS[NAME].converted_sha256, np.stack(images), folder / "features.db"
    )
    return features, np.unique(labels, return_inverse=True)[1]


def _fit(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the probabilities of a head as `relearn train` fits it."""
    classes = int(labels.max()) + 1
    folds = logistic.make_folds(labels, np.arange(len(labels)), 0)
    chosen = logistic.cross_validate(features, labels, classes, folds)
    temperature = logistic.fit_temperature(chosen.logits, labels[chosen.indices])
    head = logistic.fit_logistic(features, labels, classes, chosen.c)
    return lambda others: softmax(head.predict(others) / temperature, axis=1)


def _fit_sklearn(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=2000))
        return model.fit(features, labels).predict_proba  # type: ignore[no-any-return]


def _compare_with_sklearn(features: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, str]]:
    """Compare pooled predictions of five folds, paired by image."""
    evaluations = []
    for fit in (_fit, _fit_sklearn):
        probabilities = np.zeros((len(labels), 2))
        for learned, others in StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels):
            probabilities[others] = fit(features[learned], labels[learned])(features[others])
        evaluations.append(Evaluation(probabilities.astype(np.float32), labels, ("ants", "bees")))
    ours, peer = evaluations
    paired = PairedComparison.from_evaluations(ours, peer)
    wins, losses = paired.candidate_only_correct, paired.champion_only_correct
    yield _row(
        "ants and bees, 398 photos, five folds pooled",
        f"{ours.accuracy_with_interval.in_table}, log loss {ours.loss:.3f}",
        f"LogisticRegressionCV: {peer.accuracy_with_interval.in_table}, log loss {peer.loss:.3f};"
        f" {wins} photos correct here alone, {losses} there alone, p {paired.p_value:.2f}",
    )


def _resample(features: np.ndarray, labels: np.ndarray) -> Callable[[int, int], tuple[Labelled, Labelled]]:
    """Return a function that chooses `count` images of each class by a seed, and all others."""

    def choose(count: int, seed: int) -> tuple[Labelled, Labelled]:
        generator = np.random.default_rng(seed)
        learned = np.concatenate(
            [generator.permutation(np.flatnonzero(labels == label))[:count] for label in np.unique(labels)]
        )
        others = np.setdiff1d(np.arange(len(labels)), learned)
        return (features[learned], labels[learned]), (features[others], labels[others])

    return choose


def _draw(train: Labelled, test: Labelled) -> Callable[[int, int], tuple[Labelled, Labelled]]:
    choose = _resample(*train)
    return lambda count, seed: (choose(count, seed)[0], test)


def _curve(name: str, choose: Callable[[int, int], tuple[Labelled, Labelled]]) -> Iterator[dict[str, str]]:
    for count in LABELS_PER_CLASS:
        correct, images, accuracies = 0, 0, []
        for seed in range(DRAWS):
            (features, labels), (others, other_labels) = choose(count, seed)
            hits = _fit(features, labels)(others).argmax(1) == other_labels
            accuracies.append(100 * hits.mean())
            correct, images = correct + int(hits.sum()), images + len(hits)
        low, high = min(accuracies), max(accuracies)
        interval = Accuracy.from_counts(round(correct / DRAWS), images // DRAWS).in_table
        yield _row(
            f"{name}: {count} labels a class", interval, f"range of {DRAWS} draws {low:.1f}–{high:.1f}"
        )


def _measure_features(
    network: Pretrained, files: list[Path], folder: Path, rounds: int
) -> Iterator[dict[str, str]]:
    """Measure photos a second from JPEG files to features, here and with a DataLoader."""
    rates: dict[str, list[float]] = {"here": [], "peer": []}
    for index in range(rounds):
        start = time.perf_counter()
        images = decode_images(
            [ImageSource(str(file), lambda file=file: file.open("rb")) for file in files], SIDE, channels=3
        )
        compute_features(network, WEIGHTS[NAME].converted_sha256, images.images, folder / f"{index}.db")
        rates["here"].append(len(files) / (time.perf_counter() - start))
        start = time.perf_counter()
        _compute_with_data_loader(network, files[0].parents[2])
        rates["peer"].append(len(files) / (time.perf_counter() - start))
    peer = "ImageFolder and DataLoader with 2 workers, same network: {} ({})".format(
        *median_range(rates["peer"])
    )
    yield _row("photos a second, from file to features", "{} ({})".format(*median_range(rates["here"])), peer)


def _compute_with_data_loader(network: Pretrained, folder: Path) -> None:
    vision: Any = torchvision()
    transforms = vision.transforms
    transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    for part in ("train", "val"):
        dataset = vision.datasets.ImageFolder(folder / part, transform)
        with torch.inference_mode():
            for inputs, _ in torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=2):
                network.extract_features(inputs)


def _measure_latency(folder: Path, rounds: int) -> Iterator[dict[str, str]]:
    """Measure one JPEG of 2 MP through the classifier, and the same decoder and bare network."""
    config, shape = TrainConfig(network=NAME, model_name="photos"), (3, SIDE, SIDE)
    network = Pretrained(config, shape, 2).eval()
    load_backbone(network, NAME, folder)
    card = ModelCard(
        config=config,
        dataset="photos",
        classes=("a", "b"),
        shape=shape,
        style="photo",
        fingerprint="",
        parameters=0,
    )
    classifier, buffer = Classifier(network, card), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (72, 48, 3), np.uint8)
    Image.fromarray(noise).resize(LARGE_PHOTO, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    content = buffer.getvalue()

    def bare() -> None:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (6 * SIDE, 6 * SIDE))
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        with torch.inference_mode():
            network(torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255).softmax(1)

    def ours() -> None:
        image = decode_fitted(open_image(content, 2**24, 2**24), shape, "photo")
        classifier.predict(image[None])

    devices.set_num_threads(1)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(10 * rounds):
        for name, call in (("ours", ours), ("bare", bare)):
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    devices.set_num_threads(None)
    yield _row(
        "ms for a JPEG of 2 MP through Classifier, one core",
        "{} ({})".format(*median_range(times["ours"])),
        "Pillow and bare network: {} ({})".format(*median_range(times["bare"])),
    )


def _measure_first_answer(photos: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Measure `relearn run` without further flags to its first answer over HTTP."""
    seconds = {}
    environment = os.environ | {"RELEARN_HOME": str(folder / "home")}
    program = Path(sys.executable).with_name("relearn")
    for state, flags in (("nothing cached", ()), ("features cached", ("--model-name", "again"))):
        start = time.perf_counter()
        subprocess.run(
            [program, "run", "--dataset", f"folder:{photos}", *flags],
            env=environment,
            check=True,
            capture_output=True,
        )
        seconds[state] = time.perf_counter() - start
    for state, duration in seconds.items():
        yield _row(f"seconds of relearn run on 245 photos to its first answer, {state}", f"{duration:.0f}")
