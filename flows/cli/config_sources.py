"""Sources of the settings of the running command."""

config_sources: dict[str, str] = {}
"""Maps each setting that is not a default to its source: `cli` (a flag), variable, file or preset.

`relearn config` prints them.
"""
