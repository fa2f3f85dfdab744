import pytest

from relearn.model.config import PRESETS, TrainConfig
from relearn.model.errors import ConfigError


def test_every_problem_is_reported_at_once() -> None:
    """A config with several mistakes names each of them, in one go."""
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
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    """A value that no training could use is refused, with its name, what was got and what is accepted."""
    with pytest.raises(ConfigError, match=rf"^{name}.*: got .*, accepted: ") as caught:
        TrainConfig.parse({name: value})
    assert len(caught.value.problems[0]) < 250


def test_values_from_text_are_read() -> None:
    """Flags, environment and files bring text; it becomes numbers, truth values and tuples."""
    config = TrainConfig.parse(
        {"hidden_sizes": ["300", "100"], "batch_norm": "true", "learning_rate": "1e-2"}
    )
    assert ((300, 100), True, 0.01) == (config.hidden_sizes, config.batch_norm, config.learning_rate)


def test_every_preset_is_valid() -> None:
    """Each named set of settings makes a config."""
    for values in PRESETS.values():
        TrainConfig.parse(values)


def test_every_setting_explains_itself() -> None:
    """Each setting has one sentence of help that ends with a full stop."""
    for name, setting in TrainConfig.model_fields.items():
        assert (setting.description or "").endswith("."), name


def test_a_config_survives_json() -> None:
    """What the card keeps of a config gives the same config back."""
    config = TrainConfig(network="cnn", hidden_sizes=(3, 4), model_name="a-b")
    assert config == TrainConfig.model_validate_json(config.model_dump_json())
