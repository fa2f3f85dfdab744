"""Tables of an exploratory data analysis: splits, labels, pixel values, preprocessing, findings."""

import numpy as np
import pandas as pd
import torch

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.data.transforms import one_hot, preprocess
from relearn.model.preparation.prepared import SPLITS, PreparedDataset
from relearn.model.preparation.validation import findings_table, measure_class_balance

SAMPLE_SIZE = 1024  # images in the table of preprocessing
CHUNK_SIZE = 2**22  # pixels counted at a time


def eda_tables(prepared: PreparedDataset) -> dict[str, pd.DataFrame]:
    """Build all tables, by the name of their CSV file."""
    splits, classes = prepared.splits, prepared.classes
    return {
        "splits": split_sizes(splits),
        "labels": label_counts(splits, classes),
        "pixels": pixel_statistics(splits),
        "preprocessing": preprocessing_ranges(splits.train, len(classes)),
        "one_hot": one_hot_examples(splits.train.labels, classes),
        "findings": findings_table(prepared.findings),
    }


def split_sizes(splits: Splits) -> pd.DataFrame:
    """Count the images of each split: columns split, images, fraction (of all)."""
    counts = [len(getattr(splits, name)) for name in SPLITS]
    return pd.DataFrame({"split": SPLITS, "images": counts, "fraction": np.array(counts) / sum(counts)})


def label_counts(splits: Splits, classes: tuple[str, ...]) -> pd.DataFrame:
    """Count the images of each class: columns class, train, validation, test, images, fraction."""
    counts = {
        name: np.bincount(getattr(splits, name).labels, minlength=len(classes)).astype(int) for name in SPLITS
    }
    total = np.sum(list(counts.values()), axis=0)
    return pd.DataFrame({"class": classes} | counts | {"images": total, "fraction": total / total.sum()})


def balance_summary(distribution: pd.DataFrame) -> str:
    """Describe the class balance of a `label_counts` table in one line."""
    counts = distribution["images"].to_numpy()
    ratio, category = measure_class_balance(counts)
    if not counts.min():
        missing_count = int((counts == 0).sum())
        return f"{category}: {missing_count} of {len(counts)} classes have no image"
    if counts.min() == counts.max():
        return f"{category}: each has {counts.min():,} images"
    largest, smallest = (distribution["class"][index] for index in (counts.argmax(), counts.argmin()))
    counts_text = f"{counts.max():,} and {counts.min():,}"
    return f"{category}: {largest!r} has {ratio:.3g} times the images of {smallest!r} ({counts_text})"


def histogram(images: np.ndarray) -> np.ndarray:
    """Count each value 0 to 255 in `images`, uint8: int64 (256,)."""
    flat = np.asarray(images).reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, len(flat), CHUNK_SIZE):
        counts += np.bincount(flat[start : start + CHUNK_SIZE], minlength=256)
    return counts


def pixel_statistics(splits: Splits) -> pd.DataFrame:
    """Describe the stored pixels: columns split, minimum, maximum, mean, std, zero_fraction."""
    return pd.DataFrame(
        [{"split": name} | _describe_histogram(histogram(getattr(splits, name).images)) for name in SPLITS]
    )


def _describe_histogram(counts: np.ndarray) -> dict[str, float]:
    present_values, values = np.flatnonzero(counts), np.arange(256)
    mean = counts @ values / counts.sum()
    return {
        "minimum": int(present_values[0]),
        "maximum": int(present_values[-1]),
        "mean": float(mean),
        "std": float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())),
        "zero_fraction": float(counts[0] / counts.sum()),
    }


def preprocessing_ranges(split: LabelledImages, classes: int) -> pd.DataFrame:
    """Compare the first images and labels as stored, and as the mlp (flat) and the cnn get them.

    Columns: what, type, shape, minimum, maximum, mean.
    """
    images, labels = (
        torch.from_numpy(np.array(values[:SAMPLE_SIZE])) for values in (split.images, split.labels)
    )
    mlp_inputs, targets = preprocess(images, labels, classes, flat_input=True)
    cnn_inputs, _ = preprocess(images, labels, classes, flat_input=False)
    rows = {
        "images as stored": images,
        "images for the mlp": mlp_inputs,
        "images for the cnn": cnn_inputs,
        "labels as stored": labels,
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


def one_hot_examples(labels: np.ndarray, classes: tuple[str, ...], max_rows: int = 5) -> pd.DataFrame:
    """Show labels before and after one-hot encoding: columns image, label (index), class, one per class.

    The rows are the first image of each class, for at most `max_rows` classes.
    """
    _, indices = np.unique(labels, return_index=True)
    indices = np.sort(indices)[:max_rows]
    examples = torch.from_numpy(np.array(labels[indices]))
    before = {"image": indices, "label": examples, "class": [classes[label] for label in examples.tolist()]}
    after = pd.DataFrame(one_hot(examples, len(classes)).int().numpy(), columns=list(classes))
    return pd.concat([pd.DataFrame(before), after], axis="columns")
