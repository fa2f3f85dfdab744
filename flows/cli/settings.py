"""`relearn config`: the settings as they would be used."""

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from flows import cli
from model.config import TrainConfig


def config(*, config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig()) -> None:
    """Print the effective settings, and where each comes from."""
    table = Table("setting", "value", "from", "meaning")
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        table.add_row(
            name, "" if value is None else str(value), cli.sources.get(name, "default"), field.description
        )
    Console().print(table)
