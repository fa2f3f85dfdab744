"""Settings without effect, and classes of the data that differ from those of the live version."""

import pytest

from relearn.flows.training.preconditions import describe_class_change, list_ignored_settings
from relearn.model.config import PRESETS, TrainConfig

LIVE = ("ant", "bee", "cow")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (LIVE, ""),
        (("ant", "bee", "cow", "dog"), "new: dog"),
        (("ant", "bee"), "missing: cow"),
        (
            ("Ant", "bee", "cows"),
            "new: Ant, cows; missing: ant, cow; was ant renamed to Ant?; was cow renamed to cows?",
        ),
        (("ant", "bee", "zebu"), "new: zebu; missing: cow; was cow renamed to zebu?"),
        (("ant", "gnu", "yak"), "new: gnu, yak; missing: bee, cow"),
        (("bee", "ant", "cow"), "another order"),
    ],
)
def test_changes_are_named(classes: tuple[str, ...], expected: str) -> None:
    """New and missing classes, and pairs that may be one class with another name."""
    assert expected == describe_class_change(classes, LIVE)


def test_many_changes_are_shortened() -> None:
    """A thousand new classes make one line."""
    assert len(describe_class_change(tuple(f"class {number}" for number in range(1_000)), LIVE)) < 400


def test_settings_without_effect_on_a_head_are_listed() -> None:
    """Training a head uses few settings; other networks use all of them."""
    given = ["dataset", "seed", "class_weights", "epochs", "augmentation", "significance"]
    assert ["augmentation", "epochs"] == list_ignored_settings("pretrained", given)
    assert [] == list_ignored_settings("mlp", TrainConfig.model_fields)
    assert list_ignored_settings("pretrained", PRESETS["fast"])
