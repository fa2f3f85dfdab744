"""Parameters that commands share, and of all settings the group, the short form and the default in help."""

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import BaseModel

from relearn.flows.cli.sources import given_values
from relearn.flows.config import MonitorConfig, PromotionConfig, Settings
from relearn.model.config import PRESETS, SETTING_GROUPS, DataConfig, RetrainConfig, TrainConfig
from relearn.serving.config import ServeConfig

ALIASES = {"learning_rate": "--lr", "epochs": "-e", "batch_size": "-b"}
TABLES = (DataConfig, RetrainConfig, TrainConfig, PromotionConfig, MonitorConfig, ServeConfig, Settings)
GROUPS: dict[str, tuple[type[BaseModel], ...]] = {
    **SETTING_GROUPS,
    "Release gate": (PromotionConfig,),
    "Monitoring": (MonitorConfig,),
    "Server": (ServeConfig,),
}


def format_default(default: object) -> str | None:
    """Return a default as help shows it; None, for no text, if it is nothing or a switch that is off."""
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or None
    if default is None or default is False:
        return None
    return "on" if default is True else str(default)


def _format_setting(name: str, default: object) -> str | None:
    """Return the value that applies without the flag of a setting, with its source."""
    if name not in given_values:
        return "off" if default is False else format_default(default)
    text, source = given_values[name]
    return f"{ {'true': 'on', 'false': 'off'}.get(text.lower(), text) }, from {source}"


def _describe_settings() -> dict[str, Group]:
    """Put each setting into its group of flags, with its short form and its default; return the groups."""
    groups = {}
    for order, (title, members) in enumerate(GROUPS.items(), 1):
        groups[title] = Group(title, sort_key=order)
        for name in (name for member in members for name in member.model_fields):
            show_default = partial(_format_setting, name)
            parameter = Parameter(group=groups[title], alias=ALIASES.get(name), show_default=show_default)
            for table in TABLES:
                if name in table.model_fields:
                    table.model_fields[name].metadata.append(parameter)
    return groups


_groups = _describe_settings()

Json = Annotated[bool, Parameter(negative=(), help="Print one JSON document instead of text.")]
Config = Annotated[TrainConfig, Parameter(name="*")]
Gate = Annotated[PromotionConfig, Parameter(name="*")]
Networks = Annotated[
    tuple[str, ...],
    Parameter(
        name="--network",
        consume_multiple=(1, None),
        show_default=partial(_format_setting, "network"),
        group=_groups["Network"],
        help=f"One or more networks: {str(TrainConfig.model_fields['network'].description).rstrip('.')}; the "
        "best on the validation images is the candidate. Default: pretrained for photos, mlp and cnn for "
        "small images.",
    ),
]
# `apply_sources` follows these two; the commands that have them need not.
SettingsFile = Annotated[Path | None, Parameter(name="--config", help="TOML file with settings.")]
Preset = Annotated[
    str | None, Parameter(name="--preset", help=f"Named set of settings: {', '.join(PRESETS)}.")
]


def build_train_config(config: RetrainConfig | DataConfig, networks: tuple[str, ...]) -> TrainConfig:
    """Return the settings of a training with the first of `networks`; what is not given stays a default."""
    network = {"network": networks[0]} if networks else {}
    return TrainConfig.parse(config.model_dump(exclude_unset=True) | network)
