"""Training settings: validation, text values and presets."""

import pytest

from relearn.model.config import PRESETS, TrainConfig
from relearn.model.errors import ConfigError


def test_all_problems_are_reported_at_once() -> None:
    """One error lists every invalid and unknown setting."""
    with pytest.raises(ConfigError) as caught:
        TrainConfig.parse({"learning_rate": -1, "epochs": 0, "epoch": 3})
    assert [
        "learning_rate: got '-1', accepted: greater than 0",
        "epochs: got '0', accepted: greater than or equal to 1",
        "unknown setting 'epoch', did you mean 'epochs'?",
    ] == list(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", value) for value in (0, -1, float("nan"), float("inf"), 1e9, "fast")]
    + [("momentum", value) for value in (-0.1, 1.0, 2)]
    + [("batch_size", value) for value in (0, -1, 1.5, 10**9)]
    + [("epochs", value) for value in (0, -1, 10**9)]
    + [("patience", value) for value in (0, -1)]
    + [("min_delta", value) for value in (float("nan"), -1)]
    + [("hidden_sizes", value) for value in ([], [0], [10**9], [1] * 17)]
    + [("device", value) for value in ("tpu", "cuda:x", "")]
    + [("seed", value) for value in (-1, 2**64, "x")]
    + [("validation_fraction", value) for value in (0, 1, 1.5)]
    + [("model_name", value) for value in ("", "a/b", "A", "x" * 64, "a\0b", "..")]
    + [("image_size", value) for value in (0, 7, 257)]
    + [("channels", value) for value in (0, 2, 4)],
)
def test_values_out_of_range_are_rejected(name: str, value: object) -> None:
    """The message has the setting, the value and the accepted values, in less than 250 characters."""
    with pytest.raises(ConfigError, match=rf"^{name}.*: got .*, accepted: ") as caught:
        TrainConfig.parse({name: value})
    assert len(caught.value.problems[0]) < 250


def test_text_values_are_converted() -> None:
    """Text from flags, environment and files becomes numbers, booleans and tuples."""
    config = TrainConfig.parse(
        {"hidden_sizes": ["300", "100"], "batch_norm": "true", "learning_rate": "1e-2"}
    )
    assert ((300, 100), True, 0.01) == (config.hidden_sizes, config.batch_norm, config.learning_rate)


def test_every_preset_is_valid() -> None:
    """Each preset gives a config without errors."""
    for values in PRESETS.values():
        TrainConfig.parse(values)


def test_every_setting_has_a_help_text() -> None:
    """Each setting has a help text that ends with a full stop."""
    for name, field in TrainConfig.model_fields.items():
        assert (field.description or "").endswith("."), name


def test_config_is_restored_from_json() -> None:
    """The JSON of a config, as in the model card, gives an equal config."""
    config = TrainConfig(network="cnn", hidden_sizes=(3, 4), model_name="a-b")
    assert config == TrainConfig.model_validate_json(config.model_dump_json())


@pytest.mark.parametrize("name", ["epochs", "early_stopping", "optimizer"])
def test_bytes_that_are_not_utf8_are_named(name: str) -> None:
    """With the meaning of the setting, since no text is meant."""
    with pytest.raises(ConfigError, match=rf"^{name}: got '\\udcff', accepted: valid UTF-8 \("):
        TrainConfig.parse({name: "\udcff"})
