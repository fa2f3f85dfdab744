import pytest

from relearn.model.errors import ConfigError
from relearn.serving.config import ServeConfig


def test_every_setting_reaches_a_worker_through_the_environment():
    """What is set here is what BentoML's workers read."""
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


def test_an_empty_environment_gives_the_defaults():
    """Nothing set, or set to nothing, is the default."""
    assert ServeConfig() == ServeConfig.from_environment({"RELEARN_PORT": "", "PATH": "/bin"})


def test_localhost_is_an_address():
    """The one name that everybody writes is understood."""
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
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object):
    """A setting that cannot work is named, with what was got."""
    with pytest.raises(ConfigError) as refused:
        ServeConfig.parse({name: value})

    assert str(refused.value).startswith(f"{name}: got '{value}', accepted: ")


def test_all_problems_are_told_at_once():
    """One look at the message is enough to mend them all."""
    with pytest.raises(ConfigError) as refused:
        ServeConfig.parse({"port": 70_000, "workers": 0, "max_image": 5})

    assert 3 == len(refused.value.problems)
    assert "did you mean 'max_images'?" in str(refused.value)
