"""The origin of each setting of the running verb."""

setting_origins: dict[str, str] = {}
"""Flag, variable, file or preset that set a value, by the name of the setting; `relearn config` prints it."""
