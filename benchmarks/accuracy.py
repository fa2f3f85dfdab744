"""Test accuracy of the presets on MNIST: mean over several seeds."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean, stdev

import pandas as pd

from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.evaluation.metrics import evaluate
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.cnn import GRAY_CHANNELS
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

SEEDS, SEEDS_OF_BEST = 5, 3
Trainings = tuple[tuple[str | None, dict[str, object]], ...]
OURS: Trainings = (
    (None, {"network": "mlp"}),
    (None, {"network": "cnn"}),
    ("fast", {}),
    ("fast-cnn", {}),
)
BEST: Trainings = (("best", {}),)
TUTORIAL: Trainings = (
    ("tutorial", {"network": "mlp"}),
    ("tutorial-rmsprop", {"network": "mlp"}),
    ("tutorial-rmsprop", {"network": "mlp", "hidden_sizes": (784, 512)}),
    ("tutorial", {"network": "mlp", "hidden_sizes": (784, 512)}),
    ("tutorial", {"network": "cnn"}),
)


def measure_ours() -> tuple[str, str, pd.DataFrame]:
    """Measure the default and the fast presets."""
    note = (
        f"MNIST, {SEEDS} seeds each; settings were chosen on validation images only, the test images were "
        "scored once at the end of each training. The validation split is the same for all seeds. "
        "Seconds on one thread, with one training per core."
    )
    return "Accuracy of the presets on MNIST", note, _table(OURS)


def measure_best() -> tuple[str, str, pd.DataFrame]:
    """Measure the preset `best`."""
    note = (
        f"MNIST, {SEEDS_OF_BEST} seeds; settings were chosen on validation images only, the test images "
        "were scored once at the end of each training. Trainings run one after the other, each on all cores."
    )
    return "Accuracy of the preset best on MNIST", note, _table(BEST, SEEDS_OF_BEST, parallel=False)


def measure_tutorial() -> tuple[str, str, pd.DataFrame]:
    """Measure the presets of the tutorial."""
    note = (
        f"MNIST, {SEEDS} seeds each, as in `--preset`; the validation split is the same for all "
        "seeds. Seconds on one thread, with one training per core."
    )
    return "Accuracy of the tutorial's settings on MNIST", note, _table(TUTORIAL)


def _table(trainings: Trainings, seeds: int = SEEDS, parallel: bool = True) -> pd.DataFrame:
    """Train on one thread each, one training per core: faster than one after the other on all cores."""
    configs = [
        TrainConfig.from_preset(
            preset, **settings, dataset="mnist", seed=seed, threads=1 if parallel else devices.cpu_count()
        )
        for preset, settings in trainings
        for seed in range(seeds)
    ]
    with ProcessPoolExecutor(devices.cpu_count() if parallel else 1, get_context("spawn")) as pool:
        results = pd.DataFrame(pool.map(_train, configs))
    return pd.DataFrame(
        _row(preset, configs[start], results[start : start + seeds])
        for start, (preset, _) in zip(range(0, len(configs), seeds), trainings, strict=True)
    )


def _row(preset: str | None, config: TrainConfig, table: pd.DataFrame) -> dict[str, object]:
    widths = "-".join(map(str, (784, *config.hidden_sizes, 10)))
    channels = config.conv_channels or GRAY_CHANNELS
    convolutions = f"cnn {' '.join(map(str, channels))}, {config.kernel_size}×{config.kernel_size}"
    return {
        "preset": preset or "none",
        "network": widths if config.network == "mlp" else convolutions,
        "test accuracy, mean": f"{mean(table['test']):.3f} %",
        "± sd": f"{stdev(table['test']):.2f}",
        "lowest to highest": f"{min(table['test']):.2f}–{max(table['test']):.2f}",
        "validation, mean": f"{mean(table['validation']):.2f} %",
        "training, mean": f"{mean(table['training']):.2f} %",
        "epochs, mean": f"{mean(table['epochs']):.1f}",
        "seconds, mean": f"{mean(table['seconds']):.0f}",
    }


def _train(config: TrainConfig) -> dict[str, float]:
    prepared = prepare_dataset(config, Home.from_environment())
    classes = len(prepared.classes)
    network = build_network(config, prepared.shape, classes)
    result = fit(config, network, prepared.splits, classes)
    card = ModelCard.from_network(config, prepared, network)
    best = result.best_record
    print(config.network, config.hidden_sizes, config.optimizer, config.seed, best, flush=True)
    return {
        "test": 100 * evaluate(Classifier(network, card), prepared.splits.test).accuracy,
        "validation": 100 * best.val_accuracy,
        "training": 100 * best.train_accuracy,
        "epochs": len(result.history),
        "seconds": result.seconds,
    }
