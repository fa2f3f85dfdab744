"""Origins of the settings of the running verb."""

setting_origins: dict[str, str] = {}
"""Flag (`cli`), variable, file or preset by the setting that it has set; `relearn config` prints it."""
