"""Parameters that commands share."""

import re

import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.cli.parameters import build_train_config
from relearn.model.config import DataConfig, RetrainConfig, TrainConfig

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("networks", [(), ("cnn",), ("mlp", "cnn")])
def test_first_network_is_part_of_the_settings(networks: tuple[str, ...]) -> None:
    """Settings that were not given stay defaults, for the data to decide."""
    config = build_train_config(RetrainConfig(epochs=3), networks)
    assert (networks or ("mlp",))[0] == config.network
    assert {"epochs", *(["network"] if networks else [])} == config.model_fields_set


def test_shared_settings_are_all_but_the_network() -> None:
    """A retraining has every setting of a training; a look at the data has those of data and network."""
    assert {"network"} == TrainConfig.model_fields.keys() - RetrainConfig.model_fields.keys()
    assert DataConfig.model_fields.keys() < TrainConfig.model_fields.keys()


def help_of(command: str, capsys: Capture) -> str:
    """Return the help of a command on one line."""
    assert 0 == run_command_line([*command.split(), "--help"])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_help_shows_the_values_that_apply(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """The default, or the value of a preset or variable with its source; that of this command line only."""
    monkeypatch.setenv("RELEARN_PATIENCE", "3")
    assert "[default: 4, from preset fast]" in help_of("train --preset fast", capsys)
    printed = help_of("train", capsys)
    assert "[default: 15]" in printed
    assert "[default: 3, from RELEARN_PATIENCE]" in printed
    assert "preset fast]" not in printed


@pytest.mark.parametrize("python_value", ["(512,)", "()", "None", "True", "False"])
@pytest.mark.parametrize("command", ["run", "serve", "data eda", "doctor"])
def test_defaults_are_not_written_as_in_python(command: str, python_value: str, capsys: Capture) -> None:
    """A list is its items, a switch is on or off."""
    assert f"default: {python_value}" not in help_of(command, capsys)


def test_short_forms_set_the_setting(capsys: Capture) -> None:
    """The forms that people type."""
    assert 2 == run_command_line(["train", "--lr", "99", "-e", "0", "-b", "0"])
    lines = capsys.readouterr().err.splitlines()
    flags = ("--learning-rate", "--batch-size", "--epochs")
    assert [f"error[config]: {flag}" for flag in flags] == [line.split(": got")[0] for line in lines]


@pytest.mark.parametrize(
    ("command", "ignored"),
    [
        ("history", ["--preset", "--config", "--epochs"]),
        ("serve", ["--preset", "--epochs"]),
        ("release", ["--preset", "--epochs"]),
        ("data eda", ["--optimizer", "--epochs", "--preset", "--device"]),
    ],
)
def test_commands_offer_no_setting_that_they_ignore(
    command: str, ignored: list[str], capsys: Capture
) -> None:
    """Neither in the help nor as a flag."""
    printed = help_of(command, capsys)
    for flag in ignored:
        assert not re.search(f"{flag}( -[a-z])? [A-Z]", printed)
        assert 2 == run_command_line([*command.split(), flag, "3"])
        assert f"Unknown option: {flag}" in capsys.readouterr().err


def test_schedule_rejects_settings_without_a_schedule(capsys: Capture) -> None:
    """They would change nothing."""
    assert 2 == run_command_line(["schedule", "--lr", "0.2", "--timezone", "UTC"])
    assert "--learning-rate, --timezone: got no --cron" in capsys.readouterr().err
