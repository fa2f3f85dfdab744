"""Settings of the server."""

import pytest

from relearn.model.errors import ConfigError
from relearn.serving.config import ServeConfig


def test_settings_survive_the_environment():
    """BentoML's workers read the settings that were written to the environment."""
    config = ServeConfig(
        host="0.0.0.0",
        port=1234,
        workers=2,
        max_body_bytes=5000,
        graceful_timeout_seconds=7,
        log_predictions=False,
        image_sample_rate=0.1,
    )

    assert config == ServeConfig.from_environment(config.to_environment())


def test_empty_environment_gives_the_defaults():
    """A missing or empty variable means the default."""
    assert ServeConfig() == ServeConfig.from_environment({"RELEARN_PORT": "", "PATH": "/bin"})


def test_localhost_is_accepted_as_host():
    """The host `localhost` means 127.0.0.1."""
    assert "127.0.0.1" == ServeConfig(host="localhost").host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "example.org"),
        ("port", -1),
        ("port", 70_000),
        ("workers", 0),
        ("workers", 1.5),
        ("max_body_bytes", 10),
        ("max_images", 0),
        ("timeout_seconds", 0),
        ("timeout_seconds", "nan"),
        ("graceful_timeout_seconds", 0),
        ("log_predictions", "perhaps"),
        ("log_max_mb", 1),
        ("image_sample_rate", 1.1),
        ("image_sample_rate", -0.1),
    ],
)
def test_invalid_value_is_rejected_by_name(name: str, value: object):
    """The message names the setting, the value and what is accepted."""
    with pytest.raises(ConfigError) as error_info:
        ServeConfig.parse({name: value})

    assert str(error_info.value).startswith(f"{name}: got '{value}', accepted: ")


def test_all_problems_are_reported_at_once():
    """One error message lists every problem."""
    with pytest.raises(ConfigError) as error_info:
        ServeConfig.parse({"port": 70_000, "workers": 0, "max_image": 5})

    assert 3 == len(error_info.value.problems)
    assert "did you mean 'max_images'?" in str(error_info.value)
