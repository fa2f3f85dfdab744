"""The checks of `relearn doctor`: one module for the machine, and one for each tool."""
