"""Choice of the reference images: test images of the candidate's dataset, or of another one."""

from relearn.flows.feedback.decisions import collect_feedback_images_for_card
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState, record_decision_or_fail
from relearn.flows.terminal.console import print_warning
from relearn.model.config import TrainConfig
from relearn.model.errors import DataError, NotFoundError
from relearn.model.home import Home
from relearn.model.inference.model_card import ModelCard
from relearn.model.preparation.prepared import PreparedDataset, find_prepared, prepare_dataset
from relearn.serving.releases.ledger import Entry
from relearn.serving.releases.store import ReleaseStore


def load_default_reference(card: ModelCard, home: Home) -> ReferenceSet:
    """Load the test images of the data that a classifier was trained on, for its first release.

    Those that were changed or removed since are left out, with a warning.
    """
    prepared = load_training_data(card, home)
    reference, test_count = ReferenceSet.from_prepared(prepared, home), len(prepared.splits.test)
    if missing := test_count - len(reference):
        print_warning(
            f"{prepared.uri}: {missing:,} of {test_count:,} test images have changed since the training, and "
            "are left out of the reference images"
        )
    return reference


def load_training_data(card: ModelCard, home: Home) -> PreparedDataset:
    """Load the data that a classifier was trained on: its prepared copy, also if the source has changed."""
    if kept := find_prepared(card.config, home, card.fingerprint):
        return kept
    prepared = prepare_dataset(card.config, home, collect_feedback_images_for_card(home, card))
    if prepared.fingerprint != card.fingerprint:
        raise DataError(
            f"{prepared.uri} has changed since this classifier was trained on it, and the prepared copy is "
            f"gone: got fingerprint {prepared.fingerprint[:12]}, accepted: {card.fingerprint[:12]}"
        )
    return prepared


def load_compatible(option: str, dataset: str, card: ModelCard, home: Home) -> PreparedDataset:
    """Load `dataset`, which the classifier of `card` can be evaluated on.

    Raises `DataError` if the dataset has other classes or another scale; the error names `option`,
    which has set the dataset.
    """
    channels, height, width = card.shape
    # The size of square images only can be set; others need the shape already.
    size_option = {"image_size": height} if height == width else {}
    prepared = prepare_dataset(
        TrainConfig.parse({"dataset": dataset, "channels": channels, **size_option}), home
    )
    card.check_scale(option, prepared.scale)
    check_classes(option, prepared.classes, card.classes)
    return prepared


def check_classes(subject: str, classes: tuple[str, ...], accepted_classes: tuple[str, ...]) -> None:
    """Raise `DataError` if `subject` has other classes."""
    if classes != accepted_classes:
        got, accepted = (", ".join(names)[:100] for names in (classes, accepted_classes))
        raise DataError(f"{subject}: its classes are {got}, accepted: {accepted}")


def set_reference(home: Home, name: str, dataset: str, reason: str) -> Entry:
    """Freeze the test images of `dataset` as the reference set of model `name`; return the ledger entry.

    Raises `NotFoundError` if no version is live, `DataError` if
    the dataset has other classes.
    """
    releases = ReleaseStore(home.releases_dir(name))
    state = ReleaseState.from_store(releases)
    if state.live is None:
        raise NotFoundError(f"nothing is live as {name!r}: the first release freezes its own test images")
    card = releases.read_card(state.live.version)
    prepared = load_compatible("--reference", dataset, card, home)
    fingerprint = ReferenceSet.from_prepared(prepared, home).save(releases)
    return record_decision_or_fail(
        home,
        name,
        state,
        action="reference",
        subject=fingerprint[:12],
        run_id=state.live.run_id,
        reasons=(reason,),
        fingerprints={"data": prepared.fingerprint, "reference": fingerprint},
        live=state.live.model_copy(update={"margin": 0.0}),  # other images show another loss
        rollback_target=state.previous_version,
    )
