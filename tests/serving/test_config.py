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
        allow_host=("a.example", "[::1]"),
        allow_origin=("https://a.example", "http://localhost:8080"),
    )

    assert config == ServeConfig.from_environment(config.to_environment())


def test_empty_environment_gives_the_defaults():
    """A missing or empty variable means the default."""
    assert ServeConfig() == ServeConfig.from_environment({"RELEARN_PORT": "", "PATH": "/bin"})


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "udp://10.0.0.1:53"])
def test_port_of_a_kubernetes_service_is_not_read(value: str):
    """Kubernetes sets `RELEARN_PORT` in every pod, for a service called relearn."""
    assert ServeConfig() == ServeConfig.from_environment({"RELEARN_PORT": value})


def test_lists_are_written_with_commas_or_repeated():
    """Flags, variables and files agree; hosts and origins are compared in lower case."""
    expected = ServeConfig(allow_origin=("https://a.example", "https://b.example"))

    assert expected == ServeConfig(allow_origin="HTTPS://A.example, https://b.example")
    assert expected == ServeConfig(allow_origin=["https://a.example", "https://b.example"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("allow_origin", value) for value in ("*", "null", "https://a/", "https://*.a", "a.example")),
        *(("allow_host", value) for value in ("*", "*.a", "a:80", "https://a", "a b")),
    ],
)
def test_wildcards_and_addresses_are_rejected(setting: str, value: str):
    """The message has the variable, the value and an example."""
    variable = f"RELEARN_{setting.upper()}"

    with pytest.raises(ConfigError, match=rf"{variable}\.0: got .*, accepted: an? .*such as"):
        ServeConfig.from_environment({variable: value})


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
