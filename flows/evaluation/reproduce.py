"""A version, trained again from its card alone: the same, close to it, or why it cannot be."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from relearn.flows.console import EpochBar
from relearn.flows.feedback.decisions import collect_extra_images_for_card
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.errors import CorruptDataError, NotFoundError, RelearnError
from relearn.model.evaluation.metrics import evaluate
from relearn.model.evaluation.significance import PairedComparison
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, build_untrained_network
from relearn.model.inference.model_card import ModelCard
from relearn.model.training.fit import fit
from relearn.serving.releases.store import ReleaseStore

LEVEL = 0.05  # p-value below which two classifiers do not answer alike by chance


@dataclass(frozen=True)
class Reproduced:
    """What came of it: `then` and `now` have the metrics, `difference` is the largest one of a weight.

    `agreement` is the share of the test images that both give the same label (0–1); `circumstances` names
    what was not as it was when the version was trained.
    """

    verdict: Literal["identical", "equivalent", "different"]
    difference: float
    agreement: float
    comparison: PairedComparison
    then: dict[str, float]
    now: dict[str, float]
    circumstances: tuple[str, ...]


def reproduce(home: Home, name: str, version: str) -> Reproduced:
    """Train `version` of `name` again on the data that its card names, and compare.

    Feedback that was accepted later does not count: what had joined then is put together again.

    Raises `NotFoundError` where it is not kept, `IntegrityError` where its data is no longer what it was.
    """
    releases = ReleaseStore(home.releases_dir(name))
    folder = releases.version_folder(version)
    if version not in releases.list_versions():
        kept = ", ".join(releases.list_versions()) or "none"
        raise NotFoundError(f"version: got {version!r}, which is not kept as {name}; accepted: {kept}")
    original = Classifier.load(folder)
    card = original.card
    prepared = _data(card, home)
    network = build_untrained_network(card, folder)
    on = {"threads": card.threads or card.config.threads, "device": "cpu" if card.device == "cpu" else "auto"}
    config = card.config.model_copy(update=on)
    with EpochBar(f"{name} {version} again", config.epochs, len(prepared.splits.train)) as bar:
        fitted = fit(config, network, prepared.splits, len(card.classes), on_epoch=bar.advance)
    again = Classifier(network.cpu(), card)
    return _compared(original, again, prepared, _circumstances(card, fitted.device, fitted.threads))


def _data(card: ModelCard, home: Home) -> PreparedDataset:
    try:
        prepared = prepare_dataset(card.config, home, collect_extra_images_for_card(home, card))
    except RelearnError as error:
        raise CorruptDataError(f"it cannot be reproduced, its data is not to be had: {error}") from None
    if prepared.fingerprint != card.fingerprint:
        raise CorruptDataError(
            f"it cannot be reproduced, {prepared.uri} has changed since: got fingerprint "
            f"{prepared.fingerprint[:12]}, accepted: {card.fingerprint[:12]}"
        )
    return prepared


def _circumstances(card: ModelCard, device: str, threads: int) -> tuple[str, ...]:
    now = {"torch": torch.__version__, "device": device, "threads": threads}
    then = {name: getattr(card, name) for name in now}
    return tuple(f"{name} {now[name]}, then {then[name]}" for name in now if now[name] != then[name])


def _compared(
    original: Classifier, again: Classifier, prepared: PreparedDataset, circumstances: tuple[str, ...]
) -> Reproduced:
    before, after = (evaluate(one, prepared.splits.test) for one in (original, again))
    comparison = PairedComparison.from_correct(after.correct, before.correct)
    difference = _difference(original, again)
    verdict: Literal["identical", "equivalent", "different"] = (
        "equivalent" if comparison.p_value >= LEVEL else "different"
    )
    labels = [one.predict(prepared.splits.test.images).argmax(1) for one in (original, again)]
    return Reproduced(
        verdict="identical" if difference == 0 else verdict,
        difference=difference,
        agreement=float(np.mean(labels[0] == labels[1])),
        comparison=comparison,
        then=before.metrics,
        now=after.metrics,
        circumstances=circumstances,
    )


def _difference(original: Classifier, again: Classifier) -> float:
    """The largest difference of any value in the two networks; 0 where they are equal bit for bit."""
    one, other = original.network.state_dict(), again.network.state_dict()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
