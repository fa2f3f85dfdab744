"""`relearn config`: the settings as they would be used."""

import re
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relearn.flows import cli
from relearn.flows.environment import honored, masked
from relearn.flows.settings import MonitorConfig, ReleaseConfig
from relearn.model.config import TrainConfig
from relearn.serving.settings import ServeConfig

SECRET = re.compile("KEY|TOKEN|PASSWORD|AUTH|HEADERS")  # in the name of a variable


def config(
    *,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),
    gate: Annotated[ReleaseConfig, Parameter(name="*")] = ReleaseConfig(),
    watch: Annotated[MonitorConfig, Parameter(name="*")] = MonitorConfig(),
    server: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
) -> None:
    """Print the effective settings with their origin, and the variables of the tools that have an effect."""
    table = Table("setting", "value", "from", "meaning")
    for settings in (config, gate, watch, server):
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            shown = "" if value is None else str(value)
            table.add_row(name, shown, cli.sources.get(name, "default"), field.description)
    console = Console()
    console.print(table)
    if variables := honored():
        others = Table("variable", "value", title="set by others, and of effect here")
        for name, value in variables.items():
            others.add_row(name, "…" if SECRET.search(name) else escape(masked(value)))
        console.print(others)
