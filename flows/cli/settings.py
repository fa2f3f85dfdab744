"""`relearn config`: the settings as they would be used."""

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from relearn.flows import cli
from relearn.flows.settings import MonitorConfig, ReleaseConfig
from relearn.model.config import TrainConfig


def config(
    *,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),
    gate: Annotated[ReleaseConfig, Parameter(name="*")] = ReleaseConfig(),
    watch: Annotated[MonitorConfig, Parameter(name="*")] = MonitorConfig(),
) -> None:
    """Print the effective settings, and where each comes from."""
    table = Table("setting", "value", "from", "meaning")
    for settings in (config, gate, watch):
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            shown = "" if value is None else str(value)
            table.add_row(name, shown, cli.sources.get(name, "default"), field.description)
    Console().print(table)
