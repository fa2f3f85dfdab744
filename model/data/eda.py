"""Looking at the data before any training, in tables: who is where, how often, how bright, as what."""

import numpy as np
import pandas as pd
import torch

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.prepared import SPLITS, PreparedDataset
from relearn.model.data.splits import Splits
from relearn.model.data.transforms import one_hot, preprocess
from relearn.model.data.validation import findings_table, measure_class_balance

LOOKED_AT = 1024  # images that go through preprocessing for the table of ranges
CHUNK_SIZE = 2**22  # pixels counted at a time


def tables(prepared: PreparedDataset) -> dict[str, pd.DataFrame]:
    """Every table of this file, by the name of its CSV."""
    splits, classes = prepared.splits, prepared.classes
    return {
        "splits": sizes(splits),
        "labels": labels(splits, classes),
        "pixels": pixels(splits),
        "preprocessing": preprocessing(splits.train, len(classes)),
        "one_hot": one_hot_rows(splits.train.labels, classes),
        "findings": findings_table(prepared.findings),
    }


def sizes(splits: Splits) -> pd.DataFrame:
    """Images of each split, and their share of all: columns split, images, share."""
    counts = [len(getattr(splits, part)) for part in SPLITS]
    return pd.DataFrame({"split": SPLITS, "images": counts, "share": np.array(counts) / sum(counts)})


def labels(splits: Splits, classes: tuple[str, ...]) -> pd.DataFrame:
    """Images of each class in each split: columns class, train, validation, test, images, share."""
    counts = {
        part: np.bincount(getattr(splits, part).labels, minlength=len(classes)).astype(int) for part in SPLITS
    }
    total = np.sum(list(counts.values()), axis=0)
    return pd.DataFrame({"class": classes} | counts | {"images": total, "share": total / total.sum()})


def verdict(distribution: pd.DataFrame) -> str:
    """Whether the classes of `labels` are balanced, in a line."""
    counts = distribution["images"].to_numpy()
    ratio, word = measure_class_balance(counts)
    if not counts.min():
        absent = int((counts == 0).sum())
        return f"{word}: {absent} of {len(counts)} classes have no image"
    if counts.min() == counts.max():
        return f"{word}: each has {counts.min():,} images"
    large, small = (distribution["class"][index] for index in (counts.argmax(), counts.argmin()))
    numbers = f"{counts.max():,} and {counts.min():,}"
    return f"{word}: {large!r} has {ratio:.3g} times the images of {small!r} ({numbers})"


def histogram(images: np.ndarray) -> np.ndarray:
    """How often each value 0 to 255 stands in `images`, uint8: int64 (256,)."""
    flat = np.asarray(images).reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, len(flat), CHUNK_SIZE):
        counts += np.bincount(flat[start : start + CHUNK_SIZE], minlength=256)
    return counts


def pixels(splits: Splits) -> pd.DataFrame:
    """Range of the stored pixels: columns split, minimum, maximum, mean, deviation, dark (share of zeros)."""
    return pd.DataFrame(
        [{"split": part} | _range(histogram(getattr(splits, part).images)) for part in SPLITS]
    )


def _range(counts: np.ndarray) -> dict[str, float]:
    present, values = np.flatnonzero(counts), np.arange(256)
    mean = counts @ values / counts.sum()
    return {
        "minimum": int(present[0]),
        "maximum": int(present[-1]),
        "mean": float(mean),
        "deviation": float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())),
        "dark": float(counts[0] / counts.sum()),
    }


def preprocessing(part: LabelledImages, classes: int) -> pd.DataFrame:
    """The first images and labels as stored, and as the mlp (flat) and the cnn are given them.

    Columns what, type, shape, minimum, maximum, mean.
    """
    images, numbers = (
        torch.from_numpy(np.array(values[:LOOKED_AT])) for values in (part.images, part.labels)
    )
    flat, targets = preprocess(images, numbers, classes, flat_input=True)
    planes, _ = preprocess(images, numbers, classes, flat_input=False)
    rows = {
        "images as stored": images,
        "images for the mlp": flat,
        "images for the cnn": planes,
        "labels as stored": numbers,
        "labels as one-hot": targets,
    }
    return pd.DataFrame(
        [
            {
                "what": what,
                "type": str(values.dtype).removeprefix("torch."),
                "shape": " × ".join(map(str, ("n", *values.shape[1:]))),
                "minimum": values.min().item(),
                "maximum": values.max().item(),
                "mean": values.double().mean().item(),
            }
            for what, values in rows.items()
        ]
    )


def one_hot_rows(numbers: np.ndarray, classes: tuple[str, ...], rows: int = 5) -> pd.DataFrame:
    """Labels before and after: columns image, label (its number), class, and one for each class.

    The rows are the first image of each class, of at most `rows` classes.
    """
    _, images = np.unique(numbers, return_index=True)
    images = np.sort(images)[:rows]
    labels = torch.from_numpy(np.array(numbers[images]))
    before = {"image": images, "label": labels, "class": [classes[label] for label in labels.tolist()]}
    after = pd.DataFrame(one_hot(labels, len(classes)).int().numpy(), columns=list(classes))
    return pd.concat([pd.DataFrame(before), after], axis="columns")
