"""How right the presets are on real MNIST: mean of several seeds on the test images."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean, stdev

import pandas as pd

from model.classifier import Card, Classifier
from model.config import PRESETS, TrainConfig
from model.home import Home
from model.metrics import evaluate
from model.networks import build
from model.prepared import prepare
from model.training import fit

SEEDS = 5
Trainings = tuple[tuple[str, dict[str, object]], ...]
DEFAULT: Trainings = (("default", {"network": "mlp"}), ("default", {"network": "cnn"}))
TUTORIAL: Trainings = (
    ("tutorial", {"network": "mlp"}),
    ("tutorial-rmsprop", {"network": "mlp"}),
    ("tutorial-rmsprop", {"network": "mlp", "hidden": (784, 512)}),
    ("tutorial", {"network": "mlp", "hidden": (784, 512)}),
    ("tutorial", {"network": "cnn"}),
)


def measure_default() -> tuple[str, str, pd.DataFrame]:
    """The settings that we chose."""
    note = (
        f"MNIST, {SEEDS} seeds each; settings were chosen on validation images only, the test images were "
        "scored once at the end of each training. The validation part is one and the same for all seeds."
    )
    return "Accuracy of the defaults on MNIST", note, _table(DEFAULT)


def measure_tutorial() -> tuple[str, str, pd.DataFrame]:
    """The settings of the tutorial."""
    note = (
        f"MNIST, {SEEDS} seeds each, as `--preset` gives them; the validation part is the same for all seeds."
    )
    return "Accuracy of the tutorial's settings on MNIST", note, _table(TUTORIAL)


def _table(trainings: Trainings) -> pd.DataFrame:
    """One thread a training and one training a core: sooner done than one after the other on all cores."""
    configs = [
        TrainConfig.preset(preset, **settings, dataset="mnist", seed=seed, threads=1)
        for preset, settings in trainings
        for seed in range(SEEDS)
    ]
    prepare(configs[0], Home.from_environment())
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        results = pd.DataFrame(pool.map(_train, configs))
    return pd.DataFrame(
        _row(preset, settings, results[start : start + SEEDS])
        for start, (preset, settings) in zip(range(0, len(configs), SEEDS), trainings, strict=True)
    )


def _row(preset: str, settings: dict[str, object], table: pd.DataFrame) -> dict[str, object]:
    hidden = settings.get("hidden", PRESETS[preset].get("hidden", (512,)))
    name = "-".join(map(str, (784, *hidden, 10))) if settings["network"] == "mlp" else "cnn"
    return {
        "preset": preset,
        "network": name,
        "test accuracy, mean": f"{mean(table['test']):.3f} %",
        "± sd": f"{stdev(table['test']):.2f}",
        "lowest to highest": f"{min(table['test']):.2f}–{max(table['test']):.2f}",
        "validation, mean": f"{mean(table['validation']):.2f} %",
        "training, mean": f"{mean(table['training']):.2f} %",
        "epochs, mean": f"{mean(table['epochs']):.1f}",
    }


def _train(config: TrainConfig) -> dict[str, float]:
    prepared = prepare(config, Home.from_environment())
    classes = len(prepared.classes)
    network = build(config, prepared.shape, classes)
    fitted = fit(config, network, prepared.splits, classes)
    card = Card.of(config, prepared, network)
    best = fitted.history[fitted.best_epoch - 1]
    print(config.network, config.hidden, config.optimizer, config.seed, best, flush=True)
    return {
        "test": 100 * evaluate(Classifier(network, card), prepared.splits.test).accuracy,
        "validation": 100 * best.val_accuracy,
        "training": 100 * best.train_accuracy,
        "epochs": len(fitted.history),
    }
